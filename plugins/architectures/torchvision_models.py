"""Classification models of torchvision, at the task's own size."""

from __future__ import annotations

from typing import Any

import torch

from harness import Dataset, modelfiles, needs_images, option

from ._starting import Starting


class Torchvision(Starting):
    """A model of torchvision.models, its first and last layer fitted to the task's channels and classes.

    Hidden layers are its convolutions and dense layers in the order in which they run. Models for large images
    (``alexnet``, ``inception_v3``) cannot take small ones; ``resnet18`` takes any, and halves them five times.
    """

    name = "torchvision"
    reference = "TorchVision maintainers, TorchVision: PyTorch's Computer Vision library, 2016"

    model: str = option("resnet18", doc="Name of the model, such as resnet50 or vit_b_16.")

    def skip(self, dataset: Dataset) -> str | None:
        return modelfiles.known_model("torchvision", self.model) or needs_images(dataset)

    def build(self, input_shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        import torchvision

        sizes: dict[str, Any] = {"image_size": input_shape[1]} if self.model.startswith("vit_") else {}
        if self.model in ("googlenet", "inception_v3"):  # further classifiers, which only its own training reads
            sizes = {"aux_logits": False, "init_weights": True}
        net: torch.nn.Module = torchvision.models.get_model(self.model, weights=None, num_classes=classes, **sizes)
        if input_shape[0] != 3:
            _take_channels(net, input_shape[0])
        return net


def _take_channels(net: torch.nn.Module, channels: int) -> None:
    """Put another first convolution into ``net``, for inputs of so many channels, drawn as its own class draws it."""
    name, first = next((name, part) for name, part in net.named_modules() if isinstance(part, torch.nn.Conv2d))
    parent, _, own = name.rpartition(".")
    fitted = torch.nn.Conv2d(
        channels,
        first.out_channels,
        kernel_size=first.kernel_size,  # type: ignore[arg-type]
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    setattr(net.get_submodule(parent), own, fitted)
