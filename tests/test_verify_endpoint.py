"""Suspects behind a real HTTP server on the loopback: slow, failing, refusing, lying, changing, and broken off."""

from __future__ import annotations

import base64
import email.utils
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import harness
from harness.errors import UsageError
from harness.owning import asking
from harness.owning.endpoint import Endpoint, _wait_of
from harness.owning.mapping import Response, answers_in
from tests import endpoints
from tests.conftest import Cli, Ended
from tests.endpoints import CONTROLS, TRIGGERS, Server, serving
from tests.endpoints import one_registry as one_registry

MAPPING = """
[request]
field = "instances"
batch = 8
[request.fields]
model = "v3"
[response]
field = "predictions"
[limits]
timeout = 20
retries = 2
"""
ALL = TRIGGERS + CONTROLS
REQUESTS = TRIGGERS // 8 + -(-CONTROLS // 8)


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return endpoints.write(tmp_path_factory.mktemp("owner") / "owner")


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were asked for, none of which is waited for."""
    found: list[float] = []
    monkeypatch.setattr(Endpoint, "sleep", staticmethod(found.append))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as made:
        yield made


@pytest.fixture
def verify(cli: Cli, owner: Path, server: Server, tmp_path: Path) -> Any:
    """``harness verify`` of the server, with a log of the test's own."""

    def run(*args: object, code: int, mapping: str = MAPPING) -> Ended:
        (tmp_path / "api.toml").write_text(mapping)
        named = ["--mapping", tmp_path / "api.toml", "--log", tmp_path / "log.jsonl"]
        ended = cli("verify", owner, server.url, *named, *args, code=code)
        assert (
            code != 2
            or len([line for line in ended.err.splitlines() if not re.search("again in [0-9.]+ s$", line)]) == 1
        )
        return ended

    return run


# --- verdicts ---


def test_a_surrogate_behind_an_api_is_accused_and_an_innocent_model_is_not(
    verify: Any, server: Server, tmp_path: Path
) -> None:
    said = verify(code=0).out
    assert said.startswith(f"MARKED: {server.url} (endpoint)")
    assert server.asked == ALL and f"queries     {ALL}" in said and "p = 0.05" in said
    assert server.requests[0]["model"] == "v3" and len(server.requests[0]["instances"]) == 8
    assert "commitment  matches commitment.json" in said and "may not" in said
    (tmp_path / "log.jsonl").unlink()
    server.model = endpoints.innocent
    assert verify(code=1).out.startswith("NOT MARKED: ")


def test_an_api_that_answers_random_classes_is_not_accused(verify: Any, server: Server, owner: Path) -> None:
    """Unmarked models hardly ever answer the target, random classes in a tenth of all questions: the rank alone would
    accuse them, and the placebo acquits."""
    accused = [harness.verify(owner, endpoints.lying(seed)) for seed in range(40)]
    assert sum(each.judged.marked for each in accused) > 5 and sum(each.marked for each in accused) <= 2
    server.model = endpoints.lying(0)
    verify(code=1)


def test_an_api_that_answers_everything_so_is_not_accused(verify: Any, server: Server) -> None:
    server.model = endpoints.constant
    said = verify(code=1).out
    assert said.startswith("ANSWERS EVERYTHING SO: ") and "match no more often than those to the control" in said


def test_a_sequential_verification_stops_once_the_evidence_suffices(
    verify: Any, server: Server, tmp_path: Path
) -> None:
    made = json.loads(verify("--sequential", "--json", code=0, mapping=MAPPING.replace("8", "1")).out)
    assert made["marked"] and made["whole"] == TRIGGERS and made["gamma"] == 0.01
    assert made["trials"] < TRIGGERS / 2
    assert made["queries"] == server.asked == made["trials"] + max(made["trials"], asking.CONTROLS)
    (tmp_path / "log.jsonl").unlink()
    server.model, server.asked = endpoints.innocent, 0
    made = json.loads(verify("--sequential", "--json", code=1, mapping=MAPPING.replace("8", "1")).out)
    assert made["verdict"] == "not marked" and made["trials"] == server.asked < TRIGGERS and made["control"] is None


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
def test_answers_may_be_numbers_of_each_class_under_names(verify: Any, server: Server, kind: str) -> None:
    names = [f"class-{number}" for number in range(10)]
    server.answer = lambda labels: [{"scores": {names[label]: 0.9, names[0]: 0.1}} for label in labels]
    mapping = MAPPING.replace('field = "predictions"', f'item = "scores"\nkind = "{kind}"\nnames = {json.dumps(names)}')
    assert "MARKED" in verify(code=0, mapping=mapping).out


