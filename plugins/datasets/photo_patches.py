"""Patches of scikit-learn's two sample photographs: out-of-distribution inputs for 8 x 8 images, installed with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness import Arrays, Dataset, data


class PhotoPatches(Dataset):
    """8 x 8 grey patches of two photographs (a Chinese temple, a flower); the class is the photograph."""

    name = "photo-patches"
    reference = "scikit-learn, sklearn.datasets.load_sample_images"
    input_shape = (1, 8, 8)
    classes = ("china", "flower")
    available = 7066
    published = True

    train: int = 2000
    holdout: int = 400
    epochs: int = 12
    pretrain: int = 6
    batch_size: int = 64
    source: int = 0
    target: int = 1
    patch: int = 2
    ood: str = "digits"
    ood_class: int = 1

    def load(self, root: Path) -> Arrays:
        from PIL import Image

        # As load_sample_images reads them: importing scikit-learn takes a second.
        photographs = (data.package_file("sklearn", f"datasets/images/{name}.jpg") for name in self.classes)
        grey = [np.round(np.asarray(Image.open(file)).mean(axis=2)).astype(np.uint8) for file in photographs]
        x = np.concatenate([_patches(image) for image in grey])[:, None]
        y = np.repeat(np.arange(2), len(x) // 2)
        test = np.arange(len(y)) % 6 == 0
        return Arrays(x[~test], y[~test], x[test], y[test])


def _patches(image: np.ndarray) -> np.ndarray:
    """The 8 x 8 tiles of an image ``[height, width]``, row by row; what is left at the edges is cut off."""
    rows, columns = image.shape[0] // 8, image.shape[1] // 8
    tiles = image[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8)
    return tiles.swapaxes(1, 2).reshape(-1, 8, 8)
