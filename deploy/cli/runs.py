"""`takt runs`: the runs that were made here, one of them, and two side by side.

Not here: reading and printing them (deploy.report).
"""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.groups import VerbGroup
from deploy.cli.options import DEFAULT_RUNS, AsJson, expand

app = typer.Typer(
    cls=VerbGroup,
    name="runs",
    help="Look at the runs that were made.",
    no_args_is_help=True,
    add_completion=False,  # it is the whole command's
    rich_markup_mode=None,
)

RunsDir = Annotated[
    Path, typer.Option(callback=expand, help="The folder that holds them.")
]
Run = Annotated[Path, typer.Argument(callback=expand, help="A run's folder.")]


@app.command("list")
def list_(runs_dir: RunsDir = DEFAULT_RUNS, as_json: AsJson = False) -> None:
    """List the runs of a folder, the newest last."""
    from deploy.report.runs import print_runs
    from deploy.runtime.terminal import make_console

    print_runs(runs_dir, make_console(), as_json=as_json)


@app.command()
def show(run: Run) -> None:
    """Print a run's tables again, from its result.json."""
    from common.regular_file import is_folder
    from deploy.report.result import read_result
    from deploy.report.table import print_result
    from deploy.runtime.terminal import make_console

    folder = run if is_folder(run) else run.parent
    print_result(read_result(run), make_console(), folder)


@app.command()
def compare(one: Run, other: Run) -> None:
    """Say in which keys two runs differ, and by how much their students do."""
    from deploy.report.runs import print_comparison
    from deploy.runtime.terminal import make_console

    print_comparison(one, other, make_console())
