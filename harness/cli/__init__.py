"""The command line: one file per command. Heavy imports stand inside the commands that need them."""

from __future__ import annotations

import sys

import click

from harness import __version__
from harness.cli.compare import compare
from harness.cli.data import data
from harness.cli.doctor import doctor
from harness.cli.export import export
from harness.cli.figures import figures
from harness.cli.gc import gc
from harness.cli.leaderboard import leaderboard
from harness.cli.new import new
from harness.cli.plan import plan
from harness.cli.plugins import plugins
from harness.cli.record import record
from harness.cli.report import report
from harness.cli.reproduce import reproduce
from harness.cli.run import run
from harness.cli.status import status
from harness.cli.submit import submit
from harness.cli.text import say
from harness.cli.why import why
from harness.errors import PluginError, UsageError


@click.group(epilog="Example: harness run --matrix smoke && harness leaderboard")
@click.version_option(__version__, prog_name="watermark-harness")
def cli() -> None:
    """Measure which ownership watermark of a neural network survives which attack: run a matrix, rank the schemes."""


for command in (
    run,
    plan,
    status,
    why,
    leaderboard,
    compare,
    report,
    figures,
    reproduce,
    record,
    submit,
    export,
    gc,
    plugins,
    new,
    data,
    doctor,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line. A user's mistake is one line on stderr and exit code 2; a bug is a traceback."""
    try:
        code = cli.main(prog_name="harness", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message(), err=True)
        code = 2
    except click.ClickException as error:
        where = f" (see {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        say(f"harness: {error.format_message()}{where}", err=True)
        code = 2
    except (UsageError, PluginError) as error:
        say(f"harness: {error}", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt):
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
