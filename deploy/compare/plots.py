"""The plots of `takt compare`: robust accuracy against cost, as plain SVG files.

One file a cost (node CPU-seconds, bytes of knowledge), one panel a data set and
student; a point is the mean over seeds, its bar the standard deviation. And what a
teacher adds (compare_curve.py). Not here: the rows.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from common.durable import write_atomic
from deploy.compare.curve import teacher_curve
from deploy.compare.plot_parts import legend, mark, picture
from deploy.compare.rows import Row
from deploy.compare.tables import Group, data_set_names, groups
from deploy.report.charts import escape, hue, nice_ticks

_WIDTH, _HEIGHT, _ACROSS = 320, 250, 3  # of a panel; panels in a line
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 14, 40, 42
_LEGEND = 34
_COSTS: dict[str, tuple[str, Callable[[Group], float]]] = {
    "cpu": ("node CPU-seconds", lambda group: group.mean("cpu_s")),
    "bytes": ("knowledge pulled, KiB", lambda g: g.mean("pulled_bytes") / 1024),
}


def write_plots(rows: Sequence[Row], out: Path) -> list[Path]:
    """Write NAME-cpu.svg and the others beside the file of rows NAME.json.

    Raises:
        StorageError: they cannot be written.
    """
    if not rows:
        return []
    written = []
    for name, (label, cost) in _COSTS.items():
        path = out.with_name(f"{out.stem}-{name}.svg")
        write_atomic(path, plot(groups(rows), label, cost).encode())
        written.append(path)
    curve = teacher_curve(rows)
    if curve is not None:
        path = out.with_name(f"{out.stem}-teacher.svg")
        write_atomic(path, curve.encode())
        written.append(path)
    return written


def plot(found: Sequence[Group], label: str, cost: Callable[[Group], float]) -> str:
    """Draw all panels and a legend: SVG text.

    Args:
        found: at least one group of rows.
        label: what the cost is, with its unit.
        cost: of a group.
    """
    methods = sorted({group.first.method for group in found})
    panels: dict[str, list[Group]] = {}
    names = data_set_names(group.first for group in found)
    for group in found:
        row = group.first
        name = names[row.dataset, row.num_train]
        title = f"{name}, {row.student} ({row.num_parameters:,})"
        panels.setdefault(title, []).append(group)
    across = min(len(panels), _ACROSS)
    width = max(across * _WIDTH, 90 * len(methods) + _LEFT)
    height = _LEGEND + -(-len(panels) // across) * _HEIGHT
    words = f"Robust accuracy under AutoAttack against {label}, by method"
    out = legend(methods, _LEFT)
    for i, (title, members) in enumerate(panels.items()):
        x, y = i % across * _WIDTH, _LEGEND + i // across * _HEIGHT
        inside = _panel(title, members, methods, label, cost)
        out.append(f'<g transform="translate({x} {y})">{inside}</g>')
    return picture(words, width, height, out)


def _panel(
    title: str,
    members: Sequence[Group],
    methods: Sequence[str],
    label: str,
    cost: Callable[[Group], float],
) -> str:
    ticks = nice_ticks(1.05 * max(cost(group) for group in members), most=5)
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        y = min(max(y, 0.0), 1.0)
        return _LEFT + width * x / ticks[-1], _TOP + height * (1 - y)

    out = [
        f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>',
        f'<text x="4" y="{_TOP - 8}">robust %</text>',
        f'<text x="{_LEFT + width / 2:.0f}" y="{_HEIGHT - 8}" '
        f'text-anchor="middle">{escape(label)}</text>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        _, y = at(0, share)
        out.append(
            f'<path class="grid" d="M{_LEFT} {y:.1f}h{width}"/><text x="{_LEFT - 6}" '
            f'y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f}</text>'
        )
    for tick in ticks:
        x, y = at(tick, 0)
        out.append(
            f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{tick:g}</text>'
        )
    for group in members:
        i = methods.index(group.first.method)
        mean, spread = group.mean("robust_accuracy"), group.spread("robust_accuracy")
        x, y = at(cost(group), mean)
        _, low = at(0, mean - (spread or 0))
        _, high = at(0, mean + (spread or 0))
        note = f"{group.first.method}: {group.percent('robust_accuracy')} %"
        out.append(
            f'<g class="{hue(i)}"><title>{escape(note)}</title>'
            f'<path class="bar" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
            f"{mark(i, x, y)}</g>"
        )
    return "".join(out)
