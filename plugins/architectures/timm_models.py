"""Models of timm (PyTorch Image Models), at the task's own size."""

from __future__ import annotations

from typing import Any

import torch

from harness import Dataset, modelfiles, needs_images, option

from ._starting import Starting


class Timm(Starting):
    """A model of timm, its first and last layer fitted to the task's channels and classes.

    Hidden layers are its convolutions and dense layers in the order in which they run. No weights are downloaded.
    """

    name = "timm"
    reference = "Wightman, PyTorch Image Models, 2019"

    model: str = option("resnet18", doc="Name of the model, such as convnext_atto or vit_tiny_patch16_224.")

    def skip(self, dataset: Dataset) -> str | None:
        return modelfiles.known_model("timm", self.model) or needs_images(dataset)

    def build(self, input_shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        import timm

        known = timm.get_pretrained_cfg(self.model, allow_unregistered=True)
        sizes: dict[str, Any] = {"img_size": input_shape[1:]} if known and known.fixed_input_size else {}
        net: torch.nn.Module = timm.create_model(
            self.model, pretrained=False, num_classes=classes, in_chans=input_shape[0], **sizes
        )
        return net
