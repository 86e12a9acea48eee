"""The parsers: whatever is typed or written in a file gives a matrix or a UsageError, never anything else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.errors import MatrixError, UnknownName, UsageError
from harness.planning.matrix import (
    MAX_SEEDS,
    Entry,
    choose,
    expand,
    format_chain,
    load_matrix,
    option_of,
    parse_chain,
    parse_entry,
    parse_seeds,
    presets,
)
from harness.planning.registry import Registry, load_registry, resolve

law = settings(deadline=None, max_examples=60, database=None, derandomize=True)

PRESETS = ["audit", "full", "paper", "quick", "schemes", "smoke", "standard"]

names = st.text("abYZ09_.*?-", min_size=1, max_size=8)
keys = st.text("abYZ_", min_size=1, max_size=6)
words = st.text(st.characters(exclude_characters="[],|"), max_size=6).map(str.strip)


@st.composite
def entries(draw: st.DrawFn, depth: int = 1) -> Entry:
    """Entries whose values may be entries themselves."""
    values = words | entries(depth=depth - 1).map(str) if depth else words
    return Entry(draw(names), tuple(draw(st.lists(st.tuples(keys, values), max_size=3))))


def toml(value: object) -> str:
    """``value`` in TOML's inline syntax, which is JSON's but for tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


def matrix_file(folder: Path, text: str | None = None, **values: object) -> str:
    """A matrix file of ``text``, or of one entry an axis and ``values``; its path."""
    path = folder / "mine.toml"
    given = {"datasets": ["digits"], "defenses": ["ewe"], "attacks": ["none"]} | values
    lines = [f"{key} = {toml(value)}" for key, value in given.items()]
    path.write_text("\n".join(lines) if text is None else text, "utf-8")
    return str(path)


def texts(items: Any) -> list[str]:
    """Entries or chains, as text."""
    return [format_chain(item) if isinstance(item, tuple) else str(item) for item in items]


@pytest.fixture(scope="module")
def builtin() -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HARNESS_PLUGINS", raising=False)
        yield load_registry()


# --- entries and chains ---


@law
@given(entries())
def test_an_entry_is_read_back_from_its_own_text(entry: Entry) -> None:
    assert parse_entry(str(entry)) == entry
    assert parse_entry(f"  {entry}\n") == entry


@law
@given(st.lists(entries(), min_size=1, max_size=4))
def test_a_chain_is_read_back_from_its_own_text(links: list[Entry]) -> None:
    assert parse_chain(format_chain(links)) == tuple(links)
    assert parse_chain("|".join(map(str, links))) == tuple(links)


@law
@given(st.text() | st.text("ab=,[]|* \n", max_size=12))
def test_any_text_is_an_entry_and_a_chain_or_a_usage_error(text: str) -> None:
    for parse in (parse_entry, parse_chain):
        try:
            parsed = parse(text)
        except UsageError as error:
            assert "\n" not in str(error)
        else:
            assert parsed


def test_brackets_nest() -> None:
    entry = parse_entry("retraining[architecture=mlp[width=64,depth=2],answers=probabilities]")
    assert entry == Entry("retraining", (("architecture", "mlp[width=64,depth=2]"), ("answers", "probabilities")))
    assert parse_chain("retraining[architecture=mlp[a=b|c]] | pruning")[1] == Entry("pruning")


def test_spaces_mean_nothing_and_a_value_may_be_empty() -> None:
    assert parse_entry(" ewe [ weight = 64 , ratio=2 ]") == parse_entry("ewe[weight=64,ratio=2]")
    assert parse_entry("digits[ood=]") == Entry("digits", (("ood", ""),))
    assert parse_entry("a[b=c=d]") == Entry("a", (("b", "c=d"),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected NAME"),
        ("two words", "expected NAME"),
        ("[a=1]", "expected NAME"),
        ("ewe[weight=64", "bracket is not closed"),
        ("ewe[weight=64] x", "bracket is not closed"),
        ("ewe[a=b]]", "bracket is closed that was not opened"),
        ("ewe[a=mlp[b=1]", "bracket is not closed"),
        ("ewe[]", "expected option=value"),
        ("ewe[weight]", "expected option=value"),
        ("ewe[a=1,]", "expected option=value"),
        ("ewe[=1]", "expected option=value"),
        ("ewe[2a=1]", "expected option=value"),
    ],
)
def test_a_malformed_entry_says_what_was_expected(text: str, said: str) -> None:
    with pytest.raises(UsageError, match="cannot read") as caught:
        parse_entry(text)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "|", "a | ", "a || b", "a | b[c", "a] | b"])
