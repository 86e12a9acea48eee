"""A test device: tensors that say they are on a card, while the processor computes. No driver, no compiler.

PyTorch lets a program register a device of its own ("PrivateUse1"), also from Python. :func:`install` registers
``card``; a tensor there is an :class:`OnCard`, which holds a plain tensor. Every operation on it arrives in
:func:`_run`, from any thread and also in the backward pass; it is looked at, and computed on the held tensors.

What it finds:

- A tensor of the processor that meets one of the card: an error, as on a GPU. A scalar (no dimensions) may. It is
  stricter than a GPU where indices on the processor choose from a tensor on the card: a GPU copies these, and waits.
- A generator of the processor that is to draw on the card: an error, as on a GPU. The card has none of its own.
- Notes in :data:`LOG`, with their place in the sources, and whether that was within a training step
  (:func:`stepping`): waits of the host for the card (reading a value, boolean masks, copies to the processor), copies
  to the card, random draws on the card, results in float64, and operations that ``--deterministic`` refuses on CUDA.
- Types that do not fit under ``torch.autocast("card")``, by the rules of CUDA's autocast for common operations.

What it cannot find: what a GPU's own kernels do (rounding, order of sums, operations that CUDA lacks or that have no
deterministic kernel), what is asked for by the name ``cuda`` (graphs, pinned memory, streams, random states), races
between host and device, and memory. `make gpu` is for those. An error within the backward pass ends the process.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME, ROOT = "card", Path(__file__).parents[1]
OTHERS = (str(Path(torch.__file__).parent), str(Path(contextlib.__file__).parent))
"""Sources of PyTorch and of Python."""
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "_unique", "bincount")
"""Beginnings of the names of operations whose result, or whose shape, the host has to wait for."""
CHOOSING = ("index", "index_put", "index_put_", "_index_put_impl_")
"""Operations that wait where an index is a mask: the number of chosen elements is a shape."""
DRAWS = ("uniform_", "normal_", "random_", "bernoulli", "native_dropout", "randperm", "multinomial", "exponential_")
RANDOM = (
    *("adaptive_max_pool", "_adaptive_avg_pool", "fractional_max_pool", "max_pool3d", "avg_pool3d", "max_unpool"),
    *("reflection_pad", "upsample", "_upsample", "nll_loss2d", "_ctc_loss", "grid_sampler", "put_"),
)
"""Operations whose gradients on CUDA ``torch.use_deterministic_algorithms`` refuses, as its documentation says."""
COPIES = ("copy_", "_to_copy")
"""Operations that may have tensors of two devices."""
DIRECT = (
    *("arange", "arange.start", "arange.start_step", "linspace", "eye", "eye.m", "randperm", "randperm.generator"),
    "copy_",
)
"""Operations that would resize an empty tensor; and ``copy_``, for which ``torch.tensor`` would take a detour."""
LOWER = (
    *("conv1d", "conv2d", "conv2d.padding", "conv_transpose2d.input", "linear", "matmul", "mm", "mv", "bmm", "addmm"),
    *("addmv", "addbmm", "baddbmm", "prelu"),
)
"""Operations that CUDA's autocast computes in the lower precision."""
FULL = (
    *("exp", "expm1", "log", "log1p", "reciprocal", "rsqrt", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar"),
    *("softplus", "layer_norm", "group_norm", "cosine_similarity", "nll_loss", "kl_div", "l1_loss", "mse_loss"),
    *("smooth_l1_loss", "binary_cross_entropy_with_logits", "dist", "cdist", "logsumexp", "sum", "sum.dim_IntList"),
    *("prod", "cumsum", "softmax.int", "log_softmax.int", "linalg_vector_norm"),
)
"""Operations that it computes in float32. All others take what they get."""


@dataclass(frozen=True)
class Note:
    """Something that an operation did on the card."""

    kind: str
    """``wait``, ``copy`` (to the card), ``draw``, ``float64`` or ``random``."""
    operation: str
    place: str
    """File and function of the innermost call from this repository, such as ``harness/metrics.py accuracy``."""
    in_step: bool


LOG: list[Note] = []
_steps: list[None] = []  # not empty within a training step; of all threads, since the backward pass has its own
_kept: list[Any] = []
"""Registrations, which end with these objects."""


@contextmanager
def stepping() -> Iterator[None]:
    """Mark what is noted while the block runs as part of a training step."""
    _steps.append(None)
    try:
        yield
    finally:
        _steps.pop()


class OnCard(Tensor):
    """A tensor on the card, by the plain one that it holds."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCard:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "layout": held.layout}
        made = Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=torch.device(NAME, 0), **layout)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A tensor that is made in the inference mode could not be wrapped: on the card there are none.
        with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
            return _run(func, *args, **(kwargs or {}))

    def __repr__(self) -> str:
        return f"OnCard({self.held})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first.")


def _run(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute an operation that has a tensor on the card, or makes one there."""
    name, cards, others = func.overloadpacket.__name__, list[OnCard](), list[Tensor]()

    def held(each: Tensor) -> Tensor:
        (cards if isinstance(each, OnCard) else others).append(each)  # type: ignore[arg-type]
        return each.held if isinstance(each, OnCard) else each

    inner, named = _mapped(held, args), _mapped(held, kwargs)
    device = named.pop("device", None)
    makes = bool(cards) if device is None else torch.device(device).type == NAME
    _look(name, args, kwargs, cards, others, makes)
    if device is not None:
        named |= {"device": "cpu", "pin_memory": False}
    result = (_lstm_cell if name == "_thnn_fused_lstm_cell" else func)(*inner, **named)
    known = {id(each.held): each for each in cards} | {id(each): each for each in others}

    def wrapped(each: Tensor) -> Tensor:
        if makes and each.dtype == torch.float64:
            _note("float64", name)
        given = known.get(id(each))  # an operation in place returns what it was given
        return OnCard(each) if given is None else given

    if any(each.held.shape != each.shape for each in cards):
        raise NotImplementedError(f"{name} changes the shape of a tensor on the card in place")
    return _mapped(wrapped, result) if makes else result


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with ``function`` applied to each tensor in it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(_mapped(function, each) for each in value)
    if isinstance(value, dict):
        return {name: _mapped(function, each) for name, each in value.items()}
    return value


def _look(name: str, args: Any, kwargs: Any, cards: list[OnCard], others: list[Tensor], makes: bool) -> None:
    """Note what the operation does. Raises ``RuntimeError`` where a GPU does."""
    mixed = [tuple(each.shape) for each in others if each.ndim]
    if cards and mixed and name not in COPIES:
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} has one of {mixed[0]} on cpu")
    for each in (*args, *kwargs.values()):
        if isinstance(each, torch.Generator) and makes:
            raise RuntimeError(f"Expected a {NAME!r} device type for generator but found {each.device.type!r}: {name}")
    if name.startswith(RANDOM) and name.endswith(("_backward", "_")):
        _note("random", name)
    if name.startswith(DRAWS):
        _note("draw", name)
    masked = name in CHOOSING and any(each is not None and each.dtype == torch.bool for each in args[1])
    onto = name == "copy_" and isinstance(args[0], OnCard) and bool(others)
    read = (name == "copy_" and not isinstance(args[0], OnCard)) or (name == "_to_copy" and not makes)
    if masked or read or name.startswith(WAITS):
        _note("wait", name)
    elif onto:
        _note("copy", name)


