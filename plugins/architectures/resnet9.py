"""A slim residual net of three stages, for CIFAR-10 on a CPU."""

from __future__ import annotations

import torch

from harness import Architecture, Dataset, needs_images, nets, option


class ResNet9(Architecture):
    """A stem, three stages of two 3x3 convolutions with batch norm, and the largest value of each channel.

    The first convolution of a stage is pooled to half the size; the second is added to its own input, as in the
    ResNet-9 of speed records, of which this is a slim form (eight layers with weights).
    """

    name = "resnet9"
    reference = "Page, How to Train Your ResNet, 2018; Jordan, 94% on CIFAR-10 in 3.29 Seconds, arXiv 2404.00498"

    width: int = option(
        32,
        doc="Channels of the first stage; the stem has three quarters, the two other stages four times as many.",
        at_least=2,
    )
    divisor: int = option(
        1,
        doc="Divisor of what the last layer reads: 8 lets SGD begin at a large rate; Adam learns slowly by it.",
        at_least=1,
    )

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset, 8)

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        nn, channels = torch.nn, max(1, 3 * self.width // 4)
        blocks = {"stem": [nn.Conv2d(input_shape[0], channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]}
        for stage, units in enumerate((self.width, 4 * self.width, 4 * self.width), start=1):
            first, second = (nn.Conv2d(inputs, units, 3, padding=1, bias=False) for inputs in (channels, units))
            blocks[f"stage{stage}_pooled"] = [first, nn.MaxPool2d(2), nn.BatchNorm2d(units)]
            blocks[f"stage{stage}_added"] = [second, nn.BatchNorm2d(units)]
            channels = units
        # Of what three poolings leave. Not AdaptiveMaxPool2d: `--deterministic` has no gradient of that on a GPU.
        largest = nn.MaxPool2d((input_shape[1] // 8, input_shape[2] // 8))
        divided = [nn.AvgPool2d(1, divisor_override=self.divisor)] if self.divisor > 1 else []
        head = [largest, *divided, nn.Flatten(), nn.Linear(channels, classes)]
        return nets.Layers(**blocks, logits=head, added=[name for name in blocks if name.endswith("added")])
