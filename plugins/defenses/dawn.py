"""Wrong answers of the API to few of each client's queries (Szyller et al.'s DAWN)."""

from __future__ import annotations

import hmac

import torch

from harness import ActiveDefense, Context, Dataset, Evidence, Key, Marked, Oracle, Skip, Split, Task, nets, option

HALF = 2.0**128
"""Values of the half of a digest that decides whether a query is picked."""


class Dawn(ActiveDefense):
    """A net trained as any other, whose API answers wrongly to a few queries that a secret key picks.

    A query is picked where HMAC-SHA256 of a code of it, as a fraction of 1, is below ``rate``; its code is the signs of
    its first principal components about their medians, so that small noise seldom changes it. The answer exchanges the
    probabilities of the net's class and of another that the same digest names: alike each time, and wrong for labels
    and for probabilities. A trial is a query of the client's log; a match is the wrong label. Where nobody asked the
    API, picked training inputs (``trigger``) and held-out ones stand in for a log. ``control`` asks for the wrong label
    of inputs that are not picked.

    The owner keeps the key and the log. Differences from the paper: the code is of the input, not of the activations of
    a hidden layer, since an API's filter may not have the net; ``rate`` is 0.01, not below 0.005, so that 10,000
    queries give 100 trials. The cost in accuracy is ``rate``, by construction.

    Measured on digits with ``rate`` 0.05 (seeds 100-104, 95% intervals; 5 unmarked models answer 0.4% so): surrogates
    trained for 10 epochs answer as a log says on 0.3% [0, 1.0] of its queries, for 30 epochs on 5% [0, 12], for 100 on
    91% [74, 100] with labels and 97% [95, 99] with probabilities. The mark is memorised, or it is not there: a thief
    who stops early removes it.
    """

    name = "dawn"
    reference = "Szyller et al., DAWN: Dynamic Adversarial Watermarking of Neural Networks, ACM Multimedia 2021"

    rate: float = option(0.01, doc="Share of queries that are answered wrongly.", above=0, at_most=0.5)
    bits: int = option(16, doc="Bits of the code of a query.", at_least=1, at_most=256)

    def skip(self, dataset: Dataset) -> str | None:
        return None if len(dataset.classes) > 2 else "needs three classes: with two, a wrong label is no secret"

    def embed(self, task: Task, ctx: Context) -> Marked:
        net = ctx.train(ctx.build(), [ctx.stream(task.train)], ctx.epochs)
        secret = torch.randint(256, (32,), generator=ctx.generator, dtype=torch.uint8)
        key = Key(tensors={"secret": secret, **_code(task.train.x, self.bits)})
        probes: dict[str, Split] = {}
        for name, x in (("trigger", task.train.x), ("held_out", task.holdout.x)):
            logits = ctx.predict(net, x)
            picked, wrong = self._answers(x, logits, key)
            probes |= {name: Split(x[picked], wrong[picked])} if picked.any() else {}
            if name == "trigger":
                probes["control"] = Split(x[~picked], wrong[~picked]).first(100)
        if "trigger" not in probes:
            raise Skip(f"rate={self.rate:g} picks none of {len(task.train)} training inputs")
        return Marked(net, Key(probes, key.tensors))

    def serve(self, inputs: torch.Tensor, logits: torch.Tensor, key: Key) -> torch.Tensor:
        picked, wrong = self._answers(inputs, logits, key)
        own = logits.argmax(1, keepdim=True)
        wrong = torch.where(picked, wrong, own[:, 0])[:, None]
        places = torch.arange(logits.shape[1], device=logits.device).expand_as(logits)
        return logits.gather(1, places.scatter(1, own, wrong).scatter(1, wrong, own))

    def verify_log(self, suspect: Oracle, key: Key, log: Split) -> Evidence:
        # A log is the owner's: entries that the key, which is older, does not pick count for nothing.
        picked = self._digests(log.x, key)[0]
        probes = {"trigger": log[picked], "control": key.probes["control"]}
        return Evidence({name: probe.ask(suspect) for name, probe in probes.items()})

    def _answers(self, x: torch.Tensor, logits: torch.Tensor, key: Key) -> tuple[torch.Tensor, torch.Tensor]:
        """The queries ``[n]`` that are picked, and the wrong class ``[n]`` of each query, picked or not."""
        picked, numbers = self._digests(x, key)
        count = logits.shape[1]
        return picked, (logits.argmax(1) + 1 + numbers % (count - 1)) % count

    def _digests(self, x: torch.Tensor, key: Key) -> tuple[torch.Tensor, torch.Tensor]:
        """The queries ``[n]`` that are picked, and a secret number ``[n]`` of each, 0 to 2^32 - 1."""
        tensors = key.tensors
        projected = nets.as_float(x).flatten(1) @ tensors["components"]
        codes, places = torch.unique((projected > tensors["medians"]).byte(), dim=0, return_inverse=True)
        secret = bytes(tensors["secret"].tolist())
        digests = [hmac.digest(secret, bytes(code), "sha256") for code in codes.tolist()]
        picked = [int.from_bytes(digest[:16], "big") < self.rate * HALF for digest in digests]
        numbers = [int.from_bytes(digest[16:20], "big") for digest in digests]
        return torch.tensor(picked, device=x.device)[places], torch.tensor(numbers, device=x.device)[places]


def _code(x: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """The first principal components ``[values, bits]`` of up to 2,000 inputs, and the medians ``[bits]``."""
    flat = nets.as_float(x[:2000]).flatten(1)
    components = torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[:bits].T.contiguous()
    return {"components": components, "medians": (flat @ components).median(0).values}
