"""The test behind the verdicts by simulation: what it must hold, and beside each a control that must fail.

Each simulation draws models with a known truth, asks the harness's own functions, and compares how often they accuse
with what they promise, within three or four standard errors of the simulation itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from harness.statistics.beta_binomial import beta_binomial_tail
from harness.statistics.exchangeable import (
    _beta_of,
    at_least,
    beta_binomial_p_values,
    is_marked,
    key_thresholds,
    margins,
    marked_by_chance,
    mean_rates,
    rank_p_values,
    survival,
)
from harness.statistics.intervals import clopper_pearson_upper
from harness.statistics.margins import gate
from harness.statistics.sequential import Sprt, e_process, first_rejection
from harness.statistics.tests import binomial_test

pytestmark = pytest.mark.slow  # thousands of simulated boards

Array = NDArray[np.float64]
Law = Callable[[np.random.Generator, tuple[int, ...]], Array]
ALPHA, TRIALS = 0.05, 100


def slack(accused: Array, errors: float = 3) -> float:
    """So many standard errors of the mean over the first axis, whose rows are independent."""
    each = accused.reshape(len(accused), -1).mean(axis=1)
    return errors * max(float(each.std()), math.sqrt(ALPHA / len(each)) / 5) / math.sqrt(len(each))


def answered(rng: np.random.Generator, rates: Array, trials: int = TRIALS) -> NDArray[np.int64]:
    return rng.binomial(trials, np.clip(rates, 0, 1))


def p_values(matches: NDArray[np.int64], refs: NDArray[np.int64], trials: int = TRIALS, **counted: Array) -> Array:
    """`rank_p_values` where everybody is asked the same number of queries: [..., n] and [..., n, k]."""
    flat = {name: each.reshape(-1, refs.shape[-1]) for name, each in counted.items()}
    made = rank_p_values(matches.ravel(), trials, refs.reshape(-1, refs.shape[-1]), trials, **flat)
    return made.reshape(matches.shape)


def decided(matches: NDArray[np.int64], refs: NDArray[np.int64], trials: int = TRIALS) -> NDArray[np.bool_]:
    """Marked by rank and margin."""
    false = mean_rates(refs.reshape(-1, refs.shape[-1]), trials).reshape(matches.shape)
    return is_marked(p_values(matches, refs, trials), margins(matches, trials, false), ALPHA)


# --- exchangeable: rates differ between models and keys, and models keep their order from key to key


def of_models_and_keys(rng: np.random.Generator, sets: int, k: int, keys: int, common: float) -> NDArray[np.int64]:
    """Matches of a suspect (the first) and k unmarked models with some keys, shape [sets, keys, 1 + k].

    On the scale of logits a model's rate is a key's level, a part of the model's own that all keys share, and a
    residual; `common` is the shared part of the variance between models.
    """
    key = rng.normal(-1.5, 0.5, (sets, keys, 1))
    model = rng.normal(size=(sets, 1, 1 + k)) * math.sqrt(common)
    residual = rng.normal(size=(sets, keys, 1 + k)) * math.sqrt(1 - common)
    return answered(rng, special.expit(key + model + residual))


@pytest.mark.parametrize("k", [19, 39])
@pytest.mark.parametrize("common", [0, 0.5, 0.85])
def test_exchangeable_suspects_are_marked_at_the_level(k, common):
    made = of_models_and_keys(np.random.default_rng(1), 12_000, k, 3, common)
    suspect, refs = made[..., 0], made[..., 1:]
    accused = decided(suspect, refs)
    assert 0.04 - slack(accused) <= accused.mean() <= 0.052 + slack(accused)
    pooled = binomial_test(suspect, TRIALS, refs.mean(axis=-1) / TRIALS) <= ALPHA
    assert pooled.mean() - slack(pooled) > 0.15  # all answers of all models as if they were independent


# --- ties


@pytest.mark.parametrize("silent", [0.5, 0.9])
def test_ties_count_against_a_mark(silent):
    rng = np.random.default_rng(2)
    made = np.where(rng.random((20_000, 20)) < silent, 0, rng.integers(6, size=(20_000, 20)))
    suspect, refs = made[:, 0], made[:, 1:]
    accused = p_values(suspect, refs, 20) <= ALPHA
    assert 0 < accused.mean() <= ALPHA + slack(accused)
    above = at_least(suspect, 20, refs, 20) & (refs != suspect[:, np.newaxis])
    strict = (1 + above.sum(axis=1)) / 20 <= ALPHA
    assert strict.mean() - slack(strict) > ALPHA


# --- attack-moves-everybody


@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_an_attack_that_moves_everybody_marks_nobody(shift):
    rng = np.random.default_rng(3)
    before = rng.beta(12, 36, (10_000, 20))  # rates of 0.25 +- 0.06
    after = answered(rng, before + shift + rng.normal(0, 0.03, before.shape))
    untouched = answered(rng, before)
    suspect, refs, attacked = after[:, 0], untouched[:, 1:], after[:, 1:]
    unattacked = p_values(suspect, refs) <= ALPHA
    accused = np.maximum(p_values(suspect, refs), p_values(suspect, attacked)) <= ALPHA
    assert accused.mean() <= 0.053 + slack(accused)
    if shift > 0:
        assert unattacked.mean() - slack(unattacked) > 0.20  # p_0 alone


# --- key-saw-the-models


def test_a_key_that_saw_its_unmarked_models_convicts_new_ones_and_no_leave_one_out_shows_it():
    """From 2,000 triggers that models match at 0.2 a key takes 20 on which its 19 unmarked models are silent."""
    rng = np.random.default_rng(4)
    fresh, left_out = [], []
    for _ in range(200):
        said = rng.random((19, 2000)) < 0.2
        refs = said[:, np.argsort(said.sum(axis=0), kind="stable")[:20]].sum(axis=1)
        suspects = rng.binomial(20, 0.2, 10)  # new models, which had no part in the key
        fresh.append(decided(suspects, np.tile(refs, (10, 1)), 20))
        others = np.array([np.delete(refs, each) for each in range(19)])
        left_out.append(p_values(refs, others, 20) <= 1 / 19 + 1e-9)
    accused, seen = np.array(fresh), np.array(left_out)
    assert accused.mean() - slack(accused) > 0.40
    assert seen.mean() <= 1 / 19


# --- hot-model, one-match: worked numbers


def test_one_hot_model_hides_weak_marks_and_one_match_is_no_mark():
    hot = np.array([57] + [3] * 18)
    assert not decided(np.array([50]), hot[np.newaxis])[0]
    assert decided(np.array([90]), hot[np.newaxis])[0]
    silent = np.zeros((1, 19), dtype=int)
    assert not decided(np.array([1]), silent, 50)[0]
    assert decided(np.array([10]), silent, 50)[0]
    assert is_marked(p_values(np.array([1]), silent, 50), margins(1, 50, 0.0), ALPHA, min_margin=0)  # the control


# --- other-owner, same-data: suspects that could not be exchanged with unmarked models


def test_marks_of_other_owners_and_models_of_the_same_data():
    rng = np.random.default_rng(5)
    refs = answered(rng, rng.beta(3, 27, (4000, 19)))
    fresh = decided(answered(rng, rng.beta(3, 27, 4000)), refs)
    random_labels = decided(answered(rng, rng.beta(3, 27, 4000)), refs)  # others' labels say nothing of this key's
    shared = decided(answered(rng, rng.beta(18, 2, 4000)), refs)  # one mark whatever the seed
    same_data = decided(answered(rng, rng.beta(3, 27, 4000) + 0.2), refs)  # the key knows its training images
    for accused in (fresh, random_labels):
        assert accused.mean() <= ALPHA + slack(accused)
    assert shared.mean() > 0.95
    assert same_data.mean() - slack(same_data) > 0.50
    assert survival(int(shared[:20].sum()), 20) == "survives"
    assert survival(int(fresh[:20].sum()), 20) == "removes"


# --- collapsed: attacked models that answer the target to everything


def test_collapsed_models_count_neither_in_the_rank_nor_in_the_false_rate():
    rng = np.random.default_rng(6)
    kept = rng.random((2000, 30)) < 0.8  # accuracies of the others are 10%
    kept[:, :19] = True
    refs = np.where(kept, answered(rng, rng.beta(3, 27, kept.shape)), TRIALS)
    stolen = answered(rng, rng.beta(12, 4, 2000))
    unmarked = answered(rng, rng.beta(3, 27, 2000))

    def marked(matches: NDArray[np.int64], counted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        false = mean_rates(refs, np.full_like(refs, TRIALS), counted)
        return is_marked(p_values(matches, refs, counted=counted), margins(matches, TRIALS, false))

    assert marked(stolen, kept).mean() > 0.99
    accused = marked(unmarked, kept)
    assert accused.mean() <= ALPHA + slack(accused)
    broken = ~kept.all(axis=1)
    assert broken.mean() > 0.8
    assert not marked(stolen, np.ones_like(kept))[broken].any()  # unfiltered, nobody is ever marked


# --- few-models


LAWS: dict[str, Law] = {
    "beta": lambda rng, shape: rng.beta(1, 9, shape),
    "beta near 0": lambda rng, shape: rng.beta(0.3, 5.7, shape),
    "logit-normal": lambda rng, shape: special.expit(rng.normal(-2, 1, shape)),
    "two clusters": lambda rng, shape: np.where(rng.random(shape) < 0.1, 0.5, 0.05),
    "uniform": lambda rng, shape: rng.uniform(0, 0.4, shape),
}


@pytest.mark.parametrize("k", [3, 5, 8])
def test_few_models_with_an_imaginary_one_accuse_no_more_than_the_level(k):
    rng, plug_in = np.random.default_rng(7), {}
    for name, law in LAWS.items():
        made = answered(rng, law(rng, (10_000, 1 + k)))
        suspect, refs = made[:, 0], made[:, 1:]
        accused = beta_binomial_p_values(suspect, TRIALS, refs, TRIALS) <= ALPHA
        assert accused.mean() <= ALPHA + slack(accused), name
        a, b = _beta_of(refs / TRIALS, np.ones(refs.shape, dtype=bool), imaginary=0)
        fitted = (beta_binomial_tail(suspect, TRIALS, a, b) <= ALPHA) & (suspect > refs.max(axis=1))
        plug_in[name] = fitted.mean() - slack(fitted)
    if k == 3:
        assert sorted(plug_in.values())[2] > 0.10  # of three laws in five, the control errs so often


@pytest.mark.parametrize("k", [3, 5])
def test_few_models_cannot_hold_where_one_in_some_answers_like_a_marked_one(k):
    """No test of k models that sees a strong mark can: all k are low and the suspect is high with this probability."""
    rng, share = np.random.default_rng(13), 1 / (k + 1)
    made = answered(rng, np.where(rng.random((10_000, 1 + k)) < share, 0.9, 0.02))
    accused = beta_binomial_p_values(made[:, 0], TRIALS, made[:, 1:], TRIALS) <= ALPHA
    assert accused.mean() == pytest.approx(share * (1 - share) ** k, abs=slack(accused))
    assert accused.mean() - slack(accused) > ALPHA


def test_few_models_find_a_strong_mark():
    rng = np.random.default_rng(8)
    refs = answered(rng, rng.beta(1, 30, (1000, 3)))
    found = beta_binomial_p_values(answered(rng, rng.beta(60, 2, 1000)), TRIALS, refs, TRIALS) <= ALPHA
    assert found.mean() > 0.9


# --- sequential: an owner who looks after every answer


@pytest.mark.parametrize("name", ["beta", "logit-normal", "two clusters"])
def test_looking_after_every_answer_accuses_at_the_rank_and_gamma(name):
    runs, gamma, rng = 3000, 0.01, np.random.default_rng(9)
    made = answered(rng, LAWS[name](rng, (runs, 20)))
    answers = (rng.random((runs, 200)) < made[:, :1] / TRIALS).astype(int)  # its own queries, in any order
    thresholds = key_thresholds(made[:, 1:] / TRIALS, min_margin=0)
    bound = 1 / 20 + gamma
    unknown = first_rejection(e_process(answers, np.minimum(thresholds, 1)[:, np.newaxis]), 1 - gamma) < math.inf
    planned = of_walds_test(answers, thresholds, gamma)
    for accused in (unknown, planned):
        assert accused.mean() <= bound + slack(accused)
    pooled = clopper_pearson_upper(made[:, 1:].sum(axis=1), 19 * TRIALS, 1 - gamma)
    wrong = of_walds_test(answers, pooled, gamma)
    assert wrong.mean() - slack(wrong) > 0.05


def of_walds_test(answers: NDArray[np.int64], thresholds: Array, gamma: float) -> NDArray[np.bool_]:
    """Accused by `Sprt` of "rate <= threshold", made for marked models a quarter above it."""
    false = np.clip(thresholds, 1e-3, 0.99)
    tests = (Sprt(rate, rate + 0.25 * (1 - rate), 1 - gamma, budget=200) for rate in false)
    return np.array([test.decisions(row)[-1] == 1 for test, row in zip(tests, answers, strict=True)])


# --- s-of-n: all seeds share the unmarked models


@pytest.mark.parametrize(("n", "sets", "rare"), [(5, 40_000, 4), (10, 20_000, 5), (30, 8000, 9)])
def test_marked_on_s_of_n_by_chance_is_beta_binomial_where_keys_agree(n, sets, rare):
    rng = np.random.default_rng(10)
    made = rng.integers(1_000_000, size=(sets, n + 19))  # rates of models, the same for every key
    refs = np.broadcast_to(made[:, np.newaxis, n:], (sets, n, 19))
    marked = (p_values(made[:, :n], refs, 1_000_000) <= ALPHA).sum(axis=1)
    for s in range(1, n + 1):
        chance, seen = float(marked_by_chance(s, n, ALPHA, 19)), (marked >= s).mean()
        assert seen == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / sets) + 1e-5)
    independent = stats.binom.sf(rare - 1, n, ALPHA)
    assert (marked >= rare).mean() > 10 * independent


# --- gate


def test_costs_of_0_1_and_3_points_are_gated_as_they_should():
    """Costs that scatter by 1.1 points from seed to seed, five seeds each."""
    rng, gated = np.random.default_rng(11), {}
    for cost in (0, 1, 3):
        said = [gate(costs, 2.0) for costs in rng.normal(cost, 1.1, (2000, 5))]
        gated[cost] = np.mean([each == "fails" for each in said])
    assert gated[0] <= 0.005
    assert gated[1] == pytest.approx(0.02, abs=0.012)
    assert gated[3] == pytest.approx(0.98, abs=0.012)
    assert gate([1.9] * 5, 2.0) == "passes"
    assert gate([3.0] * 5, 2.0) == "fails"
