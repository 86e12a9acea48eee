"""The record of a stage: its fields, declared once.

The checks of untrusted records, and the columns and rows of the table ``stages``, follow from the declaration.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypedDict, cast

from harness.errors import DamagedArtifact
from harness.storage.fields import EXACT, Bound, Doc, checks_of

if TYPE_CHECKING:
    from harness.planning.graph import Action, Stage

Status: TypeAlias = Literal["ok", "skipped", "failed"]


def _is_time(value: Any) -> bool:
    try:
        return bool(datetime.fromisoformat(value).astimezone(UTC))
    except (TypeError, ValueError, OverflowError):
        return False


def _is_count(value: list[int]) -> bool:
    return len(value) == 2 and 0 <= value[0] <= value[1] <= EXACT


Count: TypeAlias = Annotated[list[int], Bound(_is_count)]
"""Matches and trials."""


class Measured(TypedDict):
    """One quantity that an analysis, or a detector beside its verdict, measured."""

    quantity: str
    layer: str
    group: str
    values: list[float | None]


class Found(TypedDict, total=False):
    """The verdict of a detector on one model."""

    score: Annotated[float | None, Doc("The detector's statistic; larger is more suspicious.")]
    threshold: Annotated[float | None, Doc("The detector's own threshold.")]
    suspected_class: Annotated[int | None, Doc("The class that it suspects; null if none.")]
    suspected_source: Annotated[int | None, Doc("The only class that the found trigger moves; null if not looked for.")]


class Judgement(TypedDict, total=False):
    """A detector's verdict compared with the key."""

    target_hit: Annotated[
        bool | None, Doc("Whether the suspected class is the key's target; null if either is unknown.")
    ]
    mask_overlap: Annotated[
        float | None, Doc("Intersection over union of the recovered mask (> 0.5) and the key's; null if none.")
    ]
    window_rank: Annotated[
        float | None,
        Doc(
            "Share of the windows of the trigger's shape that lie as high on the recovered map as the trigger's own: "
            "uniform on 0..1 by chance; null if either is unknown, or the trigger fits at one place only."
        ),
    ]


