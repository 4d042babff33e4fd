"""The plot of `gap.py`: what a teacher adds, against the robust gap without one.

A point is a data set, a number of own images and of their views: means over the seeds
that have both students; its bar is the standard deviation of what the teacher adds. Not
here: the trainings (gap.py).
"""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from rows import Row

from deploy.compare.plots import draw_legend, draw_point
from deploy.report.svg import Picture, color, styled

_WIDTH, _HEIGHT = 640, 360


class Point(NamedTuple):
    """Both students of some images, all seeds together; in points of percent."""

    dataset: str
    own_images: int
    num_views: int
    gap: float  # robust accuracy on training less that on test images, no teacher
    gain: float  # of the student with a teacher over that without, on test images
    spread: float  # of the gain, over seeds; 0 for one
    num_seeds: int


def points(rows: Sequence[Row]) -> list[Point]:
    """Pair the rows by images, views and seed."""
    keys = ("dataset", "own_images", "num_views", "seed", "method")
    by_key = {tuple(row[key] for key in keys): row for row in rows}
    pairs: dict[tuple[str, int, int], list[tuple[float, float]]] = {}
    for (dataset, size, views, seed, method), alone in by_key.items():
        taught = by_key.get((dataset, size, views, seed, "takt"))
        if method != "warm_at" or taught is None:
            continue
        test = alone["test_robust_accuracy"]
        gap = alone["train_robust_accuracy"] - test
        gain = taught["test_robust_accuracy"] - test
        pairs.setdefault((dataset, size, views), []).append((100 * gap, 100 * gain))
    return [
        Point(
            *place,
            gap=mean(gap for gap, _ in found),
            gain=mean(gain for _, gain in found),
            spread=stdev(gain for _, gain in found) if len(found) > 1 else 0.0,
            num_seeds=len(found),
        )
        for place, found in sorted(pairs.items())
    ]


@styled
def plot(rows: Sequence[Row]) -> str:
    """Draw the points of at least one pair of rows: SVG text."""
    found = points(rows)
    series = sorted({point.dataset for point in found})
    picture = Picture(_WIDTH, _HEIGHT)
    draw_legend(picture, series)
    axes = picture.axes(48, 58, _WIDTH - 48 - 20, _HEIGHT - 58 - 44)
    picture.text(10, 44, "points of robust % that the teacher adds")
    axes.set_xlabel(
        "robust % on training images less that on test images, without a teacher",
        color=color("soft"),
    )
    axes.axhline(0, color=color("soft"), linewidth=1, zorder=1)
    for point in found:
        bar = (point.gain - point.spread, point.gain + point.spread)
        views = f"{point.num_views} view{'s' * (point.num_views > 1)}"
        note = (
            f"{point.dataset}, {point.own_images:,} images, {views}: gap "
            f"{point.gap:.1f}, {point.gain:+.1f} ({point.num_seeds} seeds)"
        )
        at = (point.gap, point.gain)
        draw_point(picture, axes, series.index(point.dataset), at, bar, note)
    return picture.svg_file(
        "Points that a teacher adds, against the robust gap without one"
    )
