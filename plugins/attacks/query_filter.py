"""Evasion by an anomaly detector on the queries: those that look unlike benign inputs are not answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from harness import Context, Evasion, Pool, Skip, nets, option


class QueryFilter(Evasion):
    """Refuses queries whose penultimate features are outliers among those of the pool.

    The detector is fitted on half of the pool, and its threshold is set on the other half, so that ``rejection`` of the
    benign queries is refused. What that costs shows in the surrogate's accuracy.
    """

    name = "query-filter"
    reference = "Breunig et al., LOF, SIGMOD 2000; Liu et al., Isolation Forest, ICDM 2008"
    arms = tuple(
        f"detector={detector},rejection={share}" for detector in ("lof", "isolation-forest") for share in (0.01, 0.05)
    )

    detector: Literal["lof", "isolation-forest"] = option(
        "lof", doc="Detector of outliers: scikit-learn's Local Outlier Factor, or its Isolation Forest."
    )
    rejection: float = option(0.05, doc="Share of benign queries that is refused.", above=0, below=1)
    samples: int = option(2000, doc="Number of the pool's inputs that are used, half of them to fit.", at_least=40)

    def prepare(self, suspect: nets.Net, pool: Pool, ctx: Context) -> dict[str, torch.Tensor]:
        if len(pool.x) < 40:
            raise Skip(f"a pool of {len(pool.x)} inputs is too small to tell outliers")
        order = torch.randperm(len(pool.x), generator=ctx.generator)[: self.samples]
        features = nets.penultimate(suspect, pool.x[order.to(pool.x.device)])
        fitted, held_back = features.tensor_split(2)
        seed = torch.randint(2**31, (), generator=ctx.generator)
        normal = self._normality(fitted, held_back, int(seed))
        threshold = normal.quantile(self.rejection)
        return {"features": fitted.clone(), "threshold": threshold, "seed": seed}

    def serve(
        self, suspect: nets.Net, inputs: torch.Tensor, logits: torch.Tensor, guard: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        normal = self._normality(guard["features"], nets.penultimate(suspect, inputs), int(guard["seed"]))
        refused = normal < guard["threshold"].to(normal.device)
        return logits.masked_fill(refused[:, None].to(logits.device), torch.nan)

    def _normality(self, fitted: torch.Tensor, x: torch.Tensor, seed: int) -> torch.Tensor:
        """Normality of each row of ``x`` ``[n, d]`` is among ``fitted`` ``[m, d]``: ``[n]`` float64, larger is more."""
        from sklearn.ensemble import IsolationForest
        from sklearn.neighbors import LocalOutlierFactor

        known, asked = fitted.cpu().numpy(), x.cpu().numpy()
        # Fitted again from stored features each time it serves: a fitted detector could only be pickled.
        model: Any
        if self.detector == "lof":
            model = LocalOutlierFactor(n_neighbors=min(20, len(known) - 1), novelty=True)
        else:
            model = IsolationForest(random_state=seed)
        return torch.from_numpy(model.fit(known).score_samples(asked)).double()
