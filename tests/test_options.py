"""The options that cells record, and what is known of those that recorded none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.errors import ResultsError
from harness.planning.matrix import parse_chain, parse_entry
from harness.planning.registry import Registry, load_registry
from harness.storage.options import RecordedOptions, options_text

TOLD = {"dataset": {"train": 9}, "defense": {"weight": 2.5}, "attack": [{"fraction": 0.4}, {"share": None}]}


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HARNESS_PLUGINS", raising=False)
        yield load_registry()


def recorded(registry: Registry, options: Any, attack: str = "gone | odd[share=none]") -> RecordedOptions:
    text = options if isinstance(options, str) else json.dumps(options)
    row = {"dataset": "digits", "defense": "ewe[weight=2.5]", "attack": attack, "options": text}
    return RecordedOptions(pd.DataFrame([row]), registry.component)


def test_what_cells_recorded_needs_no_plugin(registry: Registry) -> None:
    known, (first, last) = recorded(registry, TOLD), parse_chain("gone | odd[share=none]")
    assert known.of("attack", first) == {"fraction": 0.4} and known.of("attack", last) == {"share": None}
    assert known.of("dataset", parse_entry("digits")) == {"train": 9}, "as it was, not as the plugin here has it"
    assert known.of("defense", parse_entry("ewe[weight=2.5]")) == {"weight": 2.5}


def test_of_cells_that_recorded_none_the_plugin_here_knows_or_the_text(registry: Registry) -> None:
    older = pd.DataFrame({"dataset": ["digits"], "defense": ["ewe"], "attack": ["none"], "options": [None]})
    known = RecordedOptions(older, registry.component)
    assert known.of("attack", parse_entry("pruning[fraction=0.3]"))["fraction"] == 0.3
    assert (
        known.of("attack", parse_entry("pruning"))["fraction"]
        == registry.component("attack", "pruning").plugin.fraction
    )
    assert known.of("attack", parse_entry("gone[fraction=0.3]")) == {"fraction": "0.3"}
    assert RecordedOptions(older.drop(columns="options"), registry.component).of("attack", parse_entry("gone")) == {}


def test_every_plugin_s_options_are_written_and_read(registry: Registry, tmp_path: Path) -> None:
    dataset, defense = registry.component("dataset", "digits"), registry.component("defense", "adi")
    for use in (registry.component("attack", name) for name in registry.names("attack")):
        told = json.loads(options_text((dataset, defense, use)))
        known = recorded(registry, told, use.text).of("attack", parse_entry(use.text))
        assert known == {name: getattr(use.plugin, name) for name in known} and len(told["attack"]) == 1


HOSTILE = [
    *("", "{", "[]", "null", "[" * 5000, '{"dataset": {}, "defense": {}}', "\x1b[31m"),
    *(TOLD | {"attack": {}}, TOLD | {"dataset": []}, TOLD | {"more": 1}, TOLD | {"attack": [1]}),
    *(TOLD | {"dataset": {"train": value}} for value in ([1], {"a": 1}, 10**4000, 2**53 + 1)),
    '{"dataset": {"train": 1e999}, "defense": {}, "attack": []}',
    '{"dataset": {"train": NaN}, "defense": {}, "attack": []}',
]


@pytest.mark.parametrize("options", HOSTILE, ids=range(len(HOSTILE)))
def test_options_that_no_run_writes_are_refused(registry: Registry, options: Any) -> None:
    with pytest.raises(ResultsError, match="options cannot be") as caught:
        recorded(registry, options)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


def test_a_chain_of_another_length_is_as_if_it_recorded_none(registry: Registry) -> None:
    known = recorded(registry, TOLD, "gone")
    assert known.of("attack", parse_entry("gone")) == {}
