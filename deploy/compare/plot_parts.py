"""What the plots of `takt compare` share: their colours, and the marks of a series.

A file needs no other: colours for light and dark lie inside it.
"""

from collections.abc import Sequence

from deploy.report.charts import MARKS, NUM_HUES, escape, hue

_STYLE = """
text{font:12px system-ui,"DejaVu Sans",sans-serif;fill:#1b1f24}
.title{font-weight:600}.grid{stroke:#e1e3e6}.paper{fill:#fff}
.zero{stroke:#8a9099}.curve{stroke:var(--c);stroke-width:2;fill:none}
.s0{--c:#2458c5}.s1{--c:#b3470f}.s2{--c:#0d7268}.s3{--c:#7a3db8}.s4{--c:#a1275f}
.s5{--c:#5c6b00}.mark{fill:var(--c)}.bar{stroke:var(--c);stroke-width:2}
@media(prefers-color-scheme:dark){text{fill:#eceef0}.grid{stroke:#2c3035}
.paper{fill:#181b1e}.s0{--c:#86aefc}.s1{--c:#ffa066}.s2{--c:#5fd4c4}
.s3{--c:#cba4f7}.s4{--c:#f79ac0}.s5{--c:#c8d666}}
"""


def picture(words: str, width: float, height: float, inside: Sequence[str]) -> str:
    """Write an SVG file; `words` say what it shows to who cannot see it."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'role="img" aria-label="{escape(words)}">',
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" width="{width}" height="{height}"/>',
            *inside,
            "</svg>",
            "",
        ]
    )


def legend(names: Sequence[str], left: float) -> list[str]:
    """Explain the series by their marks, in one line."""
    out = []
    for i, name in enumerate(names):
        out.append(
            f'<g class="{hue(i)}">{mark(i, left, 18)}'
            f'<text x="{left + 11:.0f}" y="22">{escape(name)}</text></g>'
        )
        left += 28 + 7 * len(name)  # about as wide as it is drawn
    return out


def mark(index: int, x: float, y: float) -> str:
    """Draw the mark of the series number `index`."""
    shape = MARKS[(index + index // NUM_HUES) % len(MARKS)]
    return f'<path class="mark" d="M{x:.1f} {y:.1f}{shape}"/>'
