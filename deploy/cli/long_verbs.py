"""Verbs whose work takes long: all of them take --quiet and show it in one way.

Not here: what is shown, and how (deploy.runtime.progress).
"""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from deploy.runtime.progress import Display

P = ParamSpec("P")
T = TypeVar("T")
_NAME = "quiet"
_Quiet = Annotated[
    bool, typer.Option("-q", f"--{_NAME}", help="Errors and the final result alone.")
]
_quiet = ContextVar("quiet", default=False)


def long_verb(verb: Callable[P, T]) -> Callable[P, T]:
    """Give a verb's function the option --quiet, of which `is_quiet` tells it.

    It means the same for each of them, so that none has to declare and pass it.
    """

    @functools.wraps(verb)
    def with_option(*args: Any, **options: Any) -> T:
        token = _quiet.set(options.pop(_NAME, False))
        try:
            return verb(*args, **options)
        finally:
            _quiet.reset(token)

    own = inspect.signature(verb)
    added = inspect.Parameter(
        _NAME, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Quiet
    )
    changed = own.replace(parameters=[*own.parameters.values(), added])
    with_option.__annotations__ = {**verb.__annotations__, _NAME: _Quiet}
    with_option.__signature__ = changed  # type: ignore[attr-defined]
    return with_option


def is_quiet() -> bool:
    """Tell whether the verb that runs was given --quiet."""
    return _quiet.get()


def open_display(
    *, on_stdout: bool = False, write_line: Callable[[str], None] | None = None
) -> "Display":
    """Make the display of the verb that runs.

    Args:
        on_stdout: for a verb that tells there what it does as it goes on; the others
            leave standard output to their result.
        write_line: see `Display`.
    """
    import sys

    from deploy.runtime.progress import Display
    from deploy.runtime.terminal import make_console

    console = make_console(None if on_stdout else sys.stderr)
    return Display(console, quiet=is_quiet(), write_line=write_line)
