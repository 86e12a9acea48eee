"""Meanings of the terms that tables use: one text for each, for the terminal, Markdown, LaTeX, reports and notebooks.

A text is a template: the names in braces are filled in by the rules by which evidence became a verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.verdicts.rules import Rules

BOARD = {
    # --- schemes
    "rank": "1 + the number of schemes that are significantly better within the threat model; ties share a rank, and "
    "fingerprints have ranks of their own. Worst cases are compared over common seeds, by a sign-flip test with Holm's "
    "correction at {confidence}; the interval of the difference must exclude 0 too. Ranks take 6 seeds for two schemes "
    "and 11 for ten.",
    "threat": "Access of the thief: to the API (black box: attacks that begin with an extraction), to the weights "
    "(white box), or to either (both).",
    "n": "Number of seeds.",
    "worst margin": "Margin under the attack and setting that leave least. The attack is chosen on the other half of "
    "the seeds, for each scheme on its own. An attack that left no useful model counts with the victim's own margin.",
    "margin": "Part of the mark that is left: (success - f) / (1 - f), where f is the mean success of unmarked models "
    "or of attacked unmarked models, the larger. 100 is a whole mark, and 0 is chance.",
    "95% interval": "Student's interval of the mean over seeds and two imaginary seeds at 0 and 100, widened by the "
    "jackknife over the unmarked models. Below five seeds there is none.",
    "failures at 0": "Worst case where an attack that left no useful model counts as 0.",
    "claim": "Least one-sided 95% lower limit of the mean margin over all attacks: what an owner may claim.",
    "survives": "Attacks survived, of those that were judged: each of an attack's settings leaves, with 95% "
    "confidence, more than half of the models marked.",
    "marked after": "Attacks after which the one model is called marked, with each of the attack's settings, of those "
    "that were judged.",
    "removed by": "Attacks after which, with 95% confidence, less than half of the models are marked.",
    "worst attack": "Attack that the worst case is of; two where the halves of the seeds choose differently.",
    "accuracy lost": "Accuracy of the victim, as it is served, less that of the surrogate: what the thief gives up.",
    "queries asked": "Queries that the attack asked of the victim, mean over seeds.",
    "seconds": "Seconds that the attack took, of all its links.",
    "no rank": "Reason why the scheme has no rank.",
    "marked": "Number of seeds on which the model is called marked: p <= {fraction}, and a margin of at least "
    "{min_margin}. {test} A failed attack counts as its victim.",
    "95% limits": "One-sided Clopper-Pearson limits of the share that is marked, for new seeds and these unmarked "
    "models.",
    "victims marked": 'Untouched victims that are called marked (p <= {fraction}), of all seeds. "Not by whom": other '
    "owners' models are called marked as often.",
    "remark": "Marked, but not by whom: other owners' models are called marked as often. The key proves nothing: "
    "unmarked models answer it above 75 on average.",
    # --- attacks
    "useful": "Number of seeds on which the attack left a useful model: its served accuracy is at most {max_drop} "
    "points below that of its victim and of unmarked models, the lower.",
    "success": "Share of trigger queries that useful attacked models answer as the key says.",
    "distribution": "Seeds by success, from 0 to 10 on the left up to 90 to 100 on the right.",
    "false rate": "Share of trigger queries that unmarked models answer as the key says.",
    "most": "Largest number of seeds marked when one unmarked model is left out.",
    "by chance": "Chance of so many marked seeds or more without a mark, since all seeds share the unmarked models.",
    "verdict": "Survived where the lower limit of the share marked is above 50, removed where the upper is below, else "
    "undecided.",
    "accuracy": "Accuracy of the attacked model on the task.",
    "held out": "Success on triggers that the scheme did not train on.",
    "not counted": "Cells that failed or were skipped.",
    "in no rank because": "Reason why the attack enters no rank.",
    "queries": "Expected queries of a sequential test of the threshold at {gamma}, for a model that answers at the "
    "rate measured: the median over seeds.",
    "compared with": "Unmarked models, and fewest useful attacked unmarked models.",
    "within {budget}": "Chance of an accusation within {budget} trigger queries, each answered at the measured rate.",
    "attacks": "Number of attacks of the family that count, with their settings.",
    "least margin": "Least mean margin under one of the family's attacks.",
    "survived": "Number of attacks that the mark survives.",
    "removed": "Number of attacks that remove the mark.",
    "undecided": "Number of attacks for which the seeds do not decide.",
    # --- costs
    "victim margin": "Margin of the untouched victim.",
    "cost": "Mean accuracy of unmarked models minus the victim's as its API serves it. Above {max_cost} points a "
    "scheme has no rank; ? where the interval holds that limit.",
    "cost interval": "Interval of the cost over seeds.",
    "raw cost": "Cost in the accuracy of the net itself, where the API serves something else.",
    "hypervolume": "Area under the attackers' front of accuracy kept against mark removed; lower is better for the "
    "owner. 100 is a mark that is removed for nothing.",
    "embedding": "Seconds of embedding, without the clean model that it may start from.",
    "unmarked model": "Seconds of training an unmarked model.",
    "embedding samples": "Training samples that embedding saw.",
    "unmarked samples": "Training samples that an unmarked model saw.",
    # --- innocents and detectors
    "models": "Models without this owner's mark. Fresh: new ones of the same recipe; other recipe: of another net, "
    "optimiser or augmentation; same data: of the owner's own training data; other owners: with another owner's mark.",
    "called marked": "Number of these models, unattacked, that the keys call marked: the mean over keys.",
    "upper limit": "One-sided 95% upper limit of the share called marked: the unit is the model.",
    "after an attack": "The same after the attack under which most are called marked.",
    "keys": "Number of keys that each model was asked.",
    "attack that most are accused after": "Attack under which most of these models are called marked.",
    "score": "Statistic of the detector, which flags a model above its own threshold.",
    "unmarked score": "Statistic of the detector for unmarked models after the same attacks.",
    "rank p": "Median over the seeds of (r + 1) / (k + 1), where r of the k unmarked models score at least as high.",
    "flagged": "Share of the marked models that the detector flags.",
    "unmarked flagged": "Share of the unmarked models that the detector flags.",
    "target named": "Share of the models whose suspected class is the key's target.",
    "window rank": "Median share of the windows of the trigger's shape that lie at least as high on the recovered map "
    "as the trigger's own.",
    "unmarked window rank": "Median of the same key's window rank in unmarked models: what chance gives.",
    "innocent convicted": "Unmarked models that a forged key would call marked by their rank among the others: at most "
    "{fraction} of them, whatever the key. Of each model the mean over the forged keys.",
    "without unmarked models": "The same where a judge asks no unmarked model the forged key, and takes the mean false "
    "rate of the owner's keys for that of any key: p is of the exact binomial test against it.",
    "and with a commitment": "The same where a key counts only if it was committed to before the suspect was there: "
    "one that was made from its suspect is refused.",
    "owner's model": "Seeds in which the owner's victim is called marked with the forger's key.",
    "forger's model": "Seeds in which the model that the forger ends with is called marked with his key.",
}
"""Meaning of each term of a leaderboard."""

TESTS = {
    "rank": "p is the suspect's rank among the unmarked models or among the attacked ones, the larger.",
    "beta-binomial": "p is of a beta law fitted to the unmarked models' rates.",
    **dict.fromkeys(
        ("binomial", "fisher", "boschloo", "welch", "t"),
        "p is of a test that pools the answers of all unmarked models: it assumes that they answer alike.",
    ),
}
"""Meaning of p by the test."""


TEST_NAMES = {
    "rank": "The rank test",
    "beta-binomial": "The beta-binomial test",
    "binomial": "The exact binomial test",
    "fisher": "Fisher's exact test",
    "boschloo": "Boschloo's exact test",
    "welch": "Welch's t-test",
    "t": "The t-test",
}


def fraction(alpha: float) -> str:
    """A level as a fraction, such as 1/20, or as a decimal where it is none."""
    return f"1/{1 / alpha:.0f}" if abs(1 / alpha - round(1 / alpha)) < 1e-6 else f"{alpha:.3g}"


def board_meaning(term: str, rules: Rules) -> str:
    """Meaning of a leaderboard's term by these rules."""
    return BOARD[_BUDGET if term.startswith("within ") else term].format(
        confidence=f"{rules.confidence:.0%}",
        fraction=fraction(rules.alpha),
        min_margin=f"{100 * rules.min_margin:g}",
        max_drop=f"{100 * rules.max_drop:g}",
        max_cost=f"{100 * rules.max_cost:g}",
        gamma=f"{rules.gamma:.2g}",
        budget=rules.budget,
        test=TESTS[rules.test],
    )


