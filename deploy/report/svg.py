"""Figures of matplotlib as small SVG texts, in the reader's light or dark colours.

A figure is drawn in placeholder colours, one for each name in COLORS. In the SVG
text each becomes a CSS variable of that name; their values are in
`deploy/report/templates/palette.css`. The text has no ids, references, scripts or
fonts, so that several fit into one HTML page, and it is the same on every machine:
the user's matplotlibrc has no effect.

Not here: what is drawn (`deploy/report/charts.py`, `deploy/compare/plots.py`).
"""

import atexit
import io
import re
import shutil
import tempfile
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

NUM_HUES = 6
HUES = tuple(f"s{index}" for index in range(NUM_HUES))
COLORS = ("ink", "soft", "line", "card", "teacher", *HUES)
MARKS = {"o": 10.0, "s": 9.0, "D": 8.5, "^": 11.0}  # markers, equally large to the eye
FONT_SIZE = 12
_RC = {
    **{k: v for k, v in matplotlib.rcParamsDefault.items() if "backend" not in k},
    "font.size": FONT_SIZE,
    "lines.solid_capstyle": "butt",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "takt",
    "text.parse_math": False,  # a "$" in a name is a "$"
}
_STANDALONE = """\
text{font-family:system-ui,"DejaVu Sans",sans-serif}
path{stroke-linejoin:round}
"""


def _remove_own_folder() -> None:
    """Remove the folder that matplotlib makes where HOME takes none.

    It has read its fonts by now, and would remove it at the end of the interpreter
    only, which a run that leaves at once does not come to.
    """
    for folder in map(Path, {matplotlib.get_configdir(), matplotlib.get_cachedir()}):
        made_now = folder.name.startswith("matplotlib-")
        if made_now and folder.parent == Path(tempfile.gettempdir()).resolve():
            shutil.rmtree(folder, ignore_errors=True)
            atexit.unregister(shutil.rmtree)  # matplotlib's own call, which would fail


_remove_own_folder()
styled = matplotlib.rc_context(_RC)


def hue(index: int) -> str:
    """Name the colour of the series number `index`; it is a CSS class as well."""
    return HUES[index % NUM_HUES]