def test_a_malformed_chain_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        parse_chain(text)


# --- seeds ---


@law
@given(st.lists(st.tuples(st.integers(0, 10**9 - 60), st.integers(0, 50)), min_size=1, max_size=5))
def test_seeds_are_those_of_the_ranges_in_order_each_once(ranges: list[tuple[int, int]]) -> None:
    text = ", ".join(f"{first}-{first + more}" if more else f"{first}" for first, more in ranges)
    every = chain.from_iterable(range(first, first + more + 1) for first, more in ranges)
    assert parse_seeds(text) == tuple(dict.fromkeys(every))


@law
@given(st.text() | st.text("0123456789-, ", max_size=15))
@example("²")
@example("٣")
def test_any_text_is_seeds_or_a_usage_error(text: str) -> None:
    try:
        seeds = parse_seeds(text)
    except UsageError as error:
        assert repr(text) in str(error)
    else:
        assert 0 < len(set(seeds)) == len(seeds) <= MAX_SEEDS
        assert all(isinstance(seed, int) and seed >= 0 for seed in seeds)


def test_a_seed_given_twice_counts_once() -> None:
    assert parse_seeds("1,1,0-2,2") == (1, 0, 2)


def test_there_is_a_limit_to_the_number_of_seeds() -> None:
    assert len(parse_seeds(f"0-{MAX_SEEDS - 1}")) == MAX_SEEDS
    for text in (f"0-{MAX_SEEDS}", f"0-{MAX_SEEDS - 1},{MAX_SEEDS}", "0-999999999"):
        with pytest.raises(UsageError, match="at most 100,000"):
            parse_seeds(text)


@pytest.mark.parametrize("text", ["", " ", "a", "-1", "4-0", "1,,2", "1,", "1-2-3", "1.5", "1000000000", "0x1"])
def test_seeds_that_do_not_parse_say_what_was_expected(text: str) -> None:
    with pytest.raises(UsageError, match="expected a list such as 0-4 or 0,2,5-7"):
        parse_seeds(text)


# --- matrix files ---


def test_a_list_of_values_sweeps_and_sweeps_multiply(tmp_path: Path) -> None:
    swept = {"name": "pruning", "fraction": [0.2, 0.5], "layers": ["all", "last-conv"]}
    matrix = load_matrix(matrix_file(tmp_path, defenses=[{"name": "ewe", "weight": [32, 64]}], attacks=[swept]))
    assert texts(matrix.defenses) == ["ewe[weight=32]", "ewe[weight=64]"]
    assert texts(matrix.attacks) == [
        "pruning[fraction=0.2,layers=all]",
        "pruning[fraction=0.2,layers=last-conv]",
        "pruning[fraction=0.5,layers=all]",
        "pruning[fraction=0.5,layers=last-conv]",
    ]


def test_a_list_of_entries_is_a_chain_and_sweeps_inside_it_multiply(tmp_path: Path) -> None:
    swept = [{"name": "retraining", "epochs": [1, 2]}, "fine-tuning", {"name": "pruning", "fraction": [0.2, 0.5]}]
    matrix = load_matrix(matrix_file(tmp_path, attacks=[swept, "retraining | pruning"]))
    assert texts(matrix.attacks) == [
        "retraining[epochs=1] | fine-tuning | pruning[fraction=0.2]",
        "retraining[epochs=1] | fine-tuning | pruning[fraction=0.5]",
        "retraining[epochs=2] | fine-tuning | pruning[fraction=0.2]",
        "retraining[epochs=2] | fine-tuning | pruning[fraction=0.5]",
        "retraining | pruning",
    ]


