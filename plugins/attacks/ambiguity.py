"""Forgery by embedding: the thief marks the stolen model with a key of his own, and claims it."""

from __future__ import annotations

from harness import Context, Forgery, Marked, Pool, Skip, Split, nets, option, overwriting


class Ambiguity(Forgery):
    """Embeds the thief's own key in the stolen model by the owner's scheme, as ``overwriting`` does, and claims it.

    Two keys then answer on the thief's model, and a judge who asks only that model cannot tell whose it is. Asked of
    the owner's victim too, the thief's key is silent where the scheme's keys are told apart (Fan et al., NeurIPS 2019,
    on ambiguity; Adi et al., section 3, on commitments). The key is younger than the stolen model: a judge who asks
    for a commitment that was made before it refuses it.

    Measured on digits (seeds 100 to 102): the thief's model answers 100% of his key, of Adi, Zhang (content), Uchida
    and the baseline alike. The owner's victims answer it as unmarked models do: 8% [4, 12] and 9% [8, 11] of Adi's, 48%
    [32, 65] and 51% [47, 55] of Uchida's bits, 0 to 2% of the others.
    """

    name = "ambiguity"
    reference = "Craver et al., Resolving Rightful Ownerships with Invisible Watermarking Techniques, IEEE JSAC 1998"
    labelled = True
    knows_patch = True

    epochs: int | None = option(None, doc="Epochs of the embedding; by default the recipe's.", at_least=1)

    def run(self, suspect: nets.Net | None, pool: Pool, ctx: Context) -> Marked:
        if pool.scheme is None or suspect is None:
            raise Skip("there is no scheme and no model to forge a key for")
        epochs = self.epochs or pool.recipe.epochs
        return overwriting.embed(pool.scheme, suspect, Split(pool.x, pool.labels()), pool, ctx, epochs)
