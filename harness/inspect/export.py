"""One cell's models and key as a folder to hand over, and reading such a model back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import DamagedArtifact, UsageError
from harness.files import user_path, whole_folder
from harness.modelfiles import code_of
from harness.planning.graph import Component, Kind, Lookup
from harness.planning.inputs import inputs_in
from harness.planning.select import pick, words
from harness.storage.schema import CELLS
from harness.storage.store import Artifact, Store, plain
from harness.storage.tables import Tables
from harness.text import printable

if TYPE_CHECKING:
    from torch import Tensor

    from harness.nets import Net
    from harness.planning.registry import Registry

SOURCE = "watermark-harness"
"""The name, in a model file's metadata, of its description."""


@dataclass(frozen=True)
class Exported:
    """A cell with the artifacts of its victim and its surrogate."""

    row: Mapping[str, Any]
    """The cell's row of the table ``cells``."""
    evidence: Sequence[Mapping[str, Any]]
    victim: Artifact
    surrogate: Artifact

    @property
    def words(self) -> str:
        return _words(self.row)


def find_cell(store: Store, tables: Tables, text: str) -> Exported:
    """The cell that ``text`` names by its id, the beginning of it, or its words.

    Raises :class:`UsageError` for one that is not in the table ``cells``, that is not ok, or whose models are not
    stored.
    """
    rows = {str(row["cell"]): row for row in map(_plain_row, tables.read("cells").to_dict("records"))}
    row = pick("cell", text, rows, {_words(row): id for id, row in rows.items()})
    if row["status"] != "ok":
        ended = "failed" if row["status"] == "failed" else "was skipped"
        raise UsageError(f"{_words(row)} {ended}, so there is nothing to export: {row['reason']}")
    evidence = tables.read("evidence")
    told = evidence[evidence["cell"] == row["cell"]].to_dict("records")
    counts = ("suspect", "index", "probe", "matches", "trials", "accuracy")
    surrogate = _load(store, row, row["model"])
    victim = _load(store, row, _victim_of(row, surrogate))
    return Exported(row, [plain({name: each[name] for name in counts}) for each in told], victim, surrogate)


def _words(row: Mapping[str, Any]) -> str:
    return words(row["dataset"], row["defense"], row["attack"], row["seed"])


def _plain_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row in JSON's values. pandas turns whole numbers into floats in a column that lacks some."""
    values = {column.name: row[column.name] for column in CELLS.columns}
    whole = [column.name for column in CELLS.columns if column.type == "int64"]
    values |= {name: int(values[name]) for name in whole if values[name] == values[name]}
    made: dict[str, Any] = plain(values)
    return made


def _load(store: Store, row: Mapping[str, Any], id: str) -> Artifact:
    try:
        artifact = store.load(id)
    except DamagedArtifact as damage:
        raise UsageError(
            f"{_words(row)}: a model of it is not stored ({damage}): run its matrix with --rerun all"
        ) from damage
    if not artifact.record.get("model"):
        raise UsageError(f"{_words(row)}: {id} is no model")
    return artifact


def _victim_of(row: Mapping[str, Any], surrogate: Artifact) -> str:
    """The id of the stage that made the victim: the surrogate itself where there was no attack."""
    inputs = inputs_in(row["model"], surrogate.record)
    if inputs is None:
        raise UsageError(
            f"{_words(row)}: an older harness wrote the record of its model, which does not say of which victim: "
            "run its matrix with --rerun all"
        )
    embed: str = dict(inputs["parents"]).get("embed", row["model"])
    return embed


# --- writing ----------------------------------------------------------------------------------------------------------


def export(cell: Exported, folder: Path, with_key: bool = True) -> list[str]:
    """Write the cell into ``folder``, whole or not at all, and return the names of the files. Raises
    :class:`UsageError`.
    """
    check_target(folder)
    try:
        with whole_folder(folder) as partial:
            _write(cell, partial, with_key)
            if folder.exists():
                folder.rmdir()
    except OSError as error:
        raise UsageError(f"cannot write {str(folder)!r}: {error.strerror}") from error
    return sorted(path.name for path in folder.iterdir())


def check_target(folder: Path) -> None:
    """Raise :class:`UsageError` unless ``folder`` can be made, or is empty."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{str(folder)!r} is no folder: choose another")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{str(folder)!r} is not empty: choose another folder")


def _write(cell: Exported, folder: Path, with_key: bool) -> None:
    parts = {
        "victim": model_file(cell.victim),
        "surrogate": model_file(cell.surrogate),
        "guard": _tensor_file(_group(cell.surrogate, "guard/")),
    }
    if with_key:
        parts["key"] = key_file(cell.victim)
    files = {f"{name}.safetensors": data for name, data in parts.items() if data}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    (folder / "cell.json").write_text(json.dumps(_about(cell, digests), indent=1) + "\n", "utf-8")
    (folder / "README.md").write_text(_readme(cell, list(files)), "utf-8")


def _group(artifact: Artifact, *prefixes: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in artifact.tensors.items() if name.startswith(prefixes)}


def key_file(artifact: Artifact) -> bytes:
    """The tensors of the key that a victim's stage made."""
    return _tensor_file(_group(artifact, "probe/", "tensor/"))


