"""The blocks that the sections of report.html are put together from.

Texts are escaped here; `body` is HTML already. Not here: bars and curves.
"""

from deploy.report.charts import escape


def fact_list(pairs: list[tuple[str, str]]) -> str:
    """List names and values."""
    items = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>"
        for key, value in pairs
    )
    return f'<dl class="facts">{items}</dl>'


def legend(entries: list[tuple[str, str]]) -> str:
    """Explain a chart: (swatch as HTML, its meaning) pairs."""
    items = "".join(f"<span>{swatch}{escape(name)}</span>" for swatch, name in entries)
    return f'<p class="legend">{items}</p>'


def card(title: str, note: str, body: str) -> str:
    """Frame a section with its title and, where there is one, a note."""
    noted = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<section class="card"><h2>{escape(title)}</h2>{noted}{body}</section>'


def pair(cards: list[str]) -> str:
    """Set two cards side by side where the page is wide."""
    if len(cards) < 2:
        return "".join(cards)
    return f'<div class="pair">{"".join(cards)}</div>'
