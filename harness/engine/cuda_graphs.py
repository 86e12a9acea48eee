"""Captured steps: on a GPU a training step is recorded once as a CUDA graph, and replayed as one launch.

These nets are so small that launching a step's hundred kernels takes longer than running them. A recorder is a function
that takes a step and returns its replay; the CPU has none, and runs the steps themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

Step: TypeAlias = Callable[[], None]
Recorder: TypeAlias = Callable[[Step], Step]

WARM_UP = 3
"""Steps run before recording: libraries choose their algorithms, optimizers make their state."""


class Captured:
    """A step that is recorded after its first calls, which run it as it is, and replayed from then on.

    What cannot be recorded (a loss that asks the host) goes on as it is, slower, and ``warn`` is told why.
    """

    def __init__(self, step: Step, recorder: Recorder, warn: Callable[[str], None]) -> None:
        self._step, self._recorder, self._warn = step, recorder, warn
        self._calls = 0

    def __call__(self) -> None:
        if self._calls == WARM_UP:
            self._step = self._recorded()
        self._calls += 1
        self._step()

    def _recorded(self) -> Step:
        try:
            return self._recorder(self._step)
        except RuntimeError as error:  # recording runs nothing: the step is still to be done
            reason = str(error).partition("\n")[0]
            self._warn(f"a step could not be captured and runs slower ({reason}): see Stream.capture")
            return self._step


@contextmanager
def recording(device: torch.device) -> Iterator[Recorder | None]:
    """The recorder of ``device``, on a stream of its own within; ``None`` where there is nothing to record."""
    if device.type != "cuda":
        yield None
        return
    # Warm-up, recording and replays on one side stream: gradients are then accumulated on the stream that records.
    side, pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.device(device), torch.cuda.stream(side):
        yield lambda step: _record(step, side, pool)
    torch.cuda.current_stream(device).wait_stream(side)


def _record(step: Step, stream: torch.cuda.Stream, pool: Any) -> Step:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        step()
    return graph.replay
