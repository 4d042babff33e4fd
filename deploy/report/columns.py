"""Rows in columns, or where the terminal is too narrow for them a block for each row.

Not here: what the rows say (table.py: of a run, fleet.py: of nodes elsewhere).
"""

from collections.abc import Sequence

from rich.console import Console, JustifyMethod
from rich.table import Table

from deploy.runtime.terminal import plain

MISSING = "-"
_ENDLESS = 1000  # columns, to measure what a table would take


def print_columns(
    console: Console,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Sequence[str],
) -> None:
    """Print rows whose first two cells name them.

    Args:
        console: takes them; its width decides.
        head: names of the columns.
        rows: a cell for each column; MISSING is left out of blocks.
        left: columns of words; the others hold numbers and stand to the right.
    """
    table = make_table(head, rows, left=left)
    if fits(table, console):
        console.print(table)
        return
    width = max(map(len, head)) + 1
    for row in rows:
        name = f"{row[0]}: {row[1]}"
        console.print(plain(name), style="bold", highlight=False)
        for column, cell in zip(head[2:], row[2:], strict=True):
            if cell != MISSING:
                console.print(plain(f"  {column:{width}}{cell}"), highlight=False)


def make_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str]
) -> Table:
    """Lay out rows without lines around them; as of `print_columns`."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for name in head:
        justify: JustifyMethod = "left" if name in left else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*[plain(cell) for cell in row])
    return table


def fits(table: Table, console: Console) -> bool:
    """Say whether a console is wide enough for a table."""
    endless = console.options.update(width=_ENDLESS)
    # The last column's padding may hang over.
    return console.measure(table, options=endless).maximum <= console.width + 1