class StageRecord(TypedDict, total=False):
    """The record of a stage: what it was, how it ended, what it cost, and the numbers that it made.

    On disk it is the JSON object of ``record.json``. Fields with a :class:`Doc` are the columns of ``stages``.
    """

    stage: Annotated[str, Doc("Id of the stage: a digest of all that decides its output.")]
    action: Annotated[
        str, Doc("`train`, `triggers`, `embed`, `attack`, `detect`, `judge`, `verify`, `ask` or `analyse`.")
    ]
    label: Annotated[str, Doc("What it is, for people.")]
    role: Annotated[
        str,
        Doc(
            "The model that it makes or examines: `victim`; `surrogate`, what attacks made of the victim; `null`, an "
            "unmarked model to compare with; `attacked`, what attacks made of one; `clean`, an unmarked model from "
            "which victims start; `pretrained`, a model of another data set, from which a thief starts. Null for "
            "`triggers` and `ask`; in files of schema versions 3 and 4 also for the actions after `attack`.",
            since=5,
        ),
    ]
    seed: Annotated[
        int | None,
        Doc(
            "The seed of the cells that it is for. Null where it is for all seeds: a null or pretrained model, and a "
            "detector's search in a null one; in files of schema versions 3 and 4 also for the actions after `attack`.",
            since=5,
        ),
    ]
    index: Annotated[
        int | None,
        Doc(
            "Number of the null model, from 0; null for other models, and in files of schema versions 3 and 4.", since=5
        ),
    ]
    dataset: Annotated[str, Doc("The dataset with its options.")]
    plugin: Annotated[str, Doc("The defense, attack or analysis that it ran, with its options; empty if none.")]
    status: Annotated[Status, Doc("`ok`, `skipped` (it cannot be, or what it needs failed) or `failed`.")]
    reason: Annotated[str, Doc("Why it was skipped, or the error; empty if ok.")]
    traceback: Annotated[str, Doc("The traceback of a failed stage; empty otherwise.")]
    started: Annotated[str, Bound(_is_time, "timestamp"), Doc("When it started, UTC.")]
    seconds: Annotated[float | None, Doc("Wall seconds.")]
    device: Annotated[str, Doc("`cpu`, or the GPU's name.")]
    threads: Annotated[int | None, Doc("CPU threads that torch used.")]
    precision: Annotated[
        str,
        Doc("What nets were trained in: `fp32`; on a GPU `tf32` (its matrix products); or `bf16` (autocast)."),
    ]
    peak_memory_mib: Annotated[
        float | None,
        Doc(
            "Peak resident memory of the process during the stage, MiB; since the process began, where the system "
            "cannot count again."
        ),
    ]
    peak_device_memory_mib: Annotated[
        float | None, Doc("Peak memory of the GPU that torch held in the stage, MiB; null on a CPU.")
    ]
    trained_samples: Annotated[
        int | None, Doc("Samples that went through training steps, each as often as it was shown.")
    ]
    evaluated_samples: Annotated[int | None, Doc("Samples that nets answered for without being trained.")]
    recalled_samples: Annotated[
        int | None,
        Doc("Samples that no net had to answer for, since an earlier stage had been told the same."),
    ]
    accuracy: Annotated[
        float | None,
        Doc(
            "Test accuracy of the model that it made, as its API serves it: through the scheme's for a victim, through "
            "the filter for an evasion; 0..1, a refused query is a wrong answer; null if it made none. In files of "
            "schema versions before 6 a victim's is that of the net."
        ),
    ]
    raw_accuracy: Annotated[
        float | None,
        Doc("Test accuracy of the net itself, with nothing before it, 0..1; null if it made none.", since=6),
    ]
    pool_accuracy: Annotated[
        float | None,
        Doc(
            "Accuracy, as served, of the model that an attack ended with on the first 1,000 of the attacker's own "
            "inputs, 0..1; null where these have no labels of the task, and for other actions.",
            since=6,
        ),
    ]
    unreadable: Annotated[
        str,
        Doc(
            "Reason why the mark could not be read from the suspect, which counts as removed; null if it could.",
            since=6,
        ),
    ]
    queries: Annotated[int | None, Doc("Queries asked of an oracle; null if none.")]
    unanswered: Annotated[
        int | None,
        Doc("Queries of these that the model's API refused to answer; null where no oracle was asked.", since=7),
    ]
    changed: Annotated[
        str,
        Doc(
            "State of the process that its plugin changed and did not put back, such as `grad mode, working "
            "directory`; null where it changed none.",
            since=7,
        ),
    ]
    torch: Annotated[str, Doc("Version of torch.")]
    harness: Annotated[str, Doc("Version of watermark-harness.")]
    machine: Annotated[str, Doc("Operating system, processor, number of CPUs and Python version.")]
    data_checksum: Annotated[
        str,
        Doc(
            "Content of the dataset: the first 32 hexadecimal digits of a SHA-256 over the whole set, as its "
            "own options load it. It covers `x_test`, `x_train`, `y_test` and `y_train` in this order: of each the "
            "text `<name> <dtype> <shape>` (`x_test uint8 (10000, 1, 28, 28)`; labels are `int64 (10000,)`), then its "
            "values in C order, little-endian. Null where the stage read no data (`verify`, `judge`), and in files of "
            "schema version 3.",
            since=4,
        ),
    ]
    other_dataset: Annotated[
        str,
        Doc(
            "The other dataset that it read (out-of-distribution triggers, an attacker's pool); null if none.", since=4
        ),
    ]
    other_checksum: Annotated[str, Doc("That one's checksum, made as `data_checksum`.", since=4)]
    commit: Annotated[
        str,
        Doc(
            "The commit of the checkout that the harness ran from, with a `+` where files of the package had been "
            "edited; null where it was installed in another way.",
            since=4,
        ),
    ]
    stands_for: str
    """The data set that the name in ``dataset`` stands for, where a matrix file gave it."""
    inputs: Any
    """The inputs that the stage's id is a digest of; :func:`harness.planning.inputs.inputs_in` judges them."""
    model: Any
    """The description of the net that it made; :mod:`harness.storage.codec` judges it."""
    returned: str
    """Precision of the weights that a plugin returned, where it was not float32, in which they are stored."""
    agreement: float | None
    """Share of test inputs on which the model and the victim answer alike, 0..1."""
    guard: str
    """The evasion that stands before the model, with its options."""
    evidence: dict[str, Count]
    """Matches and trials by probe."""
    asked: list[dict[str, Count] | None]
    """The same of each model that was asked, in the stage's order; null where the model is missing."""
    test_samples: int | None
    """Number of test samples behind the accuracies."""
    curves: list[dict[str, list[float | None]]]
    """A training each: values by epoch, by quantity."""
    measures: list[Measured]
    detection: Found
    judgements: list[Judgement | None]
    """A detector's verdicts compared with the key, in the stage's order; null where one is missing."""
    tensors_sha256: str
    elsewhere: bool
    """True if another run stored it meanwhile; never stored."""


