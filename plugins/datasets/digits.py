"""scikit-learn's handwritten digits: real 8 x 8 scans that are installed with the harness."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness import Arrays, Dataset


class Digits(Dataset):
    """1,797 handwritten digits, 8 x 8 grey: the set that needs no download."""

    name = "digits"
    reference = "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998"
    input_shape = (1, 8, 8)
    classes = tuple("0123456789")
    available = 1497
    published = True

    train: int = 1347
    holdout: int = 150
    epochs: int = 24
    pretrain: int = 12
    batch_size: int = 64
    patch: int = 2
    ood: str = "photo-patches"

    def load(self, root: Path) -> Arrays:
        from sklearn.datasets import load_digits

        digits = load_digits()
        x = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        y = digits.target.astype(np.int64)
        # Every sixth is a test sample: the same 300 for everybody, from all writers.
        test = np.arange(len(y)) % 6 == 0
        return Arrays(x[~test], y[~test], x[test], y[test])
