"""Images of a user's own in a folder for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness import Arrays, own_data

from ._folders import Folders
from ._images import Images, code


class ImageFolder(Images, Folders):
    """Images of your own: a folder for each class, as torchvision's ImageFolder reads them."""

    name = "image-folder"
    suffixes = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
    noun = "image"

    def look(self) -> own_data.Facts:
        train = [sample for sample in self.samples if not sample.is_test]
        return own_data.Facts(self.names, self.shape(train[0].path, str(train[0].path)), len(train))

    def load(self, root: Path) -> Arrays:
        paths = [sample.path for sample in self.samples]
        x = self.kept(lambda: {"x": self.decoded(paths, list(map(str, paths)))}, code())["x"]
        y = np.array([sample.label for sample in self.samples], np.int64)
        train = self.available
        return Arrays(x[:train], y[:train], x[train:], y[train:])
