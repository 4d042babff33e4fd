"""The `takt` command: the composition root, where every part is put together.

Each verb imports what it needs when it runs, so that `takt --help` answers at
once and `takt edge` never loads Ray or torch. How a process ends (exit codes,
signals, bugs) is `deploy/runtime/exits.py`. Not here: any work.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.cloud import app as cloud_app
from deploy.cli.config import app as config_app
from deploy.cli.edge import app as edge_app
from deploy.cli.groups import VerbGroup
from deploy.cli.keys import app as keys_app
from deploy.cli.long_verbs import is_quiet, long_verb, open_display
from deploy.cli.models import app as models_app
from deploy.cli.options import (
    DEFAULT_RUNS,
    Assign,
    Compare,
    Config,
    DataDir,
    Limit,
    RunsDir,
    Seed,
    existing_folder,
    expand,
    settings_of,
)
from deploy.cli.pki import app as pki_app
from deploy.cli.runs import app as runs_app
from deploy.cli.students import app as students_app

OnlyThis = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Only this one; may be repeated."),
]
COMPLETION_VARIABLE = "_TAKT_COMPLETE"  # of click, for a program called takt

app = typer.Typer(
    cls=VerbGroup,
    name="takt",
    help="Robust students for edge nodes, distilled from a cloud teacher.",
    epilog="Exit codes: takt exit-codes. Start with: takt simulate",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(students_app, name=None)  # its verbs are called without a group's name
app.add_typer(cloud_app, name="cloud")
app.add_typer(config_app, name="config")
app.add_typer(edge_app, name="edge")
app.add_typer(keys_app, name="keys")
app.add_typer(models_app, name="models")
app.add_typer(pki_app, name="pki")
app.add_typer(runs_app, name="runs")


def _print_version(wanted: bool) -> None:
    """Print what is installed and end, where that is asked for."""
    if wanted:
        from deploy.runtime.machine import versions

        typer.echo(versions())
        raise typer.Exit


@app.callback()
def options_of_all(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Say what runs."
        ),
    ] = False,
) -> None:
    """Robust students for edge nodes, distilled from a cloud teacher."""


@app.command()
def init(
    folder: Annotated[
        Path, typer.Argument(callback=expand, help="Takes takt.toml; is made.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            callback=expand, help="Your images: train/CLASS/IMAGE, and perhaps test/."
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a config that is there.")
    ] = False,
) -> None:
    """Write a commented config for your own images, sized to what is there."""
    from deploy.first_config import CONFIG, describe, write_config

    found, path = write_config(folder, data, force=force), folder / CONFIG
    typer.echo(f"{describe(found)}: {path}")
    typer.echo(f"next: takt doctor --config {path}, then takt simulate --config {path}")


@app.command()
@long_verb
def simulate(
    config: Config = "digits",
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: Seed = None,
    assign: Assign = None,
    runs_dir: RunsDir = DEFAULT_RUNS,
    compare: Compare = False,
) -> int:
    """Run the whole system on this machine: teacher, release, capped nodes."""
    from deploy.runtime.settings import refuse_unread_views

    settings, text = settings_of(config, data_dir, limit, seed, assign)
    refuse_unread_views(settings)
    # Imported after the config was read: a wrong one is refused at once.
    from deploy.runtime.surroundings import (
        require_memory_of_nodes,
        require_room_for_ray,
    )
    from deploy.simulation.simulate import run_simulation

    require_memory_of_nodes(settings.nodes)
    require_room_for_ray()
    return run_simulation(
        settings, text, runs_dir=runs_dir, compare=compare, quiet=is_quiet()
    )


@app.command()
@long_verb
def compare(
    full: Annotated[
        bool, typer.Option("--full", help="The whole grid: hours, not minutes.")
    ] = False,
    grid: Annotated[
        str | None, typer.Option(help="A shipped grid's name, or a TOML file of yours.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=expand,
            help="The file of rows, goes on from it; default: runs/compare/GRID.json.",
        ),
    ] = None,
    work: Annotated[
        Path,
        typer.Option(
            callback=expand, help="Keeps teachers and knowledge between compares."
        ),
    ] = Path("runs/compare/work"),
    teacher: Annotated[
        Path | None,
        typer.Option(
            callback=expand,
            help="A storage folder with the finished teacher (takt cloud train).",
        ),
    ] = None,
    data_dir: DataDir = None,
    dataset: OnlyThis = None,
    student: OnlyThis = None,
    method: OnlyThis = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Rows at a time; default: the cores.")
    ] = None,
) -> None:
    """Train students by several methods for equal CPU-seconds and attack them."""
    from common.effective_limits import usable_cores
    from deploy.compare.grid import which_grid
    from deploy.compare.run import Choice, run_compare
    from deploy.runtime.surroundings import require_room_for_ray

    name = which_grid(grid, full=full)
    require_room_for_ray()
    run_compare(
        name,
        out=out or Path("runs/compare") / f"{Path(name).stem}.json",
        work=work,
        data_dir=None if data_dir is None else data_dir.absolute(),
        choice=Choice(dataset or (), student or (), method or ()),
        num_workers=workers or usable_cores(),
        display=open_display(on_stdout=True),
        teacher=teacher,
    )


@app.command()
@long_verb
def report(
    run: Annotated[
        Path, typer.Argument(callback=expand, help="A run's folder, see runs/.")
    ],
) -> None:
    """Make a run's report.html again and print its table, from its folder."""
    from common.regular_file import is_folder
    from deploy.report.table import print_result
    from deploy.runtime.terminal import make_console

    with open_display() as display, display.step("report"):
        from deploy.report.page import write_report  # and with it matplotlib

        result = write_report(run)
    print_result(result, make_console(), run if is_folder(run) else run.parent)


