"""What the teacher adds, against the student's size: a plot of `takt compare`.

The points of AutoAttack accuracy that method `takt` is above `warm_at`, which has the
same attack and no teacher, for the same seed and the largest CPU budget of each
student. Not here: the other plots (compare_plots.py), and the figures as a table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from deploy.compare.plot_parts import legend, mark, picture
from deploy.compare.rows import Row
from deploy.compare.tables import data_set_names
from deploy.report.charts import escape, hue

_WIDTH, _HEIGHT = 640, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 20, 52, 44
_ACROSS, _DOWN = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_STEP = 5  # points from line to line

Gain = tuple[int, float, float]  # parameters, mean and standard deviation over seeds


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
        budget_s = max(row.cpu_budget_s for row in own)
        takt, alone = (
            {
                row.seed: 100 * row.robust_accuracy
                for row in own
                if (row.method, row.cpu_budget_s) == (method, budget_s)
            }
            for method in ("takt", "warm_at")
        )
        pairs = [takt[seed] - alone[seed] for seed in takt if seed in alone]
        if pairs:
            deviation = stdev(pairs) if len(pairs) > 1 else 0.0
            found.setdefault(name, []).append((size, mean(pairs), deviation))
    return found


@dataclass(frozen=True)
class _Scale:
    """Where a size and a gain lie in the picture."""

    low: int  # points of robust accuracy
    high: int
    first: int  # powers of ten of parameters
    last: int

    @classmethod
    def around(cls, gains: Sequence[Gain]) -> "_Scale":
        """Take in all points with their bars, and zero."""
        sizes = [size for size, _, _ in gains]
        lowest = min(0.0, *(middle - deviation for _, middle, deviation in gains))
        highest = max(_STEP, *(middle + deviation for _, middle, deviation in gains))
        first = math.floor(math.log10(min(sizes)))
        return cls(
            low=_STEP * math.floor(lowest / _STEP),
            high=_STEP * math.ceil(highest / _STEP),
            first=first,
            last=max(first + 1, math.ceil(math.log10(max(sizes)))),
        )

    def x(self, size: float) -> float:
        return _LEFT + _ACROSS * (math.log10(size) - self.first) / (
            self.last - self.first
        )

    def y(self, points: float) -> float:
        return _TOP + _DOWN * (self.high - points) / (self.high - self.low)


def teacher_curve(rows: Sequence[Row]) -> str | None:
    """Draw the gains of `teacher_gains`: SVG text, or None where there is none."""
    gains = teacher_gains(rows)
    if not gains:
        return None
    scale = _Scale.around([gain for curve in gains.values() for gain in curve])
    out = [*legend(list(gains), _LEFT), *_axes(scale)]
    for i, (dataset, curve) in enumerate(gains.items()):
        out.append(_curve(i, dataset, curve, scale))
    words = "Points that takt is above warm_at, against the student's parameters"
    return picture(words, _WIDTH, _HEIGHT, out)


def _axes(scale: _Scale) -> list[str]:
    out = [
        f'<text x="4" y="{_TOP - 10}">points of robust % over warm_at</text>',
        f'<text x="{_LEFT + _ACROSS / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">'
        "parameters of the student</text>",
    ]
    for points in range(scale.low, scale.high + 1, _STEP):
        y, style = scale.y(points), "grid" if points else "zero"
        out.append(
            f'<path class="{style}" d="M{_LEFT} {y:.1f}h{_ACROSS}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{points:+d}'
            "</text>"
        )
    for power in range(scale.first, scale.last + 1):
        out.append(
            f'<text x="{scale.x(10**power):.1f}" y="{_TOP + _DOWN + 18}" '
            f'text-anchor="middle">{10**power:,}</text>'
        )
    return out


def _curve(index: int, dataset: str, curve: Sequence[Gain], scale: _Scale) -> str:
    line = "L".join(f"{scale.x(size):.1f} {scale.y(m):.1f}" for size, m, _ in curve)
    out = [f'<g class="{hue(index)}"><path class="curve" d="M{line}"/>']
    for size, middle, deviation in curve:
        x, y = scale.x(size), scale.y(middle)
        note = f"{dataset}, {size:,} parameters: {middle:+.1f}"
        out.append(
            f"<g><title>{escape(note)}</title>"
            f'<path class="bar" d="M{x:.1f} {scale.y(middle - deviation):.1f}'
            f'V{scale.y(middle + deviation):.1f}"/>{mark(index, x, y)}</g>'
        )
    return "".join([*out, "</g>"])