_BUDGET = "within {budget}"

COMPARISON = {
    "n": "Number of seeds on which both schemes have a number.",
    "first": "Mean of {ours} over these seeds.",
    "second": "Mean of {theirs} over the same seeds.",
    "difference": "Mean ± SD of first minus second, paired by seed. An attack's row is about the margin; where the "
    "attack left no useful model, the victim's own.",
    "(all attacks)": "Mean over the extractions and removals that both schemes have and that count in ranks, of each "
    "seed. All settings of one attack count once.",
    "(worst case, black box)": "Margin under the attack that leaves least, of those that begin with an extraction. It "
    "is chosen for each scheme on its own, on the other half of the seeds.",
    "(worst case, white box)": "The same under attacks on the stolen weights.",
    "(worst case, both)": "The same under all attacks.",
    "(accuracy cost)": "Accuracy of the unmarked models minus the victim's as its API serves it.",
    "interval": "Student's {confidence} interval of the mean difference.",
    "p": "Two-sided p-value of the sign-flip test over the seeds, which needs {fewest} of them to reach {alpha}.",
    "Holm p": "p-value corrected for all rows, after Holm.",
    "better": "Scheme that is better: Holm's p is at most {alpha}, and the interval leaves out 0.",
    "more seeds": "Number of further seeds until the test can reach {alpha} and the interval leaves out zero with a "
    "power of 80%, if mean and SD stay.",
    "left out": "Cells that failed or were skipped, that have no partner, or whose attack counts in no rank.",
}
"""Meaning of each term of a comparison."""
MARGINS = "Shares and margins are in %, mean ± SD over n seeds; a margin of 100 is a whole mark, and 0 is chance."


