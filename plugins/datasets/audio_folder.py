"""Clips of a user's own in a folder for each word."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from harness import Arrays, Augment, own_data

from ._folders import Folders
from .speech_commands import FRAMES, LIMIT, MELS, Clip, _arrays


class AudioFolder(Folders):
    """Spoken words of your own: a folder of clips for each, as 125 x 80 spectrograms of one second each.

    Spectrograms and recipe are those of `speech-commands`: mono, 16 kHz, shorter clips padded with silence, of longer
    ones the middle.
    """

    name = "audio-folder"
    suffixes = (".flac", ".ogg", ".wav")
    noun = "clip"

    architecture: str = "lstm"
    epochs: int = 40
    pretrain: int = 30
    clip_norm: float = 1.0
    label_smoothing: float = 0.1
    normalize: bool = False
    augment: Augment = "shift"
    patch: int = 10
    corners: Literal["one", "two"] = "two"
    placement: Literal["gradient", "corner"] = "corner"

    def look(self) -> own_data.Facts:
        available = sum(not sample.is_test for sample in self.samples)
        return own_data.Facts(self.names, (1, FRAMES, MELS), available, (-LIMIT, LIMIT))

    def load(self, root: Path) -> Arrays:
        parts: dict[bool, Literal["train", "test"]] = {False: "train", True: "test"}
        return _arrays(self, [Clip(sample.path, sample.label, parts[sample.is_test]) for sample in self.samples])
