"""Evasion by an auto-encoder, which redraws every query from what it knows of benign ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness import Context, Dataset, Pool, Preprocessing, Split, Stream, needs_images, nets, option


class Reconstruction(Preprocessing):
    """Answers what an auto-encoder makes of each query through a narrow layer; it has only seen the pool's inputs.

    Two convolutions of 32 and 64 channels halve the sides, a dense layer narrows them to ``bottleneck`` units, and the
    same layers lead back. It is trained by the mean squared error with Adam; its weights are in the guard. The thief
    needs inputs, no labels.

    Measured: 3 seeds of digits (100 to 102), n = 3 victims a scheme. It costs 0.6 points of accuracy (15 victims of
    five schemes, -0.3 to 1.3) and leaves 7.3% (95%: 0 to 21.3) of the triggers of a patch, 20.3% (12.7 to 27.9) of
    Adi's, 20.3% (0 to 85.6) of Zhang's noise, 60.4% (42.6 to 78.1) of EWE's and 93.3% (84.6 to 100) of frontier
    stitching's. Training takes 3 s of one core, on 5,000 images of 28 x 28 68 s.
    """

    name = "reconstruction"
    reference = "Meng and Chen, MagNet, CCS 2017; Lukas et al., SoK: Watermarking, S&P 2022"
    arms = ("", "bottleneck=128")

    bottleneck: int = option(32, doc="Units of the narrow layer.", at_least=1)
    epochs: int = option(50, doc="Epochs of the auto-encoder.", at_least=1)
    learning_rate: float = option(1e-3, doc="Rate of Adam.", above=0)

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset, 4)

    def prepare(self, suspect: nets.Net, pool: Pool, ctx: Context) -> Mapping[str, torch.Tensor]:
        guard = super().prepare(suspect, pool, ctx)

        def loss(net: nets.Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            x = self.unit(x, guard)
            return torch.nn.functional.mse_loss(net(x), x)

        with nets.seeded(ctx.generator):
            net = self._autoencoder(pool.recipe.input_shape).to(ctx.device)
        inputs = Split(pool.x, torch.zeros(len(pool.x), dtype=torch.int64, device=ctx.device))
        ctx.train(
            net,
            [Stream((inputs,), pool.recipe.batch_size, loss)],
            self.epochs,
            optimizer="adam",
            learning_rate=self.learning_rate,
            schedule="constant",
            weight_decay=0.0,
        )
        return {**guard, **{f"net.{name}": tensor for name, tensor in net.state_dict().items()}}

    def transform(self, x: torch.Tensor, guard: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        with torch.device("meta"):  # nothing is drawn
            net = self._autoencoder(tuple(x.shape[1:]))
        state = {name.removeprefix("net."): tensor for name, tensor in guard.items() if name.startswith("net.")}
        net.load_state_dict(state, assign=True)
        redrawn: torch.Tensor = net.eval()(x)
        return redrawn

    def _autoencoder(self, shape: tuple[int, ...]) -> nets.Net:
        """A net from images of ``shape`` to images of it; each convolution but the last has a ReLU after it."""
        nn, channels = torch.nn, shape[0]
        half = tuple((side + 1) // 2 for side in shape[1:])
        quarter = tuple((side + 1) // 2 for side in half)
        size = 64 * quarter[0] * quarter[1]
        return nets.Layers(
            down1=nn.Conv2d(channels, 32, 3, stride=2, padding=1),
            down2=nn.Conv2d(32, 64, 3, stride=2, padding=1),
            narrow=[nn.Flatten(), nn.Linear(size, self.bottleneck)],
            wide=nn.Linear(self.bottleneck, size),
            up1=[nn.Unflatten(1, (64, *quarter)), _doubled(64, 32, half)],
            up2=_doubled(32, channels, shape[1:]),
        )


def _doubled(inputs: int, outputs: int, sides: tuple[int, ...]) -> torch.nn.Module:
    """The transposed convolution to images of ``sides``, from those that a convolution of stride 2 leaves of them."""
    even = (1 - sides[0] % 2, 1 - sides[1] % 2)
    return torch.nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=even)
