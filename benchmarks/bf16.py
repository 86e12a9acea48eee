"""Equality of models trained in bfloat16 with those trained in float32, on this CPU: in distribution, not bits.

Accuracy, success and the copy's margin, over seeds that differ, and the processor seconds that both took.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.equal import LARGEST, Numbers, Setting, by_engine, rows, seeds
from benchmarks.measure import Row, cpu_seconds, threads, with_data
from harness.contracts import Dataset
from harness.data import Data
from harness.planning.registry import load_registry

DATASET = "digits"
"""Ten seeds in either precision take minutes on it: three seeds of MNIST left intervals of up to 180 points."""
# The entangled loss is what reduced precision is most likely to hurt.
SCHEMES = ("baseline[placement=gradient]", "ewe")


@with_data
def bf16(root: Path, n: int) -> list[Row]:
    """Clean models, marked ones and surrogates of ``n`` seeds in either precision."""
    dataset: Dataset = load_registry().component("dataset", DATASET).plugin
    data, made = Data(root), []
    with threads(1):
        for scheme in SCHEMES:
            ours = seeds(_timed, data, dataset, 0, precision="bf16", scheme=scheme)
            theirs = seeds(_timed, data, dataset, LARGEST, precision="fp32", scheme=scheme)
            made += rows(f"bf16: {scheme}", "measured: the same in float32", ours, theirs, n)
    return made


def _timed(setting: Setting) -> Numbers:
    """The numbers of one seed, and the processor seconds that they took."""
    numbers: dict[str, float] = {}
    spent = cpu_seconds(lambda: numbers.update(by_engine(setting)))
    return numbers | {"processor seconds": spent}
