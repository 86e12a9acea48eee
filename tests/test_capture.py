"""Captured steps, with recorders that a CPU has: what is recorded, when, and that a replayed training is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.contracts import Stream
from harness.engine import train
from harness.engine.cuda_graphs import WARM_UP, Captured, Recorder, Step, recording
from harness.nets import Net
from tests.conftest import TINY, Cli
from tests.test_train import engine, same, split

CPU = torch.device("cpu")


def unexpected(message: str) -> None:
    raise AssertionError(message)


class Tape:
    """A recorder whose replay is the step itself, as a CUDA graph's is its kernels; recording runs nothing."""

    def __init__(self, refuses: bool = False) -> None:
        self.recorded, self.replayed, self.refuses = 0, 0, refuses

    def __call__(self, step: Step) -> Step:
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            step()

        return replay


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tape], Tape]:
    """Every training records with the given tape."""

    def lend(made: Tape) -> Tape:
        @contextmanager
        def lent(device: torch.device) -> Iterator[Recorder]:
            yield made

        monkeypatch.setattr(train, "recording", lent)
        return made

    return lend


def streams() -> list[Stream]:
    triggers = split(24, seed=1)
    return [Stream((split(),), 16), Stream((triggers.of(1), triggers.of(2)), 8, every=2, augment=True)]


def trained(warnings: list[str] | None = None) -> tuple[Net, list[dict[str, list[float]]]]:
    lent = engine(augment="crop-flip")
    lent.warn = unexpected if warnings is None else warnings.append
    return lent.train(lent.build(), streams(), 5), lent.curves


def test_a_step_runs_as_it_is_then_is_recorded_once_and_replayed() -> None:
    calls, made = [], Tape()
    step = Captured(lambda: calls.append(made.replayed), made, unexpected)
    for _ in range(WARM_UP + 4):
        step()
    assert calls == [0] * WARM_UP + [1, 2, 3, 4] and made.recorded == 1


def test_a_cpu_records_nothing() -> None:
    with recording(CPU) as recorder:
        assert recorder is None


def test_a_replayed_training_is_the_training(tape: Callable[[Tape], Tape]) -> None:
    plain, curves = trained()
    made = tape(Tape())
    replayed, others = trained()
    assert same(plain, replayed) and curves == others
    # Twenty and ten steps of two streams, a recording each.
    assert (made.recorded, made.replayed) == (2, 30 - 2 * WARM_UP)


def test_what_cannot_be_recorded_runs_as_it_is_and_says_so(tape: Callable[[Tape], Tape]) -> None:
    plain, curves = trained()
    tape(Tape(refuses=True))
    warnings: list[str] = []
    other, others = trained(warnings)
    assert same(plain, other) and curves == others
    assert len(warnings) == 2 and all("not permitted when stream is capturing)" in each for each in warnings)


def test_a_stream_may_refuse_to_be_captured(tape: Callable[[Tape], Tape]) -> None:
    made, lent, calls = tape(Tape()), engine(), []

    def counting(net: Net, x: Tensor, y: Tensor) -> Tensor:
        calls.append(len(calls))
        return F.cross_entropy(net(x), y) / len(calls)

    both = [Stream((split(),), 16, counting, capture=False), Stream((split(),), 16)]
    lent.train(lent.build(), both, 2)
    assert made.recorded == 1 and len(calls) == 8


def test_capturing_can_be_switched_off(tape: Callable[[Tape], Tape]) -> None:
    made, lent = tape(Tape()), engine()
    lent.capture = False
    lent.train(lent.build(), streams(), 5)
    assert made.recorded == 0


# --- what may be captured ---------------------------------------------------------------------------------------------


class HostAsked(TorchDispatchMode):
    """Collects operations that make the host wait for a device, or whose shapes depend on values."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in self.WAITS or masks:
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "chosen",
    [
        ("--defense", "baseline", "--attack", "snnl-extraction"),
        ("--defense", "ewe", "--attack", "retraining[answers=probabilities]"),
        ("--defense", "ewe[variant=paper]", "--attack", "retraining[answers=top-1]"),
        ("--defense", "ewe[variant=official,refine=false]", "--attack", "fine-tuning[mode=rtll]"),
        ("--defense", "adi", "--attack", "none"),
    ],
    ids=lambda chosen: chosen[1],
)
def test_no_built_in_step_makes_the_host_wait(
    chosen: tuple[str, ...], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, asked = train._Training._step, HostAsked()

    def watched(self: Any, number: int, loss: Any) -> None:
        with asked:
            step(self, number, loss)

    monkeypatch.setattr(train._Training, "_step", watched)
    cli(
        "run",
        "--dataset",
        TINY,
        *chosen,
        "--seeds",
        "0",
        "--nulls",
        "0",
        "--no-innocents",
        "--results",
        tmp_path,
        code=0,
    )
    assert asked.waits == []


def test_the_watch_for_waits_sees_them() -> None:
    with HostAsked() as asked:
        x = torch.arange(3.0)
        float(x.sum())
        x[x > 1]
    assert asked.waits == ["_local_scalar_dense", "index"]
