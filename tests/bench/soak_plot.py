"""The curves of a soak: memory and descriptors of its gateway and daemons over time.

A line is broken where the gateway was killed. Not here: the soak (soak.py), its table
(soak_table.py).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from rows import Row

from deploy.compare.plots import draw_legend
from deploy.report.svg import Picture, color, hue, styled

_WIDTH, _PANEL, _TOP = 640, 150, 58
_PANELS = {"rss_mib": "MiB of memory (RSS)", "fds": "descriptors"}
_NAMES = ("gateway", "median daemon", "largest daemon")

Line = list[tuple[float, float]]  # minutes since the start, and a value


def lines_of(rows: Sequence[Row], field: str) -> tuple[Line, Line, Line]:
    """Collect a field's lines: the gateway's, the daemons' median and their most.

    Between two lives of the gateway its line has a point that is no number.
    """
    lives = [row for row in rows if row["who"] == "gateway"]
    gateway: Line = []
    for before, row in pairwise([*lives[:1], *lives]):
        if row["life"] != before["life"]:
            gateway.append((row["t_s"] / 60, math.nan))
        gateway.append((row["t_s"] / 60, row[field]))
    at: dict[float, list[float]] = {}
    for row in rows:
        if row["who"].startswith("node-"):
            at.setdefault(row["t_s"] / 60, []).append(row[field])
    middle = [(minute, median(values)) for minute, values in at.items()]
    return gateway, middle, [(minute, max(values)) for minute, values in at.items()]


@styled
def plot(rows: Sequence[Row]) -> str:
    """Draw the samples of a soak: SVG text."""
    picture = Picture(_WIDTH, _TOP + len(_PANELS) * (_PANEL + 58))
    draw_legend(picture, _NAMES)
    for number, (field, words) in enumerate(_PANELS.items()):
        top = _TOP + number * (_PANEL + 58)
        picture.text(10, top - 14, words)
        axes = picture.axes(48, top, _WIDTH - 48 - 20, _PANEL)
        for index, line in enumerate(lines_of(rows, field)):
            (drawn,) = axes.plot(*zip(*line, strict=True), color=color(hue(index)))
            last, most = line[-1][1], max(v for _, v in line if not math.isnan(v))
            note = f"{_NAMES[index]}, {words}: most {most:.0f}, last {last:.0f}"
            picture.explain(note, [drawn])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("minutes", color=color("soft"))
    return picture.svg_file("Memory and descriptors of a gateway and its daemons")
