"""Suspects in files of ONNX, by the extra ``onnx``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.owning.answers import in_parts

if TYPE_CHECKING:
    from torch import Tensor

    from harness.owning.folder import About


def load_onnx(path: Path, about: About) -> Callable[[Tensor], Any]:
    """The function of a model's first input and first output. Raises :class:`UsageError`, also without the extra."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"{str(path)!r} needs onnxruntime: type pip install 'watermark-harness[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own, of many kinds: an unknown operator, a damaged file
        reason = " ".join(str(error).split())
        raise UsageError(f"{str(path)!r} cannot be run by onnxruntime: {reason}") from error
    taken = session.get_inputs()[0]
    shape = tuple(taken.shape[1:])
    if len(shape) != len(about.input_shape) or any(
        isinstance(size, int) and size != own for size, own in zip(shape, about.input_shape, strict=True)
    ):
        raise UsageError(f"{str(path)!r} takes inputs of shape {shape}, the key's have {about.input_shape}")
    size = taken.shape[0] if isinstance(taken.shape[0], int) else 0

    def run(x: Tensor) -> Any:
        return session.run(None, {taken.name: x.numpy()})[0]

    return (lambda x: in_parts(run, x, size)) if size else run