def model_file(artifact: Artifact) -> bytes:
    """The weights by their names in the net, and in the metadata how to build it."""
    weights = {name.removeprefix("model/"): tensor for name, tensor in _group(artifact, "model/").items()}
    return _tensor_file(weights, {SOURCE: json.dumps(artifact.record["model"])})


def _tensor_file(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file; empty for no tensors."""
    from safetensors.torch import save

    return bytes(save(dict(tensors), metadata)) if tensors else b""


def _about(cell: Exported, digests: Mapping[str, str]) -> dict[str, Any]:
    """The content of ``cell.json``."""
    return {
        **{name: value for name, value in cell.row.items() if name != "run"},
        "evidence": list(cell.evidence),
        "victim": _about_model(cell.victim),
        "surrogate": _about_model(cell.surrogate),
        "sha256": dict(digests),
    }


def _about_model(artifact: Artifact) -> dict[str, Any]:
    names = ("stage", "label", "model", "accuracy", "agreement", "queries", "guard", "inputs", "started", "seconds")
    versions = ("precision", "threads", "device", "torch", "harness", "machine")
    return {name: artifact.record[name] for name in (*names, *versions) if name in artifact.record}


def _readme(cell: Exported, files: Sequence[str]) -> str:
    held = "".join(f"| `{name}` | {text} |\n" for name, text in _FILES.items() if name in files or name == "cell.json")
    same = " Nobody attacked: the surrogate is the victim itself." if cell.row["family"] == "none" else ""
    secret = _SECRET if "key.safetensors" in files else _NO_SECRET
    ask = _ASK if "key.safetensors" in files else ""
    title = printable(cell.words).replace("`", "'")
    head = f"# A watermarked model\n\n`{title}`, exported by watermark-harness.{same}"
    return f"{head}\n\n{secret}\n| file | holds |\n| --- | --- |\n{held}\n{_LOAD}{ask}"


_SECRET = """\
**`key.safetensors` is the owner's secret.** Who has it can claim the model, or remove the mark. Give it to nobody who
must do neither; `harness export --without-key` leaves it out.
"""
_NO_SECRET = """\
The owner's key is not in here. Yet who has the harness and the data can make it again from the options and the seed in
`cell.json`: to have somebody look for the mark, give away a model's file alone.
"""
_FILES = {
    "victim.safetensors": "the owner's model with the mark",
    "surrogate.safetensors": "what the attack made of it",
    "guard.safetensors": "what the surrogate's filter needs to refuse queries",
    "key.safetensors": "the key: `probe/<name>/x` and `probe/<name>/y` are queries and the answers that show the mark; "
    "`tensor/<name>` what else the scheme keeps",
    "cell.json": "labels, options, accuracies, counted evidence, ids, versions, and checksums of the files",
}
_LOAD = """\
The files are plain safetensors, the weights under their names in the net. With the harness they load as a model:

```python
import harness

net = harness.load_model("victim.safetensors")  # a torch.nn.Module: inputs [n, ...] to logits [n, classes]
```
"""
_ASK = """
The mark is asked for with the key:

```python
from safetensors.torch import load_file

key = load_file("key.safetensors")
for name in sorted({tensor.split("/")[1] for tensor in key if tensor.startswith("probe/")}):
    answers = net(key[f"probe/{name}/x"]).argmax(1)
    print(name, (answers == key[f"probe/{name}/y"]).float().mean().item())
```
"""


def _trusting(folders: Sequence[Path], registry: Registry) -> Lookup:
    """A lookup that refuses architectures whose code lies in none of the folders: the model's file names them."""

    def lookup(kind: Kind, text: str) -> Component:
        use = registry.component(kind, text)
        for name in code_of(use.plugin):
            file = user_path(name).resolve()
            if not any(folder.resolve() in file.parents for folder in folders):
                raise UsageError(f"its net is built by {name}, which is executed: name its folder as a plugin folder")
        return use

    return lookup


# --- reading ----------------------------------------------------------------------------------------------------------


def load_model(path: str | Path, plugins: Sequence[str | Path] = ()) -> Net:
    """The model in a file that ``harness export`` wrote, on the CPU: inputs ``[n, ...]`` to logits ``[n, classes]``.

    ``plugins`` are folders with the file of its architecture, where that is not built in; of a net of ``module`` the
    folder of its class, since loading the model executes it. Raises :class:`harness.UsageError` for a file that is no
    such model.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    from harness.planning.registry import load_registry
    from harness.storage.codec import unpack

    path = user_path(path)
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})[SOURCE])
            weights = {f"model/{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        artifact = Artifact({"model": description}, weights)
        folders = [user_path(folder) for folder in plugins]
        net = unpack(artifact, _trusting(folders, load_registry(folders)), torch.device("cpu")).net
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except (SafetensorError, KeyError, ValueError, DamagedArtifact) as error:
        raise UsageError(f"{str(path)!r} is no model that harness export wrote: {error}") from error
    if net is None:
        raise UsageError(f"{str(path)!r} is no model that harness export wrote: it says no architecture")
    return net
