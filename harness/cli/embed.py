"""``harness embed``: mark a model, and keep what its owner needs to claim it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import UserPath, open_results, planning_registry, results_option, rules_options
from harness.cli.running import execute, machine_options, report
from harness.cli.text import echo, say
from harness.running.machine import Machine
from harness.text import command_line

if TYPE_CHECKING:
    from harness.verdicts.rules import Rules


@click.command(epilog="Example: harness embed --defense ewe --dataset digits --output owner")
@click.option("--dataset", required=True, help="Data set of the model: NAME[option=value].")
@click.option("--defense", required=True, help="Scheme that marks it: NAME[option=value].")
@click.option("--output", type=UserPath(), required=True, metavar="DIR", help="New folder of the owner.")
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    help="Attack that unmarked models go through too, since a suspect may have; a chain is 'a | b'. May be repeated.",
)
@click.option(
    "--nulls",
    type=click.IntRange(0, 1000),
    default=39,
    show_default=True,
    help="Unmarked models that are asked the key, each trained on its own: 19 at least for a verdict at 95%.",
)
@click.option(
    "--others",
    type=click.IntRange(0, 20),
    default=3,
    show_default=True,
    help="Models of other owners, marked by the same scheme, that are asked the key: does it tell whose a model is?",
)
@click.option("--seed", type=int, help="Secret seed of the key; by default it is drawn. The same one goes on.")
@rules_options("confidence", "min_margin", "max_drop", "gamma")
@results_option
@machine_options
@click.option("--quiet", is_flag=True, help="No progress.")
def embed(
    dataset: str,
    defense: str,
    output: Path,
    attacks: tuple[str, ...],
    nulls: int,
    others: int,
    seed: int | None,
    rules: Rules,
    results: str,
    machine: Machine,
    quiet: bool,
) -> int:
    """Mark a model, ask unmarked models its key, and write what its owner needs to claim it.

    The folder has the marked model, the secret key, a commitment to be published before a dispute, and a page.
    """
    from harness.owning.embedding import Wanted, check_folder, plan_owners, write
    from harness.running.session import Options

    check_folder(output)
    store, tables = open_results(results)
    registry = planning_registry(machine.plugins, machine.data, tables, fetch=True)
    wanted = Wanted(dataset, defense, attacks, nulls, others, seed)
    for planning in plan_owners(wanted, registry, tables, rules, partial(echo, err=True)):
        outcome = execute(planning.plan, registry, store, tables, machine, Options("failed"), quiet=quiet)
        store.flush()
        if outcome.interrupted or outcome.failures:
            return report(outcome, planning.plan, store.address, err=True)
    about, commitment = write(planning, store, tables, output, rules)
    for chain, reason in about.left_out.items():
        say(f"no verdict after {chain}: {reason}", err=True)
    say(f"wrote {output}: publish {output}/commitment.json ({commitment[:16]}...), keep {output}/secret to yourself")
    say(f"next: {command_line('verify', output, 'SUSPECT')}")
    return 0