def test_what_a_matrix_file_does_not_say_has_a_default(tmp_path: Path) -> None:
    matrix = load_matrix(matrix_file(tmp_path))
    assert (matrix.name, matrix.seeds, matrix.nulls, matrix.description) == ("mine", (0,), 3, "")


def test_options_keep_the_types_of_the_file(tmp_path: Path) -> None:
    options = {"name": "ewe", "weight": 64, "ratio": 0.5, "refine": True, "phases": "one"}
    (entry,) = load_matrix(matrix_file(tmp_path, defenses=[options])).defenses
    assert [type(value) for _, value in entry.options] == [int, float, bool, str]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('datasets = ["digits"]\ndefenses = ["ewe"\nattacks = 3\n', "line 3"),
        ("datasets = [\n\n\n", "end of document"),
        ('\n\nseeds = "0-4\n', "line 3"),
        ("nulls = 3\nnulls = 3\n", "line 2"),
        ("a = 1\nb\n", "line 2"),
    ],
)
def test_malformed_toml_names_the_file_and_the_line(tmp_path: Path, text: str, line: str) -> None:
    path = matrix_file(tmp_path, text)
    with pytest.raises(MatrixError) as caught:
        load_matrix(path)
    assert str(caught.value).startswith(f"{path}: ") and line in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"datasets": "digits"}, "datasets must be a list with at least one entry"),
        ({"defenses": []}, "defenses must be a list with at least one entry"),
        ({"attacks": {"name": "none"}}, "attacks must be a list with at least one entry"),
        ({"datasets": [3]}, "cannot read 3: expected"),
        ({"datasets": [["digits"]]}, "cannot read ['digits']: expected"),
        ({"datasets": [{"train": 10}]}, "cannot read {'train': 10}: expected"),
        ({"datasets": [{"name": 3}]}, "cannot read {'name': 3}: expected"),
        ({"defenses": [{"name": "ewe", "weight": []}]}, "cannot read weight = []: expected a value or a list"),
        ({"defenses": [{"name": "ewe", "weight": [[1]]}]}, "expected a value or a list of values"),
        ({"defenses": [{"name": "ewe", "weight": {"a": 1}}]}, "expected a value or a list of values"),
        ({"attacks": [[]]}, "a chain must have at least one attack"),
        ({"attacks": ["a | | b"]}, "cannot read ''"),
        ({"nulls": "3"}, "nulls must be a whole number of at least 0, not '3'"),
        ({"nulls": True}, "nulls must be a whole number of at least 0, not True"),
        ({"nulls": -1}, "nulls must be a whole number of at least 0, not -1"),
        ({"seeds": 3}, 'seeds must be text such as "0-4", not 3'),
        ({"seeds": [0, 1]}, 'seeds must be text such as "0-4", not [0, 1]'),
        ({"seeds": "x"}, "cannot read seeds 'x'"),
        ({"seed": "0"}, "unknown key 'seed'. Did you mean 'seeds'? Known: analyses, attacks, datasets,"),
    ],
)
def test_a_wrong_value_names_the_file_and_what_was_expected(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    path = matrix_file(tmp_path, **values)
    with pytest.raises(MatrixError) as caught:
        load_matrix(path)
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)


@pytest.mark.parametrize("axis", ["datasets", "defenses", "attacks"])
def test_each_axis_must_be_there(tmp_path: Path, axis: str) -> None:
    lines = [f'{name} = ["x"]' for name in ("datasets", "defenses", "attacks") if name != axis]
    with pytest.raises(MatrixError, match=f"{axis} must be a list"):
        load_matrix(matrix_file(tmp_path, "\n".join(lines)))


values = st.recursive(
    st.none().map(lambda _: "ewe") | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("name") | keys, inner, max_size=3),
    max_leaves=6,
)


