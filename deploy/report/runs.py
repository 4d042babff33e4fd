"""Several runs at once: which there are, and where two of them differ.

Reads each run's result.json and config.toml. A run whose record is damaged is listed as
such and keeps nobody from seeing the others. Not here: one run's tables (table.py).
"""

import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.errors import StorageError
from common.records import Evaluation
from common.regular_file import is_file, is_folder
from common.text import printable
from common.text_file import read_text
from deploy.report.result import RESULT_NAME, RunResult, read_result
from deploy.report.wording import percent
from deploy.runtime.config_keys import leaves
from deploy.runtime.terminal import plain

_CONFIG = "config.toml"
_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class RunLine:
    """One run of a folder of runs."""

    folder: Path
    ended: datetime  # when its record was written
    result: RunResult | None  # None: it has none that can be read
    fault: str = ""


def find_runs(runs_dir: Path) -> list[RunLine]:
    """List the runs of a folder, the newest last.

    Raises:
        StorageError: there is no such folder.
    """
    try:
        folders = [folder for folder in runs_dir.iterdir() if is_folder(folder)]
    except OSError as e:
        raise StorageError(
            f"no runs at {runs_dir}: {e.strerror}; `takt simulate` makes some, "
            "--runs-dir names another folder"
        ) from e
    lines = []
    for folder in folders:
        record = folder / RESULT_NAME
        if not is_file(record) and not is_file(folder / _CONFIG):
            continue  # no run
        ended = _when(record if is_file(record) else folder)
        try:
            lines.append(RunLine(folder, ended, read_result(folder)))
        except StorageError as e:
            fault = "damaged record" if is_file(record) else "no record: it did not end"
            lines.append(RunLine(folder, ended, None, f"{fault} ({type(e).__name__})"))
    return sorted(lines, key=lambda line: (line.ended, line.folder.name))


def _when(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).astimezone()


def print_runs(runs_dir: Path, console: Console, *, as_json: bool) -> None:
    """Print the runs of a folder, one line each.

    Raises:
        StorageError: there is no such folder.
    """
    lines = find_runs(runs_dir)
    if as_json:
        print(json.dumps([_as_tree(line) for line in lines], indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for head in ("run", "ended", "data", "nodes", "teacher %", "students %", "status"):
        table.add_column(head, justify="right" if head.endswith("%") else "left")
    # The name is what other verbs are given: it is never cut.
    names = [printable(line.folder.name) for line in lines]
    table.columns[0].min_width = max(map(len, names), default=0)
    for line in lines:
        table.add_row(*map(plain, _cells(line)))
    console.print(table)
    if not lines:
        console.print(f"no run in {runs_dir} yet; `takt simulate` makes one")
    else:
        console.print(
            "robust accuracy by AutoAttack; `takt runs show` has images and eps",
            style="dim",
            highlight=False,
        )


def _cells(line: RunLine) -> tuple[str, ...]:
    name, ended = line.folder.name, f"{line.ended:%Y-%m-%d %H:%M}"
    result = line.result
    if result is None:
        return name, ended, "-", "-", "-", "-", line.fault
    teacher = result.teacher_autoattack
    found = [n.autoattack.accuracy for n in result.nodes if n.autoattack is not None]
    students = "-"
    if found:
        low, high = percent(min(found)), percent(max(found))
        students = low if low == high else f"{low} to {high}"
    return (
        name,
        ended,
        result.dataset.name if result.dataset else "-",
        str(len(result.nodes)),
        percent(teacher.accuracy) if teacher else "-",
        students,
        result.status if result.error is None else f"failed ({result.error.code})",
    )


def _as_tree(line: RunLine) -> dict[str, object]:
    tree: dict[str, object] = {
        "path": str(line.folder),
        "ended": line.ended.isoformat(timespec="seconds"),
    }
    if line.result is None:
        return {**tree, "fault": line.fault}
    nodes = {
        node.name: node.autoattack.accuracy
        for node in line.result.nodes
        if node.autoattack is not None
    }
    return {**tree, "status": line.result.status, "robust_accuracy": nodes}


def print_comparison(one: Path, other: Path, console: Console) -> None:
    """Print two runs side by side: keys that differ, and each model's figures.

    Raises:
        StorageError: one of them has no record.
    """
    results = read_result(one), read_result(other)
    for key, first, second in config_differences(one, other):
        line = plain(f"{key}: {first} -> {second}")
        console.print(line, highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for head in ("model", *(plain(each.run_id) for each in results), "difference"):
        table.add_column(head, justify="left" if head == "model" else "right")
    models = [_figures(result) for result in results]
    for name in dict.fromkeys([*models[0], *models[1]]):
        pair = [each.get(name) for each in models]
        shown = ["-" if e is None else f"{percent(e.accuracy)} %" for e in pair]
        table.add_row(*map(plain, (name, *shown, _difference(pair))))
    console.print(table)
    console.print(
        "robust accuracy by AutoAttack; +- is the 95 % interval of the difference by "
        "the number of images, without the spread between seeds",
        style="dim",
        highlight=False,
    )


def config_differences(one: Path, other: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each key in which two runs' configs differ, with both values.

    A run without a readable config has no keys.
    """
    trees = [_keys_of(run) for run in (one, other)]
    for key in dict.fromkeys([*trees[0], *trees[1]]):
        values = [tree.get(key, "(not set)") for tree in trees]
        if values[0] != values[1]:
            yield key, values[0], values[1]


def _keys_of(run: Path) -> dict[str, str]:
    """Read a run's config: each key with its value."""
    folder = run if is_folder(run) else run.parent
    try:
        tree = tomllib.loads(read_text(folder / _CONFIG))
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: str(value) for key, value in leaves(tree) if key}


def _figures(result: RunResult) -> dict[str, Evaluation | None]:
    teacher = result.teacher_autoattack
    figures = {"teacher": teacher}
    figures |= {node.name: node.autoattack for node in result.nodes}
    return figures


def _difference(pair: list[Evaluation | None]) -> str:
    """Say how far two figures are apart, and how much of that is chance."""
    one, other = pair
    if one is None or other is None:
        return "-"
    if (one.eps, one.norm, one.version) != (other.eps, other.norm, other.version):
        return "another attack or eps"
    variance = sum(
        each.accuracy * (1 - each.accuracy) / each.num_images for each in (one, other)
    )
    points = 100 * (other.accuracy - one.accuracy)
    return f"{points:+.1f} +- {100 * _Z * math.sqrt(variance):.1f}"
