"""The curves of the report: accuracies against a cost, for three widths of page.

Numbers come in as plain floats; nothing here knows what a run is or reads a file.

Not here: bars (`deploy/report/bars.py`), how SVG is written (`deploy/report/svg.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from deploy.report.svg import Picture, color, hue, mark, styled

# The page shows the one that fits: texts keep a readable size on phones and desks.
SIZES = {"wide": (1030, 330), "medium": (600, 300), "narrow": (340, 270)}
PERCENTS = (0, 25, 50, 75, 100)
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 26, 42


@dataclass(frozen=True)
class Series:
    """One curve: points (x, y), y a fraction."""

    name: str
    index: int  # of its colour and mark
    points: Sequence[tuple[float, float]] = field(default_factory=tuple)
    dashed: bool = False
    note: str = ""  # shown while the pointer is over it
    rings: Sequence[tuple[float, float]] = ()  # of another measurement, as `points`


def curves(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    summary: str,
    rule: float | None = None,
) -> list[str]:
    """Draw curves of fractions as SVG elements, one for each of SIZES.

    Args:
        series: each with at least one point.
        x_label: what x is, with its unit.
        y_label: what y is.
        summary: the same in words, for readers who cannot see it.
        rule: an x that is marked by a line; None: none is.
    """
    return [
        _picture(series, size, (x_label, y_label), rule).svg(summary, css_class=name)
        for name, size in SIZES.items()
    ]


@styled
def swatch(series: Series) -> str:
    """Draw a sample of a curve for a legend: its colour, dashes and mark."""
    picture = Picture(34, 12)
    axes = picture.axes(0, 0, 34, 12)
    axes.set(xlim=(0, 34), ylim=(0, 12))
    axes.set_axis_off()
    _line(axes, series, [(1, 6), (22, 6)])
    return picture.svg(css_class="swatch")


@styled
def _picture(
    series: Sequence[Series],
    size: tuple[int, int],
    labels: tuple[str, str],
    rule: float | None,
) -> Picture:
    width, height = size
    picture = Picture(width, height)
    axes = picture.axes(_LEFT, _TOP, width - _LEFT - _RIGHT, height - _TOP - _BOTTOM)
    ticks = nice_ticks(max((x for s in series for x, _ in s.points), default=1.0))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(PERCENTS)
    axes.set(xlim=(0, ticks[-1]), ylim=(0, 100))
    axes.set_xlabel(labels[0], color=color("soft"), labelpad=4)
    picture.text(0, 12, labels[1])
    if rule is not None:
        axes.axvline(rule, color=color("soft"), linewidth=1, linestyle=(0, (4, 3)))
    for each in series:
        line = _line(axes, each, [(x, 100 * y) for x, y in each.points])
        rings = axes.plot(
            [x for x, _ in each.rings],
            [100 * y for _, y in each.rings],
            linestyle="",
            **mark(each.index),
            markerfacecolor=color("card"),
            markeredgecolor=color(hue(each.index)),
            markeredgewidth=2,
        )
        picture.explain(each.note or each.name, [line, *rings])
    return picture


def _line(axes: Axes, series: Series, points: Sequence[tuple[float, float]]) -> Line2D:
    """Draw one curve with its mark at the end."""
    (line,) = axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        linewidth=2.2,
        linestyle=(0, (2.3, 1.8)) if series.dashed else "-",
        **mark(series.index),
        markevery=[len(points) - 1],
        markeredgecolor=color("card"),
        markeredgewidth=1.5,
    )
    return line


def nice_ticks(top: float, *, most: int = 6) -> list[float]:
    """Give round ticks from 0 to at least `top`: at most `most` steps."""
    locator = MaxNLocator(nbins=most, steps=[1, 2, 5, 10])
    return [float(tick) for tick in locator.tick_values(0.0, max(top, 1e-9))]
