"""``harness verify``: ask a suspect an owner's key."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import UserPath, plugins_option
from harness.cli.text import echo, say, warn


@click.command(epilog="Example: harness verify owner http://127.0.0.1:8000/predict --mapping api.toml --sequential")
@click.argument("owner", metavar="DIR", type=UserPath())
@click.argument("suspect")
@plugins_option
@click.option("--architecture", default="", help="Architecture of a file of weights that does not say it.")
@click.option("--mapping", type=UserPath(), metavar="FILE", help="TOML file that says how an endpoint is asked.")
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most inputs that an endpoint is sent, further tries and earlier verifications in its log included.",
)
@click.option(
    "--log", type=UserPath(), metavar="FILE", help="Log of an endpoint's answers. Default: a file in DIR/queries."
)
@click.option(
    "--sequential", is_flag=True, help="Ask trigger after trigger, and stop as soon as the evidence suffices."
)
@click.option(
    "--commitment", type=UserPath(), metavar="FILE", help="Commitment as it was published. Default: that in DIR."
)
@click.option("--json", "as_json", is_flag=True, help="The verification as JSON.")
def verify(
    owner: Path,
    suspect: str,
    plugin_folders: tuple[Path, ...],
    architecture: str,
    mapping: Path | None,
    budget: int | None,
    log: Path | None,
    sequential: bool,
    commitment: Path | None,
    as_json: bool,
) -> int:
    """Ask SUSPECT the key in DIR, which harness embed wrote, and say if it is marked.

    SUSPECT is a folder of harness export, a file (.safetensors or .pt with weights, TorchScript, .pt2 of torch.export,
    .onnx), a function of Python module:name, or the address of an endpoint. Exit code 0: marked; 1: not; 2: a mistake.
    """
    from harness.owning.asking import Asking
    from harness.owning.asking import verify as ask
    from harness.owning.words import lines, plain

    def told(line: str) -> None:
        say(line, err=True)

    asking = Asking(architecture, plugin_folders, sequential, commitment, mapping, budget, log, told)
    made = ask(owner, suspect, asking)
    if as_json:
        echo(json.dumps(plain(made), indent=1, allow_nan=False))
    else:
        for head, text in lines(made):
            say(head, text)
    if made.warning:
        warn(made.warning)
    return 0 if made.marked else 1