def mark(index: int) -> dict[str, Any]:
    """Give the marker and colour of the series number `index` to matplotlib.

    Markers shift with each round of the hues: 12 series look different.
    """
    marker, size = list(MARKS.items())[(index + index // NUM_HUES) % len(MARKS)]
    return {"marker": marker, "markersize": size, "color": color(hue(index))}


def color(name: str) -> str:
    """Give the placeholder of a colour of COLORS."""
    return f"#f0f0{COLORS.index(name):02x}"


class Picture:
    """A figure measured in CSS pixels from its top left corner.

    Everything that draws into it is called inside the decorator `styled`.
    """

    def __init__(self, width: float, height: float) -> None:
        """Make an empty figure without a background."""
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 72, height / 72), facecolor="none")
        self._titles: dict[str, str] = {}

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes: horizontal lines at the ticks of y, and no frame."""
        bottom = self.height - top - height
        axes = self.figure.add_axes(
            (
                left / self.width,
                bottom / self.height,
                width / self.width,
                height / self.height,
            ),
            facecolor="none",
        )
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, pad=6, labelcolor=color("soft"))
        axes.tick_params(axis="x", pad=8)
        axes.grid(axis="y", color=color("line"), linewidth=1)
        axes.set_axisbelow(True)
        return axes

    def text(self, x: float, y: float, text: str, *, bold: bool = False) -> None:
        """Write a line that begins at `x` and stands on `y`."""
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            color=color("ink" if bold else "soft"),
            fontweight="bold" if bold else "normal",
        )

    def explain(self, text: str, artists: Iterable[Artist]) -> None:
        """Show `text` while the pointer is over one of the artists."""
        name = f"explained-{len(self._titles)}"
        self._titles[name] = text
        for artist in artists:
            artist.set_gid(name)

    @styled
    def svg(self, words: str = "", *, css_class: str = "") -> str:
        """Write it as an SVG element for a page that defines the colours.

        Args:
            words: what it shows, for readers who cannot see it; empty: a decoration.
            css_class: of the element.
        """
        attributes = {"viewBox": f"0 0 {self.width:g} {self.height:g}"}
        if css_class:
            attributes["class"] = css_class
        if words:
            attributes |= {"role": "img", "aria-label": words}
        else:
            attributes["aria-hidden"] = "true"
        root = ET.Element("svg", attributes)
        for element in self._drawing():
            element.tail = "\n"
            root.append(element)
        return ET.tostring(root, encoding="unicode")

    def svg_file(self, words: str) -> str:
        """Write it as an SVG file, with its own colours and background."""
        self.figure.set_facecolor(color("card"))
        palette = files("deploy.report").joinpath("templates/palette.css")
        style = palette.read_text(encoding="utf-8") + _STANDALONE
        text = self.svg(words).replace(
            "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1
        )
        head, body = text.split(">", 1)
        return f"{head}>\n<style>\n{style}</style>\n{body}\n"

    def _drawing(self) -> list[ET.Element]:
        for artist in self.figure.findobj():
            artist.set_clip_on(False)
        out = io.StringIO()
        self.figure.savefig(out, format="svg")
        root = ET.fromstring(out.getvalue())
        marks = {
            str(path.get("id")): path
            for path in root.iter()
            if path.get("id") and _tag(path) == "path"
        }
        return self._simplified(root, marks)

    def _simplified(
        self, parent: ET.Element, marks: dict[str, ET.Element]
    ) -> list[ET.Element]:
        """Keep paths and texts, and the groups that have a title."""
        out: list[ET.Element] = []
        for child in parent:
            tag = _tag(child)
            title = self._titles.get(child.get("id", ""))
            if tag == "g" and title is not None:
                if not (out and out[-1].findtext("title") == title):
                    out.append(ET.Element("g"))
                    ET.SubElement(out[-1], "title").text = title
                out[-1].extend(self._simplified(child, marks))
            elif tag == "g":
                out += self._simplified(child, marks)
            elif tag == "use":
                out.append(_placed(child, marks))
            elif tag in ("path", "text"):
                out.append(_cleaned(child))
        # An invisible background is a path too.
        return [each for each in out if each.get("style") != "fill: none"]


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _placed(use: ET.Element, marks: dict[str, ET.Element]) -> ET.Element:
    """Draw a marker where it is used, in the place of a reference to it."""
    name = next(value for key, value in use.items() if key.endswith("href"))
    path = marks[name.removeprefix("#")]
    placed = ET.Element("path")
    placed.set("transform", f"translate({use.get('x', '0')} {use.get('y', '0')})")
    placed.set("d", path.get("d", ""))
    styles = dict(_declarations(path)) | dict(_declarations(use))
    placed.set("style", "; ".join(f"{key}: {value}" for key, value in styles.items()))
    return _cleaned(placed)


def _declarations(element: ET.Element) -> Iterable[tuple[str, str]]:
    for part in element.get("style", "").split("; "):
        key, found, value = part.partition(": ")
        if found:
            yield key, value


def _cleaned(element: ET.Element) -> ET.Element:
    """Round numbers, name colours, and leave the font to the page."""
    kept = ET.Element(_tag(element))
    kept.text = element.text if kept.tag == "text" else None
    for key, value in element.items():
        if key == "style":
            value = re.sub(r"font-family: [^;]*;? ?", "", value)
            value = re.sub(
                r"#f0f0([0-9a-f]{2})",
                lambda found: f"var(--{COLORS[int(found[1], 16)]})",
                value,
            )
        elif key in ("x", "y", "d", "transform"):
            value = re.sub(r"-?\d+\.\d+", _rounded, " ".join(value.split()))
        if key in ("style", "x", "y", "d", "transform") and "(-0 " not in value:
            kept.set(key, value)
    return kept


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")