@law
@given(st.dictionaries(st.sampled_from(["datasets", "defenses", "attacks", "seeds", "nulls"]), values))
def test_any_values_are_a_matrix_or_a_matrix_error(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    path = matrix_file(tmp_path_factory.getbasetemp(), **document)
    try:
        matrix = load_matrix(path)
    except MatrixError as error:
        assert "\n" not in str(error)
    else:
        assert all((matrix.datasets, matrix.defenses, matrix.attacks, matrix.seeds, *matrix.attacks))


@law
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
@example(b"nulls = " + b"9" * 5000)
def test_any_file_is_a_matrix_or_a_matrix_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    with pytest.raises(MatrixError, match=r"any\.toml: "):
        load_matrix(str(path))


def test_a_matrix_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match=r"cannot read the matrix .*gone\.toml: No such file"):
        load_matrix(str(tmp_path / "gone.toml"))
    with pytest.raises(MatrixError, match="cannot read the matrix"):
        load_matrix(f"{tmp_path}/")


# --- presets ---


def test_an_unknown_preset_says_what_was_meant_and_what_exists() -> None:
    with pytest.raises(UnknownName) as caught:
        load_matrix("quik")
    assert "Did you mean 'quick'?" in str(caught.value)
    assert all(name in str(caught.value) for name in [*PRESETS, "PATH.toml"])


def test_the_presets_are_the_documented_ones() -> None:
    assert sorted(presets()) == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_resolves_against_the_built_in_plugins(builtin: Registry, name: str) -> None:
    matrix = load_matrix(name)
    axes = resolve(builtin, matrix)
    datasets, defenses, chains = axes.datasets, axes.defenses, axes.chains
    assert matrix.name == name and matrix.description and matrix.seeds and matrix.nulls
    assert len(datasets) >= 1 and len(defenses) >= 3 and len(chains) >= 4
    assert "none" in texts(chains), "without the victim itself there is nothing to compare an attack with"


def test_the_full_matrix_is_every_plugin_in_all_its_arms(builtin: Registry) -> None:
    axes = resolve(builtin, load_matrix("full"))
    datasets, defenses, chains = axes.datasets, axes.defenses, axes.chains
    tasks = [name for name in builtin.names("dataset") if builtin.found["dataset", name].cls.arms]
    assert texts(datasets) == tasks and "digits" in tasks
    options = ("", "[architecture=mlp]", "[optimizer=sgd]", "[augment=shift]", "[adversarial=true]")
    unmarked = [f"unmarked{option}" for option in options]
    assert {text.partition("[")[0] for text in texts(defenses)} == {
        name for name in builtin.names("defense") if builtin.found["defense", name].cls.arms
    }
    assert {"baseline", "baseline[placement=gradient]", "ewe", *unmarked} < set(texts(defenses))
    modes = [f"fine-tuning[mode={mode}]" for mode in ("ftll", "rtll", "rtal")]
    assert [text for text in texts(chains) if text.startswith("fine-tuning")] == ["fine-tuning", *modes]
    assert {text.partition("[")[0] for text in texts(chains)} == set(builtin.names("attack"))


def test_a_glob_with_options_stands_for_no_arms(builtin: Registry) -> None:
    assert texts(builtin.components("defense", [parse_entry("base*[ratio=2]")])) == ["baseline[ratio=2.0]"]


# --- globs ---


OWN = [
    parse_chain(text)
    for text in ("ewe[weight=64]", "baseline", "baseline[placement=gradient]", "retraining | pruning[fraction=0.5]")
]


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        (["*"], texts(OWN)),
        (["baseline*"], ["baseline", "baseline[placement=gradient]"]),
        (["ewe*"], ["ewe[weight=64]"]),
        (["*gradient]"], ["baseline[placement=gradient]"]),
        (["*[p*=gradi?nt]"], ["baseline[placement=gradient]"]),
        (["ewe[weight=6?]"], ["ewe[weight=64]"]),
        (["retraining | *"], ["retraining | pruning[fraction=0.5]"]),
        (["*pruning*"], ["retraining | pruning[fraction=0.5]"]),
        (["base*", "*e"], ["baseline", "baseline[placement=gradient]"]),
        (["baseline", "base*"], ["baseline", "baseline[placement=gradient]"]),
        (["baseline[placement=gradient]", "*"], [texts(OWN)[i] for i in (2, 0, 1, 3)]),
        (["adi*"], ["adi*"]),
        (["ewe"], ["ewe"]),
        (["ewe[weight=1]", "adi"], ["ewe[weight=1]", "adi"]),
    ],
)
def test_a_glob_picks_from_the_matrix_and_all_else_is_taken_as_written(asked: list[str], chosen: list[str]) -> None:
    assert texts(choose(asked, OWN)) == chosen


