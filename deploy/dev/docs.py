"""The documentation's made parts, brought up to date: trees, keys, codes, results.

    .venv/bin/python -m deploy.dev.docs

A page is a README.md of the clone. A part called ``exit-codes`` stands on it between
``<!-- exit-codes -->`` and ``<!-- /exit-codes -->``, and is made anew from the code or
from the committed rows of a benchmark; so are the plots beside such rows. Tests
compare. Not here: prose, and how a table or a plot is laid out (tests/bench,
deploy/compare).
"""

import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from common.errors import exit_codes
from deploy.cli.main import app
from deploy.compare.plots import write_plots
from deploy.compare.rows import read_rows
from deploy.dev.config_tables import edge_config_table, run_config_table

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("common", "cloud", "edge", "deploy")
FOLDERS = (*PACKAGES, "proto", "tests")

Parts = Mapping[str, Callable[[], str]]


def parts_of(root: Path = ROOT) -> Parts:
    """Name every part that is made, and what makes it."""
    tests = root / "tests"
    files = {
        f"{package}-files": partial(file_tables, root / package) for package in PACKAGES
    }
    return {
        "wings": partial(wing_table, root),
        **files,
        "run-config": run_config_table,
        "edge-config": edge_config_table,
        "configs": partial(config_file_table, root / "deploy" / "configs"),
        "verbs": verb_table,
        "benches": partial(file_table, tests / "bench"),
        "test-support": partial(file_table, tests / "support", tests),
        "exit-codes": exit_code_table,
        **_of_benches(root).TABLES,
    }


def pages(root: Path = ROOT) -> list[Path]:
    """List the pages of the clone."""
    found = [path for folder in FOLDERS for path in (root / folder).rglob("README.md")]
    return [root / "README.md", *sorted(found)]


def up_to_date(page: str, parts: Parts) -> str:
    """Make every part of a page anew; all else stays.

    Raises:
        ValueError: a part begins and does not end.
    """
    for name in names_on(page):
        if name in parts:
            page = put(page, name, parts[name]())
    return page


def names_on(page: str) -> list[str]:
    """List the names of the parts that begin on a page."""
    return re.findall(r"^<!-- ([\w-]+) -->$", page, re.MULTILINE)


def put(page: str, name: str, text: str) -> str:
    """Put a part's text between its marks; all else stays.

    Raises:
        ValueError: the marks are missing.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if start not in page or end not in page:
        raise ValueError(f"expected {start} and {end} on the page; add them")
    head, _, rest = page.partition(start)
    return f"{head}{start}\n{text}\n{end}{rest.partition(end)[2]}"


def wing_table(root: Path) -> str:
    """List the wings of all packages with their phrases, as a Markdown table.

    What lies inside a wing is on the page of its package.
    """
    lines = ["| wing | what it is |", "| --- | --- |"]
    for package in PACKAGES:
        for wing in _wings(root / package):
            if wing.parent != root / package:
                continue
            name = wing.relative_to(root)
            lines.append(_row(root, wing / "__init__.py", f"`{name}/`"))
    return "\n".join(lines)


def file_tables(package: Path) -> str:
    """List every module of a package with its phrase: a table for each wing."""
    blocks = [file_table(package)]
    for wing in _wings(package):
        name = wing.relative_to(package).as_posix()
        blocks.append(f"**`{name}/`** {phrase_of(wing / '__init__.py')}.")
        blocks.append(file_table(wing, package))
    return "\n\n".join(block for block in blocks if block)


def file_table(folder: Path, page_folder: Path | None = None) -> str:
    """List the modules of one folder with their phrases; nothing, where it has none.

    Args:
        folder: whose modules are meant, without those below it.
        page_folder: where the page lies, for links; None: in the folder.
    """
    found = [path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
    rows = [_row(page_folder or folder, path, f"`{path.name}`") for path in found]
    return "\n".join(["| file | what it is |", "| --- | --- |", *rows] if rows else [])


def phrase_of(module: Path) -> str:
    """Say what a module is: the first paragraph of its docstring, as one line."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].replace("``", "`").split()).rstrip(".")


def exit_code_table() -> str:
    """Write the exit codes as a Markdown table."""
    rows = [f"| {code} | {meaning} |" for code, _, meaning in exit_codes()]
    return "\n".join(["| code | meaning |", "| ---: | --- |", *rows])


def verb_table() -> str:
    """Write every verb of `takt` with the first line of its help."""
    rows = [f"| `{verb}` | {phrase} |" for verb, phrase in verbs()]
    return "\n".join(["| verb | what it does |", "| --- | --- |", *rows])


def verbs() -> list[tuple[str, str]]:
    """List the verbs of `takt` ("takt cloud train") with their help."""
    main_group = typer.main.get_command(app)
    assert isinstance(main_group, TyperGroup)
    return list(_verbs_of(main_group, "takt"))


def config_file_table(folder: Path) -> str:
    """List the TOML files of a folder with the comment that each begins with."""
    rows = [
        f"| [`{path.stem}`]({path.name}) | {_first_comment(path)} |"
        for path in sorted(folder.glob("*.toml"))
    ]
    return "\n".join(["| name | what it is |", "| --- | --- |", *rows])


def _verbs_of(group: TyperGroup, prefix: str) -> Iterator[tuple[str, str]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _verbs_of(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command.get_short_help_str(200)


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.removeprefix("#").strip() for line in comment)


def _wings(package: Path) -> list[Path]:
    """List the sub-packages of a package, of all depths, without generated code."""
    found = [path.parent for path in package.rglob("*/__init__.py")]
    return sorted(path for path in found if path.name != "pb")


def _row(page_folder: Path, path: Path, title: str) -> str:
    target = path.parent if path.name == "__init__.py" else path
    phrase = phrase_of(path).replace("|", "\\|")
    outside = re.split(r"(`[^`]*`)", phrase)
    phrase = "".join(
        part if part.startswith("`") else part.replace("<", "\\<") for part in outside
    )
    return f"| [{title}]({target.relative_to(page_folder)}) | {phrase} |"


def bench_plots(root: Path = ROOT) -> dict[Path, str]:
    """Draw the committed plots of benches, but for those of comparisons."""
    folder = root / "tests" / "bench" / "results"
    plots: Parts = _of_benches(root).PLOTS
    return {folder / name: plot() for name, plot in plots.items()}


def _of_benches(root: Path) -> Any:
    """Import what tests/bench, which is no package, makes of its rows."""
    folder = str(root / "tests" / "bench")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("page_tables")


def plotted_rows(root: Path = ROOT) -> list[Path]:
    """List the committed rows of comparisons that have their plots beside them."""
    plots = (root / "tests" / "bench" / "results").glob("*-cpu.svg")
    stems = {
        path.name.removesuffix("-cpu.svg").removesuffix("-tuned") for path in plots
    }
    rows = (root / "tests" / "bench" / "results" / f"{stem}.json" for stem in stems)
    return sorted(path for path in rows if path.exists())


def main() -> None:
    """Bring all pages, and the plots that they show, up to date."""
    for rows in plotted_rows():
        write_plots(read_rows(rows), rows)
    for place, text in bench_plots().items():
        place.write_text(text, encoding="utf-8")
    parts = parts_of()
    for path in pages():
        old = path.read_text(encoding="utf-8")
        new = up_to_date(old, parts)
        if new != old:
            path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
