"""The folder of an owner: what ``harness embed`` writes and ``harness verify`` reads. One module knows its files.

::

    commitment.json          to be published before a dispute: digests of the key and of owner.json
    owner.json               may be shown: scheme, data, rules, versions, answers of unmarked models
    victim.safetensors       the marked model
    secret/key.safetensors   the key
    secret/opening.bin       the random bytes that open the commitment
    secret/origin.json       the seed, from which who has the harness and the data can make the key again
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.errors import UsageError
from harness.files import whole_folder
from harness.owning.verdict import PROBE
from harness.verdicts.rules import Rules

if TYPE_CHECKING:
    from harness.contracts import Key

FORMAT = 1
"""Version of the folder; another one is refused."""
KEY, OPENING, ORIGIN = "secret/key.safetensors", "secret/opening.bin", "secret/origin.json"
ABOUT, COMMITMENT, VICTIM = "owner.json", "commitment.json", "victim.safetensors"
RULES = ("confidence", "min_margin", "max_drop", "gamma")
"""The rules of a verdict, fixed before any suspect is asked."""

Counts: TypeAlias = dict[str, list[tuple[int, int]]]
"""Matches and trials of several models, by probe."""


@dataclass(frozen=True)
class About:
    """Facts about a key that may be shown: they say nothing of its inputs, labels or seed."""

    scheme: str
    dataset: str
    asks: str
    """``inputs`` where any API can be asked, ``weights`` of a white-box scheme."""
    input_shape: tuple[int, ...]
    classes: int
    value_range: tuple[float, float]
    rules: dict[str, float]
    victim: dict[str, tuple[int, int]]
    """Matches and trials of the marked model by probe."""
    unmarked: dict[str, Counts]
    """Answers of the unmarked models that count, by attack chain; ``none`` where nobody attacked them."""
    left_out: dict[str, str]
    """Attack chains without a verdict, with the reason."""
    others: Counts
    """Answers of models that the same scheme marked for other owners."""
    versions: dict[str, str]
    made: str
    """Time in UTC, ISO 8601. A commitment is dated by its publication alone."""
    format: int = FORMAT

    @property
    def verdict_rules(self) -> Rules:
        chosen: dict[str, Any] = dict(self.rules)
        return Rules(**chosen)


@dataclass(frozen=True)
class Owner:
    """An owner's folder that was read: its facts and its key's bytes, which fit the commitment that was found."""

    folder: Path
    about: About
    key_data: bytes
    commitment: str
    """Sentence on the commitment."""

    @property
    def key_digest(self) -> str:
        """A name for the key that does not lead to it: the digest of its digest."""
        return hashlib.sha256(hashlib.sha256(self.key_data).digest()).hexdigest()[:16]

    def key(self) -> Key:
        """The key as tensors. Raises :class:`UsageError` for a damaged one."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load

        from harness.errors import DamagedArtifact
        from harness.storage.codec import unpack
        from harness.storage.store import Artifact

        try:
            artifact = Artifact({}, load(self.key_data))
            key = unpack(artifact, _no_lookup, torch.device("cpu")).key
        except (SafetensorError, DamagedArtifact, ValueError) as error:
            raise UsageError(f"{str(self.folder / KEY)!r} is no key that harness embed wrote: {error}") from error
        # In one order, whatever that of their names: a budget may end between two.
        names = sorted(key.probes, key=lambda name: (name != PROBE, name))
        return replace(key, probes={name: key.probes[name] for name in names})


def _no_lookup(kind: str, text: str) -> Any:
    raise UsageError(f"a key needs no {kind} {text!r}")


# --- writing ----------------------------------------------------------------------------------------------------------


def write_owner(folder: Path, about: About, victim: bytes, key: bytes, origin: Mapping[str, Any]) -> str:
    """Write the folder, whole or not at all; the commitment. Raises :class:`UsageError`."""
    opening = secrets.token_bytes(32)
    shown = (json.dumps(asdict(about), indent=1) + "\n").encode()
    digest = hashlib.sha256(opening + key).hexdigest()
    committed = {"format": FORMAT, "key": digest, ABOUT: hashlib.sha256(shown).hexdigest()}
    files = {
        ABOUT: shown,
        COMMITMENT: _json(committed),
        VICTIM: victim,
        KEY: key,
        OPENING: opening,
        ORIGIN: _json(origin),
        "README.txt": readme(about, digest).encode(),
    }
    try:
        with whole_folder(folder) as partial:
            (partial / "secret").mkdir(mode=0o700)
            for name, data in files.items():
                (partial / name).write_bytes(data)
            if folder.exists():
                folder.rmdir()
    except OSError as error:
        raise UsageError(f"cannot write {str(folder)!r}: {error.strerror}") from error
    return digest


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def readme(about: About, digest: str) -> str:
    """The page in the folder, in plain words."""
    models = len(next(iter(about.unmarked["none"].values()), []))
    chains = [chain for chain in about.unmarked if chain != "none"]
    attacked = f", and to them after {', '.join(chains)}" if chains else ""
    return _README.format(scheme=about.scheme, dataset=about.dataset, models=models, attacked=attacked, digest=digest)