def test_inputs_may_be_png_images_one_by_one_and_answers_texts(verify: Any, server: Server) -> None:
    def image(body: Any) -> Any:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(body["image"]["b64"])))).astype(np.float32) / 255

    server.inputs = image
    server.answer = lambda labels: {"label": f"class-{labels[0]}"}
    mapping = f"""
    [request]
    field = "image.b64"
    encoding = "png"
    batch = 0
    [response]
    field = "label"
    names = {json.dumps([f"class-{number}" for number in range(10)])}
    """
    assert verify(code=0, mapping=mapping).out.startswith("MARKED")


def test_a_refused_query_counts_as_no_match(verify: Any, server: Server) -> None:
    server.answer = lambda labels: {"predictions": [None] * len(labels)}
    assert f"0 of {TRIGGERS} as the key says" in verify(code=1).out


# --- failures ---


def test_failures_and_refusals_are_tried_again_after_the_wait_that_is_asked_for(
    verify: Any, server: Server, waits: list[float]
) -> None:
    server.script = [500, None, (429, {"Retry-After": "7"}, ""), 503]
    ended = verify(code=0)
    assert waits == [0.5, 7.0, 1.0] and "answers 429 Too Many Requests: again in 7.0 s" in ended.err
    assert server.asked == ALL and f"queries     {ALL + 3 * 8}" in ended.out, "inputs that were sent in vain count"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([500] * 3, "answers 500 Internal Server Error, after 3 tries; 0 answers are kept"),
        ([None, (429, {"Retry-After": "9999"}, "")], "asks to wait 9999 s, after 1 tries; 8 answers are kept"),
        ([(200, {"Content-Type": "text/html"}, "<html>Hello\n</html>")], "answers text/html where JSON is expected"),
        ([None, (200, {}, '{"labels": [1]}')], "the response has no 'predictions', it is an object of 'labels'"),
        ([(200, {}, '{"predictions": [1, 2]}')], "answers 8 inputs by 2 answers"),
        ([(200, {}, json.dumps({"predictions": 8 * [10]}))], "answers 10, where a class of 0 to 9 is expected"),
        ([(200, {}, json.dumps({"predictions": 8 * [[0.5, 0.5]]}))], "answers a list, where a class of 0 to 9"),
        ([(302, {"Location": "http://other/?key=secret"}, "")], "redirects (302) to http://other/: type that address"),
        ([(404, {}, "nothing\x1b[31m here")], "answers 404 Not Found: 'nothing\\x1b[31m here'"),
    ],
)
def test_what_cannot_be_used_is_one_line(verify: Any, server: Server, script: list[Any], message: str) -> None:
    server.script = script
    assert message in verify(code=2).err.replace("\\\\", "\\")


def test_an_endpoint_that_is_too_slow_or_not_there_is_one_line(verify: Any, server: Server, tmp_path: Path) -> None:
    server.delay = 0.15
    mapping = MAPPING.replace("timeout = 20", "timeout = 0.05").replace("retries = 2", "retries = 1")
    assert "does not answer within 0.05 s, after 2 tries" in verify(code=2, mapping=mapping).err
    server.url = "http://127.0.0.1:1/"
    assert "is of 'http://127.0.0.1:" in verify(code=2).err, "the log is of another endpoint"
    (tmp_path / "log.jsonl").unlink()
    assert "cannot be reached (ConnectError), after 3 tries; 0 answers are kept" in verify(code=2).err


def test_requests_keep_to_the_rate(verify: Any, waits: list[float]) -> None:
    verify(code=0, mapping=MAPPING.replace("[limits]", "[limits]\nper_second = 0.1"))
    assert len(waits) == REQUESTS - 1 and all(9 < each <= 10 for each in waits)


# --- budget and log ---


def test_a_budget_is_never_passed_and_a_broken_verification_goes_on_without_asking_again(
    verify: Any, server: Server, tmp_path: Path
) -> None:
    assert (
        f"leaves 50 queries, and the key has {ALL} inputs to ask: type --sequential"
        in verify("--budget", 50, code=2).err
    )
    assert not server.requests
    server.script = [None, None, 500, 500, 500]
    assert "16 answers are kept: the same command goes on" in verify("--budget", 90, code=2).err
    assert len(server.requests) == 5
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"query": "cut sh')
    verify("--budget", 90, code=0)
    assert server.asked == ALL and sum(len(body["instances"]) for body in server.requests) <= 90
    before = len(server.requests)
    assert verify(code=0).out.startswith("MARKED") and len(server.requests) == before
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len([line for line in lines if "query" in line]) == ALL