def _note(kind: str, operation: str) -> None:
    frame, place = sys._getframe(2), "torch"
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and not file.startswith((*OTHERS, "<")):
            path = Path(file)
            place = f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name} {frame.f_code.co_name}"
            break
        frame = frame.f_back  # type: ignore[assignment]
    LOG.append(Note(kind, operation, place, bool(_steps)))


def _lstm_cell(x: Tensor, h: Tensor, c: Tensor, *biases: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """A step of an LSTM from its gates: one operation on a GPU, several on a processor."""
    gates = x + h
    for bias in biases:
        gates = gates if bias is None else gates + bias
    i, f, g, o = gates.chunk(4, 1)
    now = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * now.tanh(), now, gates


def _cast(func: Any, dtype: torch.dtype, *args: Any, **kwargs: Any) -> Any:
    """An operation under autocast, which computes in ``dtype``."""

    def cast(each: Tensor) -> Tensor:
        may = isinstance(each, OnCard) and each.is_floating_point() and each.dtype != torch.float64
        return each.to(dtype) if may else each

    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        return func(*_mapped(cast, args), **_mapped(cast, kwargs))


class _Module(_DummyBackendModule):
    """``torch.card``, as PyTorch asks it."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _named(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


@cache
def install() -> torch.device:
    """Register the device in this process, for as long as it lives, and return it.

    A module can move there only where it is given new parameters: see ``torch.__future__`` on conversion.
    """
    _setup_privateuseone_for_python_backend(NAME, _Module())
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(_run, "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in DIRECT:
        aten.impl(name, partial(_run, _named(name)), "PrivateUse1")
    for names, dtype in ((LOWER, torch.bfloat16), (FULL, torch.float32)):
        for name in names:
            aten.impl(name, partial(_cast, _named(name), dtype), "AutocastPrivateUse1")
    aten.impl("_thnn_fused_lstm_cell", _lstm_cell, "AutogradPrivateUse1")
    _kept.extend((everything, aten))
    return torch.device(NAME, 0)
