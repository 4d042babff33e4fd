"""Charts of the report as HTML and SVG text: bars and curves.

Colours are CSS classes (`teacher`, `s0` to `s5`), so that one picture serves the
light and the dark scheme. Numbers come in as plain floats; nothing here knows
what a run is, reads a file or runs a script. Every text is escaped here.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

NUM_HUES = 6
# Relative SVG paths around a point: disc, square, diamond, triangle.
MARKS = (
    "m-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "m-4.5 -4.5h9v9h-9z",
    "m0 -6l6 6l-6 6l-6 -6z",
    "m0 -6l5.6 10h-11.2z",
)


def escape(text: object) -> str:
    """Escape for HTML text and quoted attributes."""
    return html.escape(str(text), quote=True)


def hue(index: int) -> str:
    """Name the CSS class of the series number `index`."""
    return f"s{index % NUM_HUES}"


@dataclass(frozen=True)
class Bar:
    """One bar of a row, as fractions of the track."""

    width: float
    style: str  # CSS class of the colour
    hatched: bool = False
    tick: float | None = None
    span: tuple[float, float] | None = None  # a whisker from, to


@dataclass(frozen=True)
class BarRow:
    """A labelled row: name and detail left, bars, value and details right."""

    name: str
    detail: str
    bars: tuple[Bar, ...]
    value: str
    value_details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """One curve: points (x, y), y a fraction."""

    name: str
    style: str
    points: Sequence[tuple[float, float]] = field(default_factory=tuple)
    dashed: bool = False
    mark: int = 0  # index of the shape at its end, beside the colour


def wilson(successes: float, count: int) -> tuple[float, float]:
    """Give the 95 % interval of a share (Wilson 1927).

    Args:
        successes: the measured share, in [0, 1].
        count: of how many.
    """
    z = 1.96
    centre = (successes + z * z / (2 * count)) / (1 + z * z / count)
    spread = successes * (1 - successes) / count + z * z / (4 * count * count)
    half = z * math.sqrt(spread) / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def bar_rows(rows: Sequence[BarRow]) -> str:
    """Draw rows of bars as a list."""
    items = []
    for row in rows:
        details = "".join(f"<span>{escape(text)}</span>" for text in row.value_details)
        tracks = "".join(_track(bar, thin=len(row.bars) > 1) for bar in row.bars)
        items.append(
            f'<li><div class="label"><b>{escape(row.name)}</b>'
            f"<span>{escape(row.detail)}</span></div>"
            f'<div class="stack" aria-hidden="true">{tracks}</div>'
            f'<div class="value"><b>{escape(row.value)}</b>'
            f"{details}</div></li>"
        )
    return f'<ul class="bars">{"".join(items)}</ul>'


def _track(bar: Bar, *, thin: bool) -> str:
    width = 100 * min(max(bar.width, 0.0), 1.0)
    inside = (
        f'<div class="fill{" hatched" if bar.hatched else ""}" '
        f'style="width:{width:.2f}%"></div>'
    )
    if bar.span is not None:
        low, high = (100 * value for value in bar.span)
        inside += (
            f'<div class="whisker" style="left:{low:.2f}%;width:{high - low:.2f}%">'
            "</div>"
        )
    if bar.tick is not None:
        inside += f'<div class="tick" style="left:{100 * bar.tick:.2f}%"></div>'
    return f'<div class="track {bar.style}{" thin" if thin else ""}">{inside}</div>'


def curves(
    series: Sequence[Series], *, x_label: str, y_label: str, summary: str
) -> str:
    """Draw curves of fractions with a legend, in a wide and in a narrow picture.

    Args:
        series: each with at least one point.
        x_label: what x is, with its unit.
        y_label: what y is.
        summary: the same in words, for who cannot see it.
    """
    sizes = (("wide", 1030, 330), ("narrow", 340, 270))
    pictures = (
        _picture(series, name, width, height, (x_label, y_label), summary)
        for name, width, height in sizes
    )
    return _names(series) + "".join(pictures)


def _names(series: Sequence[Series]) -> str:
    """Explain the curves: colour, dashes and the mark at the end of each."""
    items = "".join(
        f'<span><svg class="swatch" viewBox="0 0 34 12" aria-hidden="true">'
        f"{_line(s, [(1, 6), (22, 6)])}</svg>{escape(s.name)}</span>"
        for s in series
    )
    return f'<p class="legend">{items}</p>'


def _picture(
    series: Sequence[Series],
    css: str,
    width: int,
    height: int,
    labels: tuple[str, str],
    summary: str,
) -> str:
    left, right, top, bottom = 34, 12, 26, 42
    xs = nice_ticks(max((x for s in series for x, _ in s.points), default=1.0))
    plot_w, plot_h = width - left - right, height - top - bottom

    def at(x: float, y: float) -> tuple[float, float]:
        return left + plot_w * x / xs[-1], top + plot_h * (1 - y)

    out = [
        f'<svg class="{css}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(summary)}">',
        f'<text x="0" y="12">{escape(labels[1])}</text>',
        f'<text x="{left + plot_w / 2:.1f}" y="{height - 6}" text-anchor="middle">'
        f"{escape(labels[0])}</text>",
    ]
    for percent in (0, 25, 50, 75, 100):
        _, y = at(0, percent / 100)
        out.append(
            f'<path class="grid" d="M{left} {y:.1f}h{plot_w}"/>'
            f'<text x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>'
        )
    for x in xs:
        px, _ = at(x, 0)
        out.append(
            f'<text x="{px:.1f}" y="{top + plot_h + 18}" text-anchor="middle">'
            f"{x:g}</text>"
        )
    out += [_line(s, [at(x, y) for x, y in s.points]) for s in series]
    return "".join(out) + "</svg>"


def _line(series: Series, points: Sequence[tuple[float, float]]) -> str:
    """Draw one curve with its mark at the end."""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    x, y = points[-1]
    dash = " dashed" if series.dashed else ""
    return (
        f'<path class="curve{dash} {series.style}" d="M{path}"/>'
        f'<path class="mark {series.style}" '
        f'd="M{x:.1f} {y:.1f}{MARKS[series.mark % len(MARKS)]}"/>'
    )


def nice_ticks(top: float, *, most: int = 6) -> list[float]:
    """Give round ticks from 0 to at least `top`: steps of 1, 2 or 5 times 10^n."""
    power = 10.0 ** math.floor(math.log10(max(top, 1e-9) / most))
    step = next(m * power for m in (1, 2, 5, 10, 20) if m * power * most >= top)
    count = math.ceil(top / step - 1e-9)
    return [step * index for index in range(max(count, 1) + 1)]