_CHECKS = checks_of(StageRecord)
_MADE: dict[Action, tuple[str, ...]] = {
    **{"train": ("model",), "triggers": (), "embed": ("model",), "attack": ("model",)},
    **{"detect": ("detection", "measures"), "judge": ("judgements",)},
    **{"verify": ("evidence",), "ask": ("asked",), "analyse": ("measures",)},
}
"""The fields that the record of a stage that succeeded cannot be without."""


def about(stage: Stage) -> StageRecord:
    """The fields that a stage's record has before it ran."""
    plugin = stage.plugin.text if stage.plugin else ""
    made: StageRecord = {"stage": stage.id, "action": stage.action, "label": stage.label}
    if stage.role:
        made["role"] = stage.role
    if stage.dataset.stands_for:
        made["stands_for"] = stage.dataset.stands_for
    return {**made, "seed": stage.cell_seed, "index": stage.index, "dataset": stage.dataset.text, "plugin": plugin}


def check_record(record: Mapping[str, Any], stage: Stage) -> StageRecord:
    """``record``, which may be untrusted, if running ``stage`` could have left it; else :class:`DamagedArtifact`.

    Of the stage it must be, and its fields must be what the tables' rows, which are made of them, can hold. Role, seed
    and index are not compared: records of older versions lack them, and rows have them of the stage. Where the same
    thing has another name by now (a folder of images that was moved), the record returned has that of the stage.
    """
    record = _renamed(record, stage)
    known: Mapping[str, Any] = about(stage)
    own = {name: known[name] for name in ("stage", "action", "dataset", "plugin")}
    made = _MADE[stage.action] if record.get("status") == "ok" else ()
    for name in ("status", "reason", "label", *own, *made):
        if name not in record:
            raise DamagedArtifact(f"the record of {stage.id} does not say its {name}")
    for name, value in record.items():
        if value != own.get(name, value) or (name in _CHECKS and not _CHECKS[name](value)):
            raise DamagedArtifact(f"the record of {stage.id}: its {name} cannot be {reprlib.repr(value)}")
    return cast("StageRecord", record)


def _renamed(record: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
    """``record`` with the name that ``stage`` has for its data set, where both stand for the same."""
    from harness.planning.matrix import placeless

    own, told = about(stage), record.get("dataset")
    if told == own["dataset"] or not isinstance(told, str):
        return record
    if placeless(str(record.get("stands_for", told))) != stage.dataset.identity:
        return record
    other = {"other_dataset": stage.data.text} if stage.data and "other_dataset" in record else {}
    kept = {name: value for name, value in record.items() if name != "stands_for"}
    return {**kept, **{name: own[name] for name in ("dataset", "label", "stands_for") if name in own}, **other}
