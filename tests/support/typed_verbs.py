"""The verbs of a part of takt, as they are typed, in the test's own process."""

from pathlib import Path

import typer
from typer.testing import CliRunner

from common.errors import TaktError


def typed(app: typer.Typer, *arguments: str | Path) -> str:
    """Run a verb; return what it printed, raise what it raised."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, TaktError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout
