"""Any torch.nn.Module class, in a file of the user's own."""

from __future__ import annotations

import torch

from harness import Dataset, UsageError, modelfiles, option

from ._starting import Starting


class Module(Starting):
    """The class ``Net`` of ``my_net.py``, as ``module[path=my_net.py:Net]``.

    It is called as ``Net()``, ``Net(classes)`` or ``Net(input_shape, classes)``, whichever its signature takes. Inputs
    arrive as floats, of images in 0..1: what normalises them belongs into the module, or the recipe says ``normalize``.
    """

    name = "module"

    path: str = option("", doc="Python file and class, FILE.py:CLASS; the file may import what lies beside it.")

    def named_files(self) -> tuple[str, ...]:
        own = self.path.rpartition(":")[0] or self.path
        return (*([own] if own else []), *super().named_files())

    def skip(self, dataset: Dataset) -> str | None:
        if not self.path:
            return "it needs the file of a class: module[path=my_net.py:Net]"
        modelfiles.class_file(self.path)
        return None

    def build(self, input_shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        if not self.path:
            raise UsageError("module needs the file of a class: module[path=my_net.py:Net]")
        return modelfiles.construct(self.path, input_shape, classes)
