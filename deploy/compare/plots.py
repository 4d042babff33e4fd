"""The plots of `takt compare`: robust accuracy against cost, as SVG files.

One file a cost (node CPU-seconds, bytes of knowledge), one panel a data set and
student; a point is the mean over seeds, its bar the standard deviation. And what the
teacher adds, against the student's size: the points of AutoAttack accuracy that
method `takt` is above `warm_at`, which has the same attack and no teacher, for the
same seed and the largest CPU budget of each student.

Not here: the rows (`deploy/compare/rows.py`), the figures as tables
(`deploy/compare/tables.py`).
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from common.durable import write_atomic
from deploy.compare.rows import Row
from deploy.compare.tables import Group, data_set_names, groups
from deploy.report.charts import PERCENTS, nice_ticks
from deploy.report.svg import Picture, color, hue, mark, styled

_WIDTH, _HEIGHT, _ACROSS = 320, 250, 3  # of a panel; panels in a line
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 14, 46, 42
_LEGEND = 34
_CURVE_WIDTH, _CURVE_HEIGHT = 640, 330
_STEP = 5  # points of robust accuracy from line to line
_COSTS: dict[str, tuple[str, Callable[[Group], float]]] = {
    "cpu": ("node CPU-seconds", lambda group: group.mean("cpu_s")),
    "bytes": ("knowledge pulled, KiB", lambda g: g.mean("pulled_bytes") / 1024),
}

Gain = tuple[int, float, float]  # parameters, mean and standard deviation over seeds


def write_plots(rows: Sequence[Row], out: Path) -> list[Path]:
    """Write NAME-cpu.svg and the others beside the file of rows NAME.json.

    Of tuned rows they are apart, NAME-tuned-cpu.svg and so on.

    Raises:
        StorageError: they cannot be written.
    """
    plain = [row for row in rows if not row.tuned]
    tuned = [row for row in rows if row.tuned]
    return [*_write(plain, out, out.stem), *_write(tuned, out, f"{out.stem}-tuned")]


def _write(rows: Sequence[Row], out: Path, stem: str) -> list[Path]:
    if not rows:
        return []
    texts = {
        name: cost_plot(groups(rows), label, cost)
        for name, (label, cost) in _COSTS.items()
    }
    gains = teacher_gains(rows)
    if gains:
        texts["teacher"] = gain_plot(gains)
    written = []
    for name, text in texts.items():
        path = out.with_name(f"{stem}-{name}.svg")
        write_atomic(path, text.encode())
        written.append(path)
    return written


@styled
def cost_plot(
    found: Sequence[Group], label: str, cost: Callable[[Group], float]
) -> str:
    """Draw all panels and a legend: SVG text.

    Args:
        found: at least one group of rows.
        label: what the cost is, with its unit.
        cost: of a group.
    """
    methods = sorted({group.first.method for group in found})
    panels = _panels(found)
    across = min(len(panels), _ACROSS)
    picture = Picture(
        width=max(across * _WIDTH, 90 * len(methods) + _LEFT),
        height=_LEGEND + math.ceil(len(panels) / across) * _HEIGHT,
    )
    draw_legend(picture, methods)
    for i, (title, members) in enumerate(panels.items()):
        left, top = i % across * _WIDTH, _LEGEND + i // across * _HEIGHT
        axes = picture.axes(
            left + _LEFT,
            top + _TOP,
            _WIDTH - _LEFT - _RIGHT,
            _HEIGHT - _TOP - _BOTTOM,
        )
        picture.text(left + _LEFT, top + 16, title, bold=True)
        picture.text(left + 6, top + _TOP - 14, "robust %")
        ticks = nice_ticks(1.05 * max(cost(group) for group in members), most=5)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_yticks(PERCENTS)
        axes.set(xlim=(0, ticks[-1]), ylim=(0, 100))
        axes.set_xlabel(label, color=color("soft"))
        for group in members:
            _group(picture, axes, methods.index(group.first.method), group, cost)
    return picture.svg_file(
        f"Robust accuracy under AutoAttack against {label}, by method"
    )


def _panels(found: Sequence[Group]) -> dict[str, list[Group]]:
    """Put the groups of one data set and student together, by the panel's title."""
    names = data_set_names(group.first for group in found)
    panels: dict[str, list[Group]] = {}
    for group in found:
        row = group.first
        name = names[row.dataset, row.num_train]
        title = f"{name}, {row.student} ({row.num_parameters:,})"
        panels.setdefault(title, []).append(group)
    return panels


def _group(
    picture: Picture,
    axes: Axes,
    index: int,
    group: Group,
    cost: Callable[[Group], float],
) -> None:
    """Draw the mean of a method as its mark, and its spread as a bar."""
    middle = 100 * group.mean("robust_accuracy")
    spread = 100 * (group.spread("robust_accuracy") or 0)
    bar = (max(middle - spread, 0), min(middle + spread, 100))
    note = f"{group.first.method}: {group.percent('robust_accuracy')} %"
    draw_point(picture, axes, index, (cost(group), middle), bar, note)