_README = """\
A model marked with {scheme}, and what its owner needs to claim it.

  victim.safetensors   The marked model: what you publish or serve. harness.load_model("victim.safetensors") loads it.
  secret/              The key, the random opening of its commitment, and the seed that it was made of.
                       Who has one of them can claim the model, or remove the mark. Show it to a judge alone.
                       The results folder that it was made in holds the same: keep it as closely, or delete it.
  owner.json           The scheme, the data set ({dataset}), the rules of the verdict, the versions, and what {models}
                       unmarked models answered to this key{attacked}. It may be shown, and tells nothing of the key.
  commitment.json      Publish it now, where others can date it: a journal, a public repository, a time-stamping
                       service. A key that was not committed to before a dispute could have been made afterwards, to fit
                       the suspect. The commitment does not tell the key.

The commitment to the key is
  {digest}
and anybody who is shown the key can check it without this program:
  cat secret/opening.bin secret/key.safetensors | sha256sum

To ask a suspect:
  harness verify THIS_FOLDER SUSPECT
SUSPECT is a file of weights, an exported model, a function in Python or a URL. See docs/verify.md.
"""


# --- reading ----------------------------------------------------------------------------------------------------------


def read_owner(folder: Path, commitment: Path | None = None) -> Owner:
    """Read an owner's folder. ``commitment`` is the file that was published, by default the one in the folder.

    Raises :class:`UsageError` for what is no such folder, for one of another version, and for a key or facts that are
    not those that were committed to.
    """
    shown, key = _read(folder, ABOUT), _read(folder, KEY)
    about = _about(folder / ABOUT, shown)
    published = commitment or folder / COMMITMENT
    if commitment is None and not published.exists():
        return Owner(folder, about, key, "none is there: nothing says that the key is older than the suspect")
    said = _object(published, _bytes_of(published))
    if said.get("format") != FORMAT:
        raise UsageError(_other_version(published, said.get("format")))
    known = {"key": hashlib.sha256(_read(folder, OPENING) + key), ABOUT: hashlib.sha256(shown)}
    for name, digest in known.items():
        if said.get(name) != digest.hexdigest():
            raise UsageError(
                f"the commitment {str(published)!r} does not match the {name} in {str(folder)!r}: it was made for "
                "another, or one of them was changed"
            )
    return Owner(folder, about, key, f"matches {published.name}: key and unmarked models are those committed to")


def _read(folder: Path, name: str) -> bytes:
    if not (folder / ABOUT).is_file():
        raise UsageError(f"{str(folder)!r} is no folder that harness embed wrote: it has no {ABOUT}")
    return _bytes_of(folder / name)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror or error}") from error


def _object(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UsageError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{str(path)!r} holds no object of JSON")
    return value


def _other_version(path: Path, version: object) -> str:
    return f"{str(path)!r} is of version {version!r}, and this harness reads {FORMAT}: use the harness that wrote it"


def _about(path: Path, data: bytes) -> About:
    value = _object(path, data)
    if value.get("format") != FORMAT:
        raise UsageError(_other_version(path, value.get("format")))
    names = {each.name for each in fields(About)}
    try:
        if value.keys() != names:
            raise ValueError(f"its fields are not those of version {FORMAT}")
        value["input_shape"], value["value_range"] = tuple(value["input_shape"]), tuple(value["value_range"])
        value["unmarked"] = {chain: _counts(counts) for chain, counts in value["unmarked"].items()}
        value["others"] = _counts(value["others"])
        value["victim"] = {name: _pair(pair) for name, pair in value["victim"].items()}
        if "none" not in value["unmarked"]:
            raise ValueError("it has no unmarked models")
        about = About(**value)
        _ = about.verdict_rules
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"{str(path)!r} is damaged: {error}") from error
    return about


def _counts(counts: Mapping[str, Sequence[Any]]) -> Counts:
    return {probe: [_pair(pair) for pair in pairs] for probe, pairs in counts.items()}


def _pair(pair: Sequence[Any]) -> tuple[int, int]:
    matches, trials = pair
    if type(matches) is not int or type(trials) is not int or not 0 <= matches <= trials:
        raise ValueError(f"{pair!r} is no count of matches and trials")
    return matches, trials