@law
@given(st.lists(st.sampled_from(["*", "b*", "*]", "ewe", "x?", "retraining | *"]), max_size=5))
def test_choosing_gives_nothing_twice(asked: list[str]) -> None:
    chosen = choose(asked, OWN)
    assert len(set(chosen)) == len(chosen)


KNOWN = ["ewe", "adi", "ewe-2", "Ewe"]


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("ewe", ["ewe"]),
        ("unheard-of[a=1]", ["unheard-of[a=1]"]),
        ("ewe*", ["ewe", "ewe-2"]),
        ("?we", ["Ewe", "ewe"]),
        ("*", sorted(KNOWN)),
        ("a*[count=5]", ["adi[count=5]"]),
        ("x*", []),
    ],
)
def test_a_glob_expands_to_the_names_that_fit_with_its_options(text: str, expanded: list[str]) -> None:
    assert texts(expand(parse_entry(text), KNOWN)) == expanded


# --- scales ---

SCALED = """
datasets = ["mnist"]
defenses = ["ewe"]
attacks = ["none"]
seeds = "0-4"
[scales.small]
datasets = ["digits"]
seeds = "0"
"""


def test_a_scale_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = matrix_file(tmp_path, SCALED)
    full, small = load_matrix(path), load_matrix(path, "small")
    assert load_matrix(path, "full").datasets == full.datasets == (Entry("mnist"),)
    assert small.datasets == (Entry("digits"),) and small.seeds == (0,) and full.seeds == (0, 1, 2, 3, 4)
    assert small.defenses == full.defenses and small.nulls == full.nulls


@pytest.mark.parametrize(
    ("text", "scale", "message"),
    [
        (SCALED, "tiny", "unknown scale 'tiny'. Known: full, small"),
        (SCALED.replace("scales.small", "scale.small"), "", "unknown key 'scale'"),
        (SCALED + 'worlds = ["x"]', "small", "unknown key 'worlds'"),
        ('scales = ["small"]\n' + SCALED.partition("[scales")[0], "", "scales must be tables"),
    ],
)
def test_a_wrong_scale_names_the_file_and_what_was_expected(
    tmp_path: Path, text: str, scale: str, message: str
) -> None:
    with pytest.raises(MatrixError, match=re.escape(message)) as caught:
        load_matrix(matrix_file(tmp_path, text), scale)
    assert "mine.toml" in str(caught.value)


def test_a_set_of_inputs_is_no_task(builtin: Registry) -> None:
    matrix = replace(load_matrix("smoke"), datasets=(Entry("cifar-100-mini"),))
    with pytest.raises(UsageError, match="cifar-100-mini is a set of inputs to draw from, not a task"):
        resolve(builtin, matrix)
    assert "cifar-100-mini" not in texts(builtin.components("dataset", [Entry("*")]))


def test_an_option_is_the_last_link_s_that_has_it_and_may_be_a_default() -> None:
    def options_of(entry: Entry) -> dict[str, object]:
        return {**({"fraction": 0.5} if entry.name == "pruning" else {}), **dict(entry.options)}

    def found(text: str, name: str | None = None) -> tuple[object, str]:
        value, rest = option_of(parse_chain(text), "fraction", options_of, name)
        return value, format_chain(rest)

    assert found("pruning[fraction=0.1,seed=2] | retraining") == ("0.1", "pruning[seed=2] | retraining")
    assert found("pruning[fraction=0.1] | pruning") == (0.5, "pruning[fraction=0.1] | pruning")
    assert found("unknown[fraction=0.3]") == ("0.3", "unknown")
    assert found("unknown[fraction=0.3] | pruning", "unknown") == ("0.3", "unknown | pruning")
    assert found("retraining") == (None, "retraining")