def draw_point(
    picture: Picture,
    axes: Axes,
    index: int,
    at: tuple[float, float],
    bar: tuple[float, float],
    note: str,
) -> None:
    """Draw a mark at x, y, a bar from one value to another, and what a reader hears."""
    x, y = at
    (line,) = axes.plot([x, x], bar, color=color(hue(index)), linewidth=2)
    (point,) = axes.plot([x], [y], **_mark(index))
    picture.explain(note, [line, point])


def _mark(index: int) -> dict[str, Any]:
    """Describe the mark of a series to matplotlib: without a line."""
    return {"linestyle": "none", "markeredgewidth": 0, **mark(index)}


def draw_legend(picture: Picture, names: Sequence[str]) -> None:
    """Explain the series by their marks, in one line at the top."""
    picture.figure.legend(
        handles=[
            Line2D([], [], label=name, **_mark(i)) for i, name in enumerate(names)
        ],
        loc="upper left",
        bbox_to_anchor=(_LEFT / picture.width, 1 - 8 / picture.height),
        borderaxespad=0,
        borderpad=0,
        ncols=len(names),
        frameon=False,
        labelcolor=color("ink"),
        handlelength=1,
        handletextpad=0.4,
        columnspacing=1.4,
    )


def teacher_gains(rows: Sequence[Row]) -> dict[str, list[Gain]]:
    """Pair the rows of `takt` and `warm_at`: by data set, smallest student first.

    Returns:
        Points of robust accuracy, in percent; a single seed has a deviation of 0.
    """
    names = data_set_names(rows)
    students: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row.method in ("takt", "warm_at"):
            name = names[row.dataset, row.num_train]
            students.setdefault((name, row.num_parameters), []).append(row)
    found: dict[str, list[Gain]] = {}
    for (name, size), own in sorted(students.items()):
        pairs = _differences(own)
        if pairs:
            deviation = stdev(pairs) if len(pairs) > 1 else 0.0
            found.setdefault(name, []).append((size, mean(pairs), deviation))
    return found


def _differences(own: Sequence[Row]) -> list[float]:
    """Subtract `warm_at` from `takt` for each seed that has both, in points."""
    budget_s = max(row.cpu_budget_s for row in own)
    takt, alone = (
        {
            row.seed: 100 * row.robust_accuracy
            for row in own
            if (row.method, row.cpu_budget_s) == (method, budget_s)
        }
        for method in ("takt", "warm_at")
    )
    return [takt[seed] - alone[seed] for seed in takt if seed in alone]


@styled
def gain_plot(gains: dict[str, list[Gain]]) -> str:
    """Draw the gains of `teacher_gains`, at least one: SVG text."""
    picture = Picture(_CURVE_WIDTH, _CURVE_HEIGHT)
    draw_legend(picture, list(gains))
    axes = picture.axes(48, 58, _CURVE_WIDTH - 48 - 44, _CURVE_HEIGHT - 58 - 44)
    picture.text(10, 44, "points of robust % over warm_at")
    axes.set_xlabel("parameters of the student", color=color("soft"))
    _scale(axes, [gain for curve in gains.values() for gain in curve])
    for i, (dataset, curve) in enumerate(gains.items()):
        axes.plot(
            [size for size, _, _ in curve],
            [middle for _, middle, _ in curve],
            color=color(hue(i)),
            linewidth=2,
        )
        for size, middle, deviation in curve:
            bar = (middle - deviation, middle + deviation)
            note = f"{dataset}, {size:,} parameters: {middle:+.1f}"
            draw_point(picture, axes, i, (size, middle), bar, note)
    return picture.svg_file(
        "Points that takt is above warm_at, against the student's parameters"
    )


def _scale(axes: Axes, gains: Sequence[Gain]) -> None:
    """Let the axes hold all points with their bars, and zero, between round values."""
    lowest = min(0.0, *(middle - deviation for _, middle, deviation in gains))
    highest = max(_STEP, *(middle + deviation for _, middle, deviation in gains))
    axes.set_ylim(
        _STEP * math.floor(lowest / _STEP), _STEP * math.ceil(highest / _STEP)
    )
    axes.yaxis.set_major_locator(MultipleLocator(_STEP))
    axes.yaxis.set_major_formatter(lambda points, _: f"{points:+.0f}")
    axes.axhline(0, color=color("soft"), linewidth=1, zorder=1)
    sizes = [size for size, _, _ in gains]
    first = math.floor(math.log10(min(sizes)))
    last = max(first + 1, math.ceil(math.log10(max(sizes))))
    axes.set_xscale("log")
    axes.set_xlim(10**first, 10**last)
    powers = [10**power for power in range(first, last + 1)]
    axes.set_xticks(powers, [f"{size:,}" for size in powers])
    axes.minorticks_off()
