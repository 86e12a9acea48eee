"""``python -m benchmarks.gpu_compare PART FOLDER``: what the runs of a part of ``make gpu`` say together, as Markdown.

Exit code 1 where bits differ that must not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.equal import said
from harness.storage.tables import Tables


def equal(folder: Path) -> tuple[str, bool]:
    """Accuracy, success and margin over seeds, of each precision against the processor: the 95% interval of the
    difference of the means (Welch)."""
    cpu = _numbers(folder / "equal-cpu")
    lines = ["## equal", "", "| precision | of | percentages and difference | n |", "| --- | --- | --- | --- |"]
    for precision in ("fp32", "tf32", "bf16"):
        ours = _numbers(folder / f"equal-{precision}")
        for name, theirs in cpu.items():
            both = f"{len(ours[name])} and {len(theirs)}"
            lines.append(f"| {precision} | {name} | {said(ours[name], theirs)} | {both} |")
    return "\n".join(lines), True


def _numbers(results: Path) -> dict[str, list[float]]:
    """Percentages of each seed, by what they are of."""
    cells = Tables(results).read("cells")
    cells = cells[cells["status"] == "ok"]
    success = cells["surrogate_trigger_matches"] / cells["surrogate_trigger_trials"]
    of_nulls = cells["null_trigger_matches"] / cells["null_trigger_trials"]
    columns = {
        "victim accuracy": cells["victim_accuracy"],
        "surrogate accuracy": cells["surrogate_accuracy"],
        "success": success,
        "margin": success - of_nulls,
    }
    named = cells["defense"] + ", " + cells["attack"]
    return {
        f"{key}: {name}": (100 * values[named == key]).tolist()
        for key in sorted(named.unique())
        for name, values in columns.items()
        if values[named == key].notna().all()
    }


def deterministic(folder: Path) -> tuple[str, bool]:
    """The number of stages of two runs whose tensors are the same bits, and those that are not."""
    first, second = (dict(_digests(folder / f"deterministic-{number}")) for number in (1, 2))
    differ = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    lines = ["## deterministic", "", f"{len(first) - len(differ)} of {len(first)} stages have the same tensors twice."]
    return "\n".join([*lines, *(f"- differs: {name}" for name in differ)]), bool(first) and not differ


def _digests(results: Path) -> Iterator[tuple[str, str]]:
    """Label and checksum of the tensors of every stage that made some."""
    for path in results.glob("artifacts/*/*/record.json"):
        told = json.loads(path.read_text("utf-8"))["record"]
        if "tensors_sha256" in told:
            yield told["label"], told["tensors_sha256"]


def main(part: str, folder: Path) -> int:
    """Write ``PART.md`` into the folder; 1 where it is not as it must be."""
    text, good = {"equal": equal, "deterministic": deterministic}[part](folder)
    (folder / f"{part}.md").write_text(text + "\n", "utf-8")
    print(text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