@app.command()
def doctor(
    config: Config = "digits",
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: Seed = None,
    assign: Assign = None,
    runs_dir: RunsDir = DEFAULT_RUNS,
    pki: Annotated[
        Path | None,
        typer.Option(
            callback=existing_folder,
            help="A folder of certificates, to check the clock.",
        ),
    ] = None,
) -> int:
    """Check whether this machine can run takt; one line each, with the fix."""
    from deploy.doctor import run_doctor

    settings, _ = settings_of(config, data_dir, limit, seed, assign)
    return run_doctor(settings, runs_dir=runs_dir, pki_dir=pki)


@app.command("exit-codes")
def exit_codes() -> None:
    """List every exit code of takt and what it means."""
    from common.errors import exit_codes

    for code, name, meaning in exit_codes():
        typer.echo(f"{code:4}  {name:14}  {meaning}")


def main() -> None:
    """Run the command line; the entry point of `takt`."""
    from common.ownership import keep_others_from_writing
    from deploy.runtime.exits import leave, run

    keep_others_from_writing()
    leave(run(lambda: invoke(sys.argv[1:])))


def invoke(arguments: list[str]) -> int:
    """Run one command line; return the verb's exit code.

    Not by calling `app`, which would turn an interrupt into an exit code before
    `deploy.runtime.exits` can see which signal it was.
    """
    if COMPLETION_VARIABLE in os.environ:  # a shell asks what may follow
        whole = typer.main.get_command(app)
        whole.main(arguments, "takt", standalone_mode=False)
    verbs, path = app, "takt"
    for group in app.registered_groups:  # making all verbs takes as long as some do
        if arguments[:1] == [group.name] and group.typer_instance is not None:
            verbs, path, arguments = (
                group.typer_instance,
                f"takt {group.name}",
                arguments[1:],
            )
    command = typer.main.get_command(verbs)
    try:
        with command.make_context(path, arguments) as context:
            code = command.invoke(context)
    except typer.Exit as e:  # of --help
        return e.exit_code
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
