"""A group of verbs whose help shows each verb's line whole.

typer cuts these lines at the width of the terminal, so that the half that tells two
verbs apart is missing. Not here: the verbs.
"""

from gettext import gettext as _
from typing import Any

from typer.core import TyperGroup


class VerbGroup(TyperGroup):
    """Lists its verbs with their first lines, wrapped and not cut."""

    # typer's own class of contexts is private.
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of verbs into the help."""
        verbs = [
            (name, self.get_command(ctx, name)) for name in self.list_commands(ctx)
        ]
        rows = [
            (name, (verb.short_help or verb.help or "").split("\n\n")[0])
            for name, verb in verbs
            if verb is not None and not verb.hidden
        ]
        if rows:
            with formatter.section(_("Commands")):
                formatter.write_dl(rows)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a verb; its help names an argument by our word alone, if it has one.

        typer adds the type of Python, such as list[Path].
        """
        verb = super().get_command(ctx, cmd_name)
        for each in verb.params if verb is not None else ():
            if each.param_type_name == "argument" and each.metavar is not None:
                each.display_type_rich = _no_type  # type: ignore[attr-defined]
        return verb


def _no_type(ctx: Any) -> None:
    return None
