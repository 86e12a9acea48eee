"""scikit-learn's handwritten digits: real 8 x 8 scans that are installed with the harness."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness import Arrays, Dataset, data


class Digits(Dataset):
    """1,797 handwritten digits, 8 x 8 grey: the set that needs no download."""

    name = "digits"
    reference = "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998"
    input_shape = (1, 8, 8)
    classes = tuple("0123456789")
    available = 1497
    published = True
    gates = (
        data.Gate(
            0.975, train=1347, source="98.16 ± 0.50 over 39 models, results/records/2026-11-27-digits-twenty-seeds"
        ),
    )

    train: int = 1347
    holdout: int = 150
    epochs: int = 24
    pretrain: int = 12
    batch_size: int = 64
    patch: int = 2
    ood: str = "photo-patches"

    def load(self, root: Path) -> Arrays:
        # Pixels 0..16 and the label in a row, as load_digits reads them: importing scikit-learn takes a second.
        table = np.loadtxt(data.package_file("sklearn", "datasets/data/digits.csv.gz"), delimiter=",")
        x = np.round(table[:, :64].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        y = table[:, 64].astype(np.int64)
        # Every sixth is a test sample: the same 300 for everybody, from all writers.
        test = np.arange(len(y)) % 6 == 0
        return Arrays(x[~test], y[~test], x[test], y[test])
