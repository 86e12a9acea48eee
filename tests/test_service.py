"""Services: a function in another thread answers as it would here, and what it uses is out of reach."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.contracts import Oracle
from harness.engine.memo import Lent, ResultCache, SharedInputs
from harness.engine.service import Service, serving
from harness.engine.train import LOGITS, clone, predict, remembered
from harness.errors import PluginError, Refused, Skip
from harness.oracles import Meter
from tests.test_train import engine, split


def test_a_service_answers_as_the_function_and_ends_with_the_block() -> None:
    seen: list[int] = []

    def add(a: int, b: int) -> int:
        seen.append(threading.get_ident())
        return a + b

    with serving(add) as ask:
        assert ask(1, 2) == 3 and ask(3, 4) == 7
    assert len(set(seen)) == 1 and seen[0] != threading.get_ident()
    with pytest.raises(Refused, match="the stage that this belonged to has ended"):
        ask(1, 2)
    ask.close()  # once more is no error


def test_what_the_function_uses_is_forgotten_when_the_service_is_closed() -> None:
    def make() -> tuple[Service, weakref.ref[torch.nn.Module], weakref.ref[Tensor]]:
        net, asked = torch.nn.Linear(2, 2), torch.zeros(3, 2)
        service = Service(lambda x: net(x))
        service(asked)
        return service, weakref.ref(net), weakref.ref(asked)

    service, net, asked = make()
    gc.collect()
    assert net() is not None and asked() is None  # an idle server keeps no question
    service.close()
    gc.collect()
    assert net() is None


def test_the_block_that_raises_ends_the_service_too() -> None:
    with pytest.raises(ValueError, match="mine"), serving(len) as ask:
        raise ValueError("mine")
    with pytest.raises(Refused):
        ask("")


class _OwnError(Exception):
    """An error that cannot be made of a text."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (Refused("no more"), Refused, "no more"),
        (Skip("cannot be"), Skip, "cannot be"),
        (torch.OutOfMemoryError("out"), torch.OutOfMemoryError, "out"),
        (PluginError("broken"), PluginError, "broken"),
        (ValueError("wrong"), PluginError, "ValueError: wrong"),
        (_OwnError(1, 2), PluginError, "_OwnError: 1 and 2"),
        (SystemExit(3), PluginError, "SystemExit: 3"),
    ],
)
def test_an_error_arrives_without_the_frames_that_it_came_from(
    error: BaseException, kind: type[BaseException], text: str
) -> None:
    secret = torch.zeros(3)

    def fails() -> None:
        assert len(secret) == 3
        raise error

    with serving(fails) as ask:
        with pytest.raises(BaseException) as caught:
            ask()
        assert type(caught.value) is kind and str(caught.value) == text
        assert caught.value.__cause__ is None and caught.value.__context__ is None
        frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
        assert not any(secret is each for frame in frames[1:] for each in frame.f_locals.values())
        # What it was is read in the stage's record.
        assert "in fails" in "".join(traceback.format_exception(caught.value))
        with pytest.raises(kind):
            ask()  # it goes on serving


def test_several_threads_get_their_own_answers() -> None:
    def slow(x: int) -> int:
        time.sleep(0.001)
        return x

    found: dict[int, list[int]] = {}
    with serving(slow) as ask:

        def work(number: int) -> None:
            found[number] = [ask(number) for _ in range(20)]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: [number] * 20 for number in range(4)}


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "plain": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("threads", [1, 2])
def test_answers_are_the_same_bits_whatever_mode_the_attacker_is_in(mode: str, threads: int) -> None:
    net, x, before = engine().build(), split().x, torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        meter = Meter(lambda x: predict(net, x), "probabilities", None)
        expected = Oracle(meter.logits, "probabilities")
        with serving(meter) as ask, serving(torch.get_num_threads) as count, MODES[mode]():
            assert count() == threads
            oracle = Oracle.before(ask)
            labels, (best, share), probabilities = oracle.labels(x), oracle.top1(x), oracle.probabilities(x)
        assert torch.equal(labels, expected.labels(x)) and torch.equal(probabilities, expected.probabilities(x))
        assert torch.equal(best, labels) and torch.equal(share, expected.top1(x)[1])
        assert not probabilities.is_inference() and not probabilities.requires_grad
    finally:
        torch.set_num_threads(before)


def test_an_answer_leads_to_no_graph() -> None:
    weight = torch.ones(3, 3, requires_grad=True)
    with serving(Meter(lambda x: x @ weight, "probabilities", None)) as ask:
        assert not Oracle.before(ask).probabilities(torch.ones(2, 3)).requires_grad


def test_the_terms_of_an_oracle_are_read_and_not_written() -> None:
    meter = Meter(lambda x: x, "top-1", 5)
    with serving(meter) as ask:
        for oracle in (Oracle.before(ask), Oracle(lambda x: x, "top-1", 5)):
            oracle.labels(torch.zeros(2, 3))
            assert (oracle.answers, oracle.budget, oracle.queries) == ("top-1", 5, 2)
            for name, value in {"queries": 0, "budget": None, "answers": "probabilities", "more": 1}.items():
                with pytest.raises(AttributeError):
                    setattr(oracle, name, value)
            with pytest.raises(Refused, match="4 more queries after 2 would pass the budget of 5"):
                oracle.labels(torch.zeros(4, 3))
            assert oracle.queries == 2
        for what in ("logits", "_charge", "__dict__"):
            with pytest.raises(PluginError, match="KeyError"):
                ask(what)


def test_what_is_remembered_is_computed_by_the_service_and_cannot_be_poisoned() -> None:
    net, memory, x = engine().build(), ResultCache(), split().x
    shared = SharedInputs(memory, "model", net, "pool", x)
    with serving(remembered(shared)) as ask:
        lent, copy = Lent(ask), clone(net)
        known, first = lent.recall(LOGITS, copy, x, lambda: torch.zeros(1))  # what the caller computes is not asked for
        assert not known and torch.equal(first, predict(net, x))
        first.zero_()
        known, second = lent.recall(LOGITS, copy, x, lambda: torch.zeros(1))
        assert known and torch.equal(second, predict(net, x))
        copy.get_parameter("logits.bias").data += 1
        known, third = lent.recall(LOGITS, copy, x, lambda: torch.ones(1))
        assert not known and torch.equal(third, torch.ones(1))
        assert lent.recall(LOGITS, net, x, lambda: torch.ones(1))[0]


@pytest.mark.slow
def test_an_idle_service_does_not_keep_the_process_alive() -> None:
    code = "from harness.engine.service import Service; Service(len)('')"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


WAITS = """
import signal, time
from harness.engine import service

signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
service.PATIENCE = 0.1
with service.serving(lambda: time.sleep(100)) as ask:
    print("asked", flush=True)
    ask()
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_wait_for_an_answer() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "asked\n"
        time.sleep(0.2)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode != 0 and "KeyboardInterrupt" in err and time.monotonic() - began < 20
