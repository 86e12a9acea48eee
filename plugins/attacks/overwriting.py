"""Removal by embedding another mark of the same scheme."""

from __future__ import annotations

from harness import Context, Pool, Skip, TuningAttack, nets, option, overwriting


class Overwriting(TuningAttack):
    """Embeds a mark of the victim's scheme, with the thief's own key, in the stolen model.

    The thief knows the scheme and its options, and the side of patches, and has its pool for the owner's data. The
    model goes on from the stolen weights, for as many epochs as a victim has: in the tenth of them that others take,
    most schemes embed nothing yet. Schemes that need inputs of another data set, mark answers and not weights, or embed
    nothing, are skipped.

    Measured: digits, seeds 100 to 102, shares of matches with 95% intervals, of victims that match 100, 99.5 and 100%
    (uchida, ewe, adi) at 98.2, 96.7 and 97.7% accuracy. After it 87.5 (73.5 to 100), 68.6 (two seeds, 0 to 100) and
    47.7% (27.6 to 67.7), at 98.1, 98.3 and 97.8%. The third EWE is skipped, since the thief's patch does not show; and
    unmarked models that go through it answer 36% of EWE's triggers. Of the thief's own mark, after 1, 3, 5 and 10
    epochs (one seed): uchida 52, 55, 67 and 86%, adi 12, 24, 34 and 57%, deepsigns 59, 95, 100 and 100%, app 87% and
    then 100% (of the owner's 9% and then 0).
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
