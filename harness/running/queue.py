"""The order of stages: those whose parents are done, children of what is at hand first."""

from __future__ import annotations

import heapq
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

from harness.planning.graph import Stage
from harness.storage.locks import PAUSE


class Queue:
    """The stages that wait: each is ready once all its parents are done. Logarithmic in their number, each time.

    A stage that another run computes is set aside; it comes again after a pause, when nothing else is ready.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = stages
        self.left = len(stages)
        """Stages that were not taken yet, or were set aside."""
        self._aside = deque[tuple[float, Stage]]()
        """The stages set aside, with the times on the monotonic clock from which they may come again."""
        self._taken = bytearray(len(stages))
        self._ready: list[int] = []
        self._below: dict[str, list[int]] = defaultdict(list)
        """The ready children of a stage. These, and what is ready, are heaps of places in the plan."""
        self._children: dict[str, list[int]] = defaultdict(list)
        self._missing: list[int] = []
        ids = {stage.id for stage in stages}
        for place, stage in enumerate(stages):
            parents = {id for _, id in stage.parents} & ids
            self._missing.append(len(parents))
            for id in parents:
                self._children[id].append(place)
            if not parents:
                self._push(place)

    def take(self, held: Iterable[str] = ()) -> Stage | None:
        """The stage to run next where the artifacts of ``held`` are at hand: a child of theirs, or else the first that
        is ready, or one that was set aside; ``None`` while there is none."""
        for heap in (*(self._below[id] for id in held if id in self._below), self._ready):
            while heap:
                place = heapq.heappop(heap)
                if not self._taken[place]:
                    self._taken[place] = True
                    self.left -= 1
                    return self.stages[place]
        if self._aside and self.pause() == 0:
            self.left -= 1
            return self._aside.popleft()[1]
        return None

    def set_aside(self, stage: Stage) -> None:
        """Set a stage aside that was taken here and that another process has."""
        self.left += 1
        self._aside.append((time.monotonic() + PAUSE, stage))

    def pause(self) -> float | None:
        """Seconds until a stage that was set aside comes again; ``None`` where there is none."""
        return max(0.0, self._aside[0][0] - time.monotonic()) if self._aside else None

    def done(self, stage: Stage) -> None:
        """Mark a stage as ended, well or not: its children need not wait for it."""
        for place in self._children.pop(stage.id, ()):
            self._missing[place] -= 1
            if not self._missing[place]:
                self._push(place)

    def _push(self, place: int) -> None:
        heapq.heappush(self._ready, place)
        # Of many suspects one tells which models are at hand.
        stage = self.stages[place]
        for id in {id for _, id in stage.parents[: len(stage.required) + 1]}:
            heapq.heappush(self._below[id], place)
