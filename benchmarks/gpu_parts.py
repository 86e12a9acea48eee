"""``make gpu``: what is to be known of a machine with a GPU, in parts of ten minutes at most, into ``build/gpu/``.

The commands of a part are processes of their own. One that is stopped goes on where it was when the same command is
typed again: runs of the harness resume, tests and benchmarks are repeated. A part that is done is not run again.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "build" / "gpu"
LIMIT = 600
"""Seconds of a part."""
GRACE = 30
"""Seconds before its end at which a part is asked to stop."""
NEEDED = """\
needs: torch, numpy, pandas, pyarrow, pluggy, click, rich, jinja2, scikit-learn, scipy, seaborn, safetensors, pillow
       (seaborn brings it), no installation of the harness (PYTHONPATH is set) and no network
needs as wheels, where they are not installed: pytest with iniconfig (part tests), platformdirs (part cifar-10)
not needed: torchvision, torchaudio, soundfile, cloudpickle, ray
data:  HARNESS_DATA names a folder with mnist/, fashion-mnist/ and cifar-10-packed/"""


@dataclass(frozen=True)
class Setting:
    """A machine and a size: a GPU and what is to be measured, or a processor and so little that only the parts' own
    logic is tried."""

    device: str
    tiny: bool
    output: Path

    def run(self, results: str, *options: str) -> list[str]:
        """A command of ``harness run`` into a folder of results."""
        folder = str(self.output / results)
        return [*HARNESS, "run", "--results", folder, "--quiet", "--device", self.device, *options]


@dataclass(frozen=True)
class Part:
    """Commands, one after the other; a part is done when all of them ended well."""

    name: str
    minutes: float
    """Estimated, on one H100; nothing was measured on one yet."""
    says: str
    commands: Callable[[Setting], list[list[str]]]
    rounds: int = 1
    """Times that the command must be typed, about, since a part ends after ten minutes."""
    data: bool = False
    results: tuple[str, ...] = ()
    """Folders of results that become records when the part is done."""


HARNESS = [sys.executable, "-m", "harness"]
DIGITS = "digits[train=100,holdout=100,test=100,epochs=2,pretrain=1]"


def each(option: str, *values: str) -> list[str]:
    """An option with each of the values."""
    return [word for value in values for word in (option, value)]


# --- the parts --------------------------------------------------------------------------------------------------------


def tests(on: Setting) -> list[list[str]]:
    """The device's tests on the device."""
    device = "cuda" if on.device == "cuda" else "card"
    files = [str(ROOT / "tests" / name) for name in ("on_device.py", "test_device_cuda.py")]
    chosen = ["-k", "optimizer"] if on.tiny else []
    return [[sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--device", device, *chosen, *files]]


def equal(on: Setting) -> list[list[str]]:
    """The same matrix on the processor and in each precision on the device, other seeds each; and the comparison."""
    dataset, count = (DIGITS, 2) if on.tiny else ("digits", 20)
    asked = ["--dataset", dataset, *each("--defense", "baseline", "ewe"), *each("--attack", "none", "retraining")]
    asked += ["--nulls", "0" if on.tiny else "19", "--no-innocents"]
    cpu = Setting("cpu", on.tiny, on.output)
    commands = [cpu.run("equal-cpu", *asked, "--precision", "fp32", "--seeds", f"0-{count - 1}")]
    for number, precision in enumerate(PRECISIONS, start=1):
        seeds = f"{100 * number}-{100 * number + count - 1}"
        commands.append(on.run(f"equal-{precision}", *asked, "--precision", precision, "--seeds", seeds))
    return [*commands, [sys.executable, "-m", "benchmarks.gpu_compare", "equal", str(on.output)]]


PRECISIONS = ("fp32", "tf32", "bf16")


def deterministic(on: Setting) -> list[list[str]]:
    """The same run twice with ``--deterministic``: every stage's tensors must be the same bits."""
    dataset = DIGITS if on.tiny else "digits"
    asked = ["--dataset", dataset, *each("--defense", "ewe", "adi"), *each("--attack", "retraining", "fine-tuning")]
    asked += ["--seeds", "0", "--nulls", "1", "--no-innocents", "--deterministic"]
    runs = [on.run(f"deterministic-{number}", *asked) for number in (1, 2)]
    return [*runs, [sys.executable, "-m", "benchmarks.gpu_compare", "deterministic", str(on.output)]]


def bench(on: Setting) -> list[list[str]]:
    """``make bench-gpu`` but for Table 1, which is a part of its own."""
    if on.tiny:
        return [[sys.executable, "-m", "benchmarks.bench", "--only", "snnl", "--quick"]]
    names = each("--only", "floor", "capture", "by-hand", "precisions")
    return [[sys.executable, "-m", "benchmarks.bench", "--device", "cuda", *names]]


def table_1(on: Setting) -> list[list[str]]:
    """Table 1's MNIST and Fashion rows at full size, five seeds, nineteen unmarked models, in one results folder."""
    from benchmarks.gpu import arguments, of_paper

    if on.tiny:
        return [
            on.run("table-1", "--dataset", DIGITS, "--defense", "baseline", "--attack", "retraining", "--seeds", "0")
        ]
    return [on.run("table-1", *arguments(matrix, ""), "--nulls", "19", "--no-innocents") for matrix in of_paper("full")]


CIFAR = (
    "cifar-10-packed[architecture=resnet18,train=45000,holdout=5000,epochs=40,pretrain=30,batch_size=128,optimizer=sgd,learning_rate=0.1,"
    "weight_decay=0.0005,schedule=one-cycle,label_smoothing=0.1,normalize=true]"
)
"""45,000 training images, and a recipe for ResNet-18 as the literature has it; it has not been run yet."""


def cifar_10(on: Setting) -> list[list[str]]:
    """All schemes on CIFAR-10 against retraining and fine-tuning."""
    dataset, precision = (DIGITS, "fp32") if on.tiny else (CIFAR, "bf16")
    asked = ["--dataset", dataset, "--defense", "*", *each("--attack", "none", "retraining", "fine-tuning")]
    return [on.run("cifar-10", *asked, "--seeds", "0", "--nulls", "1" if on.tiny else "19", "--precision", precision)]


PARTS = (
    Part("tests", 4, "tests/on_device.py, and captured steps, on the device", tests),
    Part("equal", 8, "digits, 20 seeds: fp32, tf32 and bf16 against the processor, in distribution", equal),
    Part("deterministic", 2, "the same run twice with --deterministic: the same bits", deterministic),
    Part("bench", 8, "make bench-gpu: steps, captured steps, loops by hand, precisions", bench, data=True),
    Part("table-1", 6, "Table 1 on MNIST and Fashion, five seeds", table_1, data=True, results=("table-1",)),
    Part("cifar-10", 90, "CIFAR-10, ResNet-18, every scheme", cifar_10, rounds=9, data=True, results=("cifar-10",)),
)


# --- running ----------------------------------------------------------------------------------------------------------


def run_part(part: Part, on: Setting, limit: float) -> str:
    """Run a part for ``limit`` seconds at most: ``done``, ``stopped`` at the limit, or ``failed``."""
    end = time.monotonic() + limit
    folders = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with (on.output / f"{part.name}.log").open("a", encoding="utf-8") as log:
        for command in part.commands(on) + _recording(part, on):
            log.write(f"$ {shlex.join(command)}\n")
            log.flush()
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            code = _waited(process, end)
            if code is None:
                return "stopped"
            if code:
                return "failed"
    return "done"


def _waited(process: subprocess.Popen[bytes], end: float) -> int | None:
    """The exit code of a process; ``None`` where it had to be stopped: by Ctrl-C first, then by force."""
    try:
        return process.wait(max(0.1, end - GRACE - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return None


def _recording(part: Part, on: Setting) -> list[list[str]]:
    """Commands that freeze the results of a part that is done as records, where there is none yet."""
    commands = []
    for name in part.results:
        folder = on.output / "records" / f"{datetime.now(UTC):%Y-%m-%d}-gpu-{name}"
        if not folder.exists():
            record = [*HARNESS, "record", f"GPU {name}", "--results", str(on.output / name), "--output", str(folder)]
            commands.append([*record, "--command", f"make gpu (part {name})"])
    return commands


def machine(device: str) -> dict[str, str]:
    """The card, its driver, and versions."""
    import torch

    facts = {"python": platform.python_version(), "system": platform.platform(), "device": device}
    for name in ("torch", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy"):
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "unknown"
    if device == "cuda":
        facts["card"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
        facts["cuda"] = str(torch.version.cuda)
        facts["driver"] = _driver()
    return facts


def _driver() -> str:
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def read(output: Path) -> dict[str, Any]:
    """The book of the parts: how each ended, and its minutes in all."""
    path = output / "parts.json"
    book: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return book


def written(output: Path, book: Mapping[str, Any], facts: Mapping[str, str]) -> None:
    """Write the book, and the page that a record begins with."""
    (output / "parts.json").write_text(json.dumps(book, indent=1) + "\n", "utf-8")
    lines = [
        "# Measured on a GPU",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in facts.items()),
    ]
    lines += ["", "| part | ended | minutes | rounds | at |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {n} | {p['ended']} | {p['minutes']:.1f} | {p['rounds']} | {p['at']} |" for n, p in book.items()]
    for name in book:
        tables = output / f"{name}.md"
        lines += ["", tables.read_text("utf-8").rstrip()] if tables.is_file() else []
    (output / "README.md").write_text("\n".join(lines) + "\n", "utf-8")


def listing(book: Mapping[str, Any]) -> str:
    """The parts with their estimated minutes, and what they need."""
    lines = [f"{'part':14} {'minutes':>8}  {'rounds':>6}  {'so far':8}  about"]
    for part in PARTS:
        ended = book.get(part.name, {}).get("ended", "-")
        lines.append(f"{part.name:14} {part.minutes:>8g}  {part.rounds:>6}  {ended:8}  {part.says}")
    total = sum(part.minutes for part in PARTS)
    lines.append(
        f"{'all':14} {total:>8g}  estimated for one H100, not measured; a round ends after {LIMIT // 60} minutes"
    )
    return "\n".join([*lines, NEEDED])


@click.command(epilog="Example: python -m benchmarks.gpu_parts --only table-1")
@click.option("--only", type=click.Choice([part.name for part in PARTS]), multiple=True, help="Part; may be repeated.")
@click.option("--dry-run", is_flag=True, help="List the parts, their estimated minutes and what they need, and stop.")
@click.option("--again", is_flag=True, help="Run parts that are done, too.")
@click.option(
    "--device",
    type=click.Choice(["cuda", "cpu"]),
    default="cuda",
    show_default=True,
    help="cpu tries the parts' own logic, on so few data that its numbers mean nothing.",
)
@click.option("--limit", type=click.FloatRange(1), default=LIMIT, show_default=True, help="Seconds of a part.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=OUTPUT, help="Folder of results, instead of build/gpu."
)
@click.pass_context
def main(
    context: click.Context, only: tuple[str, ...], dry_run: bool, again: bool, device: str, limit: float, output: Path
) -> None:
    """Run the parts that are left, one after the other, and write what they found."""
    book = read(output)
    if dry_run:
        click.echo(listing(book))
        return
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            click.echo("error: no CUDA device here: `make gpu` needs one (--dry-run lists its parts)", err=True)
            context.exit(2)
    output.mkdir(parents=True, exist_ok=True)
    on, facts = Setting(device, device == "cpu", output.absolute()), machine(device)
    for part in _left(book, only, again):
        if part.data and not on.tiny and not os.environ.get("HARNESS_DATA"):
            click.echo(f"{part.name}: left out: it needs HARNESS_DATA to name a folder of data", err=True)
            continue
        click.echo(f"{part.name}: about {part.minutes:g} minutes, log in {output / part.name}.log", err=True)
        begin = time.monotonic()
        ended = run_part(part, on, limit)
        before = book.get(part.name, {"minutes": 0.0, "rounds": 0})
        minutes = before["minutes"] + (time.monotonic() - begin) / 60
        at = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        book[part.name] = {"ended": ended, "minutes": minutes, "rounds": before["rounds"] + 1, "at": at}
        written(output, book, facts)
        more = {"stopped": ": the same command goes on", "failed": f": see {output / part.name}.log"}
        click.echo(f"{part.name}: {ended}{more.get(ended, '')}", err=True)
    context.exit(0 if all(book.get(part.name, {}).get("ended") == "done" for part in _named(only)) else 1)


def _named(only: Sequence[str]) -> list[Part]:
    return [part for part in PARTS if not only or part.name in only]


def _left(book: Mapping[str, Any], only: Sequence[str], again: bool) -> list[Part]:
    return [part for part in _named(only) if again or book.get(part.name, {}).get("ended") != "done"]


if __name__ == "__main__":
    main()
