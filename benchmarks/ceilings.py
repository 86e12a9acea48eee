"""Ceilings of a machine: matrix products and copies, in the precision that is in force."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.measure import seconds

CPU = torch.device("cpu")
PRECISIONS = ("fp32", "tf32", "bf16")


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Wall seconds of ``work`` on ``device``, until its last kernel has ended."""
    if device.type == "cpu":
        return seconds(work)
    torch.cuda.synchronize(device)

    def finished() -> None:
        work()
        torch.cuda.synchronize(device)

    return seconds(finished)


@contextmanager
def products(name: str) -> Iterator[None]:
    """A GPU's matrix products and convolutions as ``harness run --precision`` has them: TF32, unless in fp32."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)  # of which the stubs know little
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = name != "fp32"
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


@contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """Compute within in the precision ``name`` (see ``PRECISIONS``) on a GPU; on a CPU always in fp32."""
    if device.type == "cpu":
        yield
        return
    # Without the cache of cast weights: a captured step would keep those of the step that recorded it.
    with products(name), torch.autocast("cuda", torch.bfloat16, enabled=name == "bf16", cache_enabled=False):
        yield


def product_gflops(device: torch.device = CPU, name: str = "fp32") -> float:
    """GFLOP/s of one large matrix product: 2048 x 2048 fills a CPU's caches, a GPU needs more and several of them."""
    size, times = (2048, 1) if device.type == "cpu" else (8192, 20)
    a, b = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    if name == "bf16" and device.type == "cuda":
        a, b = a.bfloat16(), b.bfloat16()
    with precision(name, device):
        a @ b  # a library's first call prepares it
        return times * 2 * size**3 / timed(device, lambda: [a @ b for _ in range(times)]) / 1e9


def copy_gbs(device: torch.device = CPU) -> float:
    """GB/s of a copy that no cache holds: bytes read and bytes written."""
    count, times = (2**25, 1) if device.type == "cpu" else (2**28, 20)
    source = torch.ones(count, device=device)
    to = source.clone()  # memory that has been written to: the first touch of a page is not what is measured
    return times * 2 * 4 * count / timed(device, lambda: [to.copy_(source) for _ in range(times)]) / 1e9