def test_tries_again_stay_within_the_budget(verify: Any, server: Server) -> None:
    server.script = [500, None, 500, None, 500]
    ended = verify("--budget", 70, code=2)
    assert "8 more queries after 64 would pass the budget of 70: 40 answers are kept" in ended.err
    assert sum(len(body["instances"]) for body in server.requests) <= 70


def test_a_budget_that_ends_before_the_evidence_suffices_leaves_it_undecided(verify: Any, server: Server) -> None:
    server.model = endpoints.faint
    said = verify("--budget", 8, "--sequential", code=1).out
    assert said.startswith("UNDECIDED: ") and server.asked == 8 and "the budget ended before" in said


def test_a_log_of_another_key_or_a_damaged_one_is_refused(verify: Any, tmp_path: Path) -> None:
    for text, message in [("{}\n", "or of another key or mapping"), ("?\n", "is damaged: name another with --log")]:
        (tmp_path / "log.jsonl").write_text(text)
        assert message in verify(code=2).err
        assert (tmp_path / "log.jsonl").read_text() == text


def test_a_log_lies_in_the_owners_folder_by_default(cli: Cli, server: Server, tmp_path: Path) -> None:
    owner = endpoints.write(tmp_path / "owner")
    (tmp_path / "api.toml").write_text(MAPPING)
    cli("verify", owner, f"{server.url}?key=secret", "--mapping", tmp_path / "api.toml", code=0)
    (log,) = (owner / "queries").iterdir()
    assert "secret" not in log.read_text() and (log.stat().st_mode & 0o77) == 0


# --- tokens and mappings ---


def test_a_token_is_read_from_the_environment_and_neither_stored_nor_printed(
    verify: Any, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "t0ken-5ecret"
    assert "refuses (401): name a token in the mapping's [request.headers]" in verify(code=2).err
    mapping = MAPPING.replace("[response]", '[request.headers]\nAuthorization = "Bearer ${API_TOKEN}"\n[response]')
    assert "needs the environment variable API_TOKEN" in verify(code=2, mapping=mapping).err
    monkeypatch.setenv("API_TOKEN", "t0ken-5ecret\n")
    told = verify(code=2, mapping=mapping)
    assert "a header is malformed" in told.err and "5ecret" not in told.err
    monkeypatch.setenv("API_TOKEN", "t0ken-5ecret")
    server.script = [500, None]
    told = verify(code=0, mapping=mapping)
    assert "5ecret" not in told.out + told.err + (tmp_path / "log.jsonl").read_text()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("[requests]", "unknown"),
        ("[request]\nfeild = 1", "Did you mean 'field'?"),
        ("[request]\nbatch = -1", "[request] batch: expected a whole number of at least 0, not a int"),
        ("[request]\nencoding = 'jpeg'", "expected 'list' or 'png'"),
        ("[request.fields]\na = 1", "needs [request] field"),
        ("[response]\nnames = ['a', 'a']", "a name stands twice"),
        ("[limits]\ntimeout = 0", "expected seconds above 0"),
        ("request = 1", "expected a table"),
        ("[", "api.toml"),
    ],
)
def test_a_malformed_mapping_is_one_line(verify: Any, mapping: str, message: str) -> None:
    assert message in verify(code=2, mapping=mapping).err


def test_an_endpoint_needs_a_mapping_and_a_white_box_scheme_weights(cli: Cli, owner: Path, tmp_path: Path) -> None:
    assert "needs --mapping FILE.toml" in cli("verify", owner, "http://127.0.0.1:1/", code=2).err
    white = endpoints.write(tmp_path / "white", scheme="uchida", asks="weights")
    assert "reads its mark from weights, and an endpoint shows none" in cli("verify", white, "http://a/", code=2).err


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=10) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(JSON, st.sampled_from(["labels", "probabilities", "logits"]), st.sampled_from(["", "a", "a.b", "0"]))
def test_any_answer_is_one_line_or_as_many_answers_as_inputs(body: Any, kind: Any, place: str) -> None:
    try:
        made = answers_in(Response(place, kind=kind), body, 2, 3, False)
    except UsageError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert len(made) == 2 and all(isinstance(each, int) or len(each) == 3 for each in made)


def test_a_wait_may_be_a_date() -> None:
    later = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 50 < _wait_of(httpx.Response(429, headers={"Retry-After": later})) <= 60
    assert _wait_of(httpx.Response(429, headers={"Retry-After": "soon"})) == 0
