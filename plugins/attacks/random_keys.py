"""Random keys: of many keys that nobody embedded, the one that the stolen model happens to answer best."""

from __future__ import annotations

from harness import (
    Context,
    Count,
    Defense,
    Forgery,
    Key,
    Marked,
    Oracle,
    Pool,
    Skip,
    Split,
    WhiteBoxDefense,
    nets,
    option,
    overwriting,
)


class RandomKeys(Forgery):
    """Draws ``keys`` keys as the owner's scheme does, embeds none, and claims the model by the one it answers best.

    It costs no training, and no scheme can forbid it: the best of many keys is the far end of what a model answers by
    chance, or the owner's mark itself where the scheme has few keys. A judge who takes the false rate of one key for
    that of the best of many is misled the more, the fewer triggers or bits a key has. Asked of other models the chosen
    key is one key as any other. It is younger than the stolen model.

    A scheme that makes its key from a clean model makes it from the stolen one here.

    Measured on digits (3 victims of seeds 100 to 102, the best of 1,000 keys each): where a key is a pair of classes
    and a patch, the search finds the owner's own mark: 100% of the baseline's and of Zhang's (content), 99% of EWE's.
    Of keys without such a pattern chance gives 21% [17, 25] of Adi's, where one honest key has 12% [10, 14] of unmarked
    models' answers, and 68% [60, 76] of Uchida's 64 bits, where one has 49%. Five unmarked models answer the chosen
    keys as they answer the owners': 13%, 48%, 0%, 6% and 8% of Adi's, Uchida's, the baseline's, Zhang's and EWE's.
    """

    name = "random-keys"
    reference = "Adi et al., Turning Your Weakness Into a Strength, USENIX Security 2018, section 5 (key search)"
    labelled = True
    knows_patch = True

    keys: int = option(1000, doc="Number of draws; those of which the scheme makes no key are lost.", at_least=1)

    def run(self, suspect: nets.Net | None, pool: Pool, ctx: Context) -> Marked:
        scheme = pool.scheme
        if scheme is None or suspect is None:
            raise Skip("there is no scheme and no model to draw a key for")
        data, best, most, refused = Split(pool.x, pool.labels()), None, -1.0, None
        for _ in range(self.keys):
            try:
                key = overwriting.draw(scheme, suspect, data, pool, ctx)
            except Skip as reason:
                refused = reason
                continue
            if (share := answered(scheme, suspect, key, ctx)) > most:
                best, most = key, share
        if best is None:
            raise refused or Skip("no key was drawn")
        return Marked(suspect, best)


def answered(scheme: Defense, suspect: nets.Net, key: Key, ctx: Context) -> float:
    """The share, 0 to 1, of the key's triggers or bits that ``suspect`` answers as the key says."""
    if isinstance(scheme, WhiteBoxDefense):
        evidence = scheme.verify_weights(suspect, key)
    else:
        evidence = scheme.verify(Oracle(lambda x: ctx.predict(suspect, x)), key)
    found = evidence.counts["trigger"]
    return found.matches / max(1, found.trials) if isinstance(found, Count) else found.value
