"""Settings of torch and numpy that plugins change. Neither module is imported here."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

Read: TypeAlias = Callable[[], Any]
Write: TypeAlias = Callable[[Any], object]


def numpy_settings(np: Any) -> list[tuple[str, Read, Write]]:
    """Settings of numpy: name, reader, writer."""

    def errors() -> tuple[dict[str, str], Any, int]:
        return np.geterr(), np.geterrcall(), np.getbufsize()

    def set_errors(before: tuple[dict[str, str], Any, int]) -> None:
        kinds, call, size = before
        np.seterr(**kinds)
        np.seterrcall(call)
        np.setbufsize(size)

    return [
        ("numpy errors", errors, set_errors),
        ("numpy print options", np.get_printoptions, lambda before: np.set_printoptions(**before)),
    ]


def torch_settings(torch: Any) -> list[tuple[str, Read, Write]]:
    """Settings of torch: name, reader, writer. The default device stands before the modes, since it is one of them."""
    return [
        ("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
        ("inference mode", torch.is_inference_mode_enabled, lambda before: _enter(torch.inference_mode(before))),
        ("default dtype", torch.get_default_dtype, torch.set_default_dtype),
        ("default device", *_device(torch)),
        ("function modes", torch._C._len_torch_function_stack, lambda before: _pop(torch, before)),
        ("torch threads", torch.get_num_threads, torch.set_num_threads),
        ("deterministic algorithms", *_deterministic(torch)),
        ("cudnn flags", *_cudnn(torch)),
        ("float32 matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (
            "anomaly mode",
            lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
            lambda before: torch.autograd.set_detect_anomaly(*before),
        ),
        ("autocast", *_autocast(torch)),
        ("torch print options", *_contents(lambda: vars(torch._tensor_str.PRINT_OPTS))),
        ("torch warnings", torch.is_warn_always_enabled, torch.set_warn_always),
        ("global module hooks", *_hooks(torch)),
        ("current GPU", *_gpu(torch)),
    ]


_entered: list[Any] = []
"""Contexts that stay entered: one that is collected would leave by itself."""


def _enter(context: Any) -> None:
    context.__enter__()
    _entered.append(context)


def _device(torch: Any) -> tuple[Read, Write]:
    known = torch._GLOBAL_DEVICE_CONTEXT  # by thread; asking get_default_device() takes ten times as long

    def write(before: Any) -> None:
        torch.set_default_device(before and before.device)
        known.device_context = before

    return lambda: getattr(known, "device_context", None), write


def _pop(torch: Any, before: int) -> None:
    from torch.overrides import _pop_mode

    while torch._C._len_torch_function_stack() > before:
        _pop_mode()


def _deterministic(torch: Any) -> tuple[Read, Write]:
    def write(before: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])

    return (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        write,
    )


def _cudnn(torch: Any) -> tuple[Read, Write]:
    flags, of = torch.backends.cudnn, torch._C  # the module's properties ask these, ten times as slowly

    def read() -> tuple[bool, ...]:
        return of._get_cudnn_enabled(), of._get_cudnn_benchmark(), of._get_cudnn_deterministic()

    def write(before: tuple[bool, ...]) -> None:
        flags.enabled, flags.benchmark, flags.deterministic = before

    return read, write


def _autocast(torch: Any) -> tuple[Read, Write]:
    enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype

    def read() -> list[Any]:
        return [torch.is_autocast_cache_enabled(), enabled("cpu"), dtype("cpu"), enabled("cuda"), dtype("cuda")]

    def write(before: list[Any]) -> None:
        torch.set_autocast_cache_enabled(before[0])
        for kind, was_enabled, was_dtype in zip(("cpu", "cuda"), before[1::2], before[2::2], strict=True):
            torch.set_autocast_enabled(kind, was_enabled)
            torch.set_autocast_dtype(kind, was_dtype)
        torch.clear_autocast_cache()

    return read, write


def _contents(of: Callable[[], dict[str, Any]]) -> tuple[Read, Write]:
    return lambda: dict(of()), lambda before: of().update(before)


def _hooks(torch: Any) -> tuple[Read, Write]:
    """Hooks of all modules, such as those that ``register_module_forward_hook`` adds."""
    known = [
        value
        for name, value in sorted(vars(torch.nn.modules.module).items())
        if name.startswith("_global_") and isinstance(value, dict)
    ]

    none = [_NONE] * len(known)

    def write(before: list[dict[Any, Any]]) -> None:
        for hooks, content in zip(known, before, strict=True):
            hooks.clear()
            hooks.update(content)

    # Most are empty, and a copy of an empty one is not needed to see that.
    return lambda: [dict(hooks) if hooks else _NONE for hooks in known] if any(known) else none, write


_NONE: dict[Any, Any] = {}


def _gpu(torch: Any) -> tuple[Read, Write]:
    def read() -> int | None:
        return torch.cuda.current_device() if torch.cuda.is_initialized() else None

    return read, lambda before: before is not None and torch.cuda.set_device(before)


# --- random states ----------------------------------------------------------------------------------------------------


def seed_all(seed: int) -> None:
    """Seed the global random states, so that what draws from them does not depend on what ran before."""
    random.seed(seed)
    if (np := sys.modules.get("numpy")) is not None:
        np.random.seed(seed % 2**32)
    torch: Any = sys.modules.get("torch")
    if torch is not None and "default_generator" in vars(torch):
        # Not manual_seed(): it notes the call's traceback where no GPU is in use yet.
        torch.default_generator.manual_seed(seed)
        if "torch.cuda" in sys.modules and torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)


def random_states() -> list[Any]:
    """The global random states of Python, numpy, torch and its GPUs, for :func:`set_random_states`."""
    np: Any = sys.modules.get("numpy")
    torch: Any = sys.modules.get("torch")
    here = torch is not None and "default_generator" in vars(torch)
    return [
        random.getstate(),
        np.random.get_state(legacy=False) if np is not None else None,
        torch.default_generator.get_state() if here else None,
        torch.cuda.get_rng_state_all() if here and torch.cuda.is_initialized() else None,
    ]


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put the global random states back when the block ends: the guards within it need not."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


def equal_states(one: list[Any], other: list[Any]) -> bool:
    """Say whether two results of :func:`random_states` are of the same states."""
    return [_plain(state) for state in one] == [_plain(state) for state in other]


def _plain(state: Any) -> Any:
    """A state as a value that compares: arrays and tensors as bytes."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    if isinstance(state, list):
        return [_plain(each) for each in state]
    if hasattr(state, "numpy"):
        return state.numpy().tobytes()
    return state.tobytes() if hasattr(state, "tobytes") else state


def set_random_states(states: list[Any]) -> None:
    """Set the global random states to what :func:`random_states` returned."""
    of_python, of_numpy, of_torch, of_gpus = states
    random.setstate(of_python)
    if of_numpy is not None:
        sys.modules["numpy"].random.set_state(of_numpy)
    if of_torch is not None:
        torch: Any = sys.modules["torch"]
        torch.default_generator.set_state(of_torch)
        if of_gpus is not None:
            torch.cuda.set_rng_state_all(of_gpus)
