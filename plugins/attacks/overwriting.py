"""Removal by embedding another mark of the same scheme."""

from __future__ import annotations

from harness import Context, Pool, Skip, TuningAttack, nets, option, overwriting


class Overwriting(TuningAttack):
    """Embeds a mark of the victim's scheme, with the thief's own key, in the stolen model.

    The thief knows the scheme and its options, and the side of patches, and has its pool for the owner's data. The
    model goes on from the stolen weights, for as many epochs as a victim has: in the tenth of them that others take,
    most schemes embed nothing yet. Schemes that need inputs of another data set, mark answers and not weights, or embed
    nothing, are skipped.

    Not measured yet.
    """

    name = "overwriting"
    reference = (
        "Lukas et al., SoK: How Robust is Image Classification Deep Neural Network Watermarking?, IEEE S&P 2022; after "
        "Uchida et al., ICMR 2017, Section 4.4"
    )
    knows = "scheme"
    knows_patch = True
    arms = ("", "labels=model")

    epochs: int | None = option(None, doc="Epochs of the embedding; by default the recipe's.", at_least=1)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        if pool.scheme is None:
            raise Skip("the thief knows no scheme to overwrite")
        epochs = self.epochs or pool.recipe.epochs
        return overwriting.embed(pool.scheme, victim, self.data(victim, pool, ctx), pool, ctx, epochs).net
