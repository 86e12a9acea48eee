"""What is counted, against plain loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics import linear_cka, mask_overlap, window_rank

law = settings(deadline=None, max_examples=60, database=None, derandomize=True)


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- CKA --------------------------------------------------------------------------------------------------------------


def unbiased_hsic(x: torch.Tensor, y: torch.Tensor) -> float:
    """The mean over all quadruples of different rows of Gretton's h: what the formula sums up."""
    k, m, n, total, count = x @ x.T, y @ y.T, len(x), 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += float(k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]))
                        count += 1
    return total / count


def test_cka_is_the_ratio_of_unbiased_hsics() -> None:
    x, y = normal(7, 3, 1), normal(7, 5, 2)
    y[:, :3] += x
    expected = unbiased_hsic(x, y) / math.sqrt(unbiased_hsic(x, x) * unbiased_hsic(y, y))
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-9)


@law
@given(st.integers(0, 10**6), st.integers(5, 12), st.floats(0.01, 100))
def test_cka_of_a_rotated_scaled_shifted_copy_is_one(seed: int, rows: int, scale: float) -> None:
    x = normal(rows, 4, seed)
    rotation, _ = torch.linalg.qr(normal(4, 4, seed + 1))
    assert linear_cka(x, scale * x @ rotation + 3) == pytest.approx(1, abs=1e-9)


def test_cka_of_unrelated_features_is_about_zero_however_many_there_are() -> None:
    values = [linear_cka(normal(40, 4000, seed), normal(40, 4000, 100 + seed)) for seed in range(20)]
    # The plain estimate is 0.99 here.
    assert abs(sum(values) / len(values)) < 0.01


def test_cka_needs_pairs_and_variation() -> None:
    with pytest.raises(ValueError, match="at least 4, not 3 and 3"):
        linear_cka(normal(3, 2), normal(3, 2))
    with pytest.raises(ValueError, match="not 5 and 6"):
        linear_cka(normal(5, 2), normal(6, 2))
    assert math.isnan(linear_cka(torch.ones(6, 2), normal(6, 2)))


# --- where a trigger was found ----------------------------------------------------------------------------------------


def mask(top: int, left: int, side: int = 2, size: int = 5) -> torch.Tensor:
    made = torch.zeros(size, size, dtype=torch.bool)
    made[top : top + side, left : left + side] = True
    return made


def slow_rank(found: torch.Tensor, top: int, left: int, side: int = 2) -> float:
    size = len(found)
    heights = {
        (i, j): float(found[i : i + side, j : j + side].double().mean())
        for i in range(size - side + 1)
        for j in range(size - side + 1)
    }
    return sum(height >= heights[top, left] - 1e-12 for height in heights.values()) / len(heights)


@law
@given(st.integers(0, 10**6), st.integers(0, 3), st.integers(0, 3))
def test_the_rank_of_a_window_counts_all_windows_of_its_shape(seed: int, top: int, left: int) -> None:
    found = normal(5, 5, seed).abs().float()
    assert window_rank(found, mask(top, left)) == pytest.approx(slow_rank(found, top, left))


def test_the_rank_of_a_window_by_hand() -> None:
    found = mask(1, 2).float()
    assert window_rank(found, mask(1, 2)) == 1 / 16
    assert window_rank(torch.zeros(5, 5), mask(0, 0)) == 1.0
    assert window_rank(found, torch.zeros(5, 5)) is None
    both = mask(0, 0) | mask(3, 3)  # two corners: only one window of that shape
    assert window_rank(found, both) is None


def test_the_overlap_of_two_masks() -> None:
    assert mask_overlap(mask(0, 0).float(), mask(0, 0)) == 1.0
    assert mask_overlap(mask(0, 0).float(), mask(0, 1)) == pytest.approx(2 / 6)
    assert mask_overlap(torch.zeros(5, 5), torch.zeros(5, 5)) == 0.0
