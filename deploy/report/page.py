"""report.html: one self-contained page about a run, from its result.json.

No script, no font, no picture from elsewhere: it opens anywhere and offline, in
the reader's light or dark scheme, on a phone or a desk. It shows nothing that is
not in result.json, and what was not measured is left out. The sections are in
`deploy/report/page_findings.py` and `deploy/report/page_costs.py`, the drawing in
`deploy/report/charts.py`, the look in `deploy/report/page.css`.
"""

from importlib.resources import files
from pathlib import Path

from common.durable import write_atomic
from deploy.report import page_costs, page_findings
from deploy.report.charts import escape
from deploy.report.result import RunResult, read_result

REPORT_NAME = "report.html"


def write_report(run_dir: Path) -> RunResult:
    """Render `run_dir`/report.html from its result.json; return that result.

    Raises:
        StorageError: there is no result, it is damaged, or the page cannot be
            written.
    """
    result = read_result(run_dir)
    folder = run_dir if run_dir.is_dir() else run_dir.parent
    write_atomic(folder / REPORT_NAME, render(result).encode())
    return result


def render(result: RunResult) -> str:
    """Render the whole page as HTML."""
    style = files("deploy.report").joinpath("page.css").read_text(encoding="utf-8")
    body = "".join(
        part(result)
        for part in (
            page_findings.header,
            page_findings.scoreboard,
            page_findings.learning,
            page_costs.roster,
            page_costs.release_and_memory,
            page_costs.time_and_method,
            page_costs.fine_print,
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>takt {escape(result.run_id)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