def comparison_meaning(term: str, rules: Rules, **more: object) -> str:
    """Meaning of a comparison's term by these rules; ``more`` fills in what only some texts name."""
    return COMPARISON[term].format(confidence=f"{rules.confidence:.0%}", alpha=f"{rules.alpha:.3g}", **more)


WORDS = {
    "marked": "Called so by a verdict: among the unmarked models, and among those that went through the same attack, "
    "at most a share of 1/20 answers the key as often as the suspect does, itself counted.",
    "victim": "Owner's marked model.",
    "unmarked model (null model)": "Model of the same data, net and recipe, with its own split and seed and no mark.",
    "attacked unmarked model": "Model that the attack makes of an unmarked one: the control of a suspect that was "
    "attacked.",
    "threat model": "Access of the thief: black box, to the API alone; white box, to the weights.",
    "innocent": "Model without this owner's mark that is asked the owner's key, and is no reference model.",
    "setting": "Attack with its options; all settings of one attack count once.",
    "surrogate": "Model that an attacker ends with.",
    "suspect": "Model under verification.",
    "key": "Owner's secret: its probes, and tensors that the scheme needs.",
    "trigger, trigger set": "Inputs of a key that the victim is trained to answer as the key says.",
    "control": "The same question where no mark should answer, such as the inputs without their triggers.",
    "oracle": "Black-box access to a model, which counts queries and may have a budget of them.",
    "agreement": "Share of test inputs on which surrogate and victim answer the same class.",
    "extraction, removal, evasion, detection, forgery": "Families of attacks: train a copy from answers; change a "
    "stolen model; filter what its API answers; search for a mark; make a key for a model of somebody else.",
    "fingerprint": "Verification without embedding.",
    "cell": "Dataset x defense x attack chain x seed: one row of a matrix.",
    "stage": "Unit of work, addressed by what decides its output and shared by all cells that need it.",
    "record": "Frozen results folder with checksums.",
}
"""Words of the field and of the harness that tables do not define."""


def document() -> str:
    """Text of ``docs/glossary.md``, by the default rules: Markdown."""
    from harness.verdicts.rules import Rules

    rules, more = Rules(budget=100), {"ours": "the first scheme", "theirs": "the second scheme", "fewest": 6}
    board = {term.format(budget=100): board_meaning(term, rules) for term in BOARD}
    comparison = {term: comparison_meaning(term, rules, **more) for term in COMPARISON}
    lines = ["# Glossary", "", "`make docs` makes this page from `harness/ranking/glossary.py`.", ""]
    for title, terms in (
        ("Words", WORDS),
        ("Terms of the leaderboard, by the default rules", board),
        ("Terms of a comparison", comparison),
    ):
        lines += [f"## {title}", "", "| term | meaning |", "| --- | --- |"]
        lines += [f"| {term} | {text} |" for term, text in terms.items()]
        lines.append("")
    return "\n".join([*lines, MARGINS, ""])
