"""The command line: one file per command. Heavy imports stand inside the commands that need them."""

from __future__ import annotations

import errno
import getpass
import os
import sys

import click

from harness import __version__
from harness.cli.compare import compare
from harness.cli.data import data
from harness.cli.doctor import doctor
from harness.cli.embed import embed
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
from harness.cli.site import site
from harness.cli.status import status
from harness.cli.submit import submit
from harness.cli.text import echo, open_streams, say
from harness.cli.verify import verify
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
    site,
    export,
    embed,
    verify,
    gc,
    plugins,
    new,
    data,
    doctor,
):
    cli.add_command(command)


REFUSALS = {
    **{errno.ENOSPC: "free some space", errno.EDQUOT: "free some of your quota"},
    errno.ENAMETOOLONG: "choose a shorter name",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "name a place that you may read and write"),
}
"""Refusals of the system that are no bug, and the way out."""


def main() -> None:
    """Run the command line. A user's mistake is one line on stderr and exit code 2; a bug is a traceback."""
    open_streams()
    _name_user()
    try:
        code = _run()
    except click.exceptions.Exit as ended:  # nobody reads the errors either
        code = ended.exit_code
    except UsageError:  # nor can they be written
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _name_user() -> None:
    """Give a user without a name one, as in a container that runs under any number: torch's compiler asks for it."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = "nobody"


def _run() -> object:
    """Run what was typed; the exit code, or nothing."""
    try:
        return cli.main(prog_name="harness", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        echo(error.format_message(), err=True)
    except click.ClickException as error:
        where = f" (see {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        say(f"harness: {error.format_message()}{where}", err=True)
    except (UsageError, PluginError) as error:
        say(f"harness: {error}", err=True)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        where = f": {error.filename}" if error.filename else ""
        say(f"harness: {error.strerror}{where}: {REFUSALS[error.errno]}", err=True)
    return 2
