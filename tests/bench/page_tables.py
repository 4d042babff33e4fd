"""Every table of results on the pages of the clone, from the committed rows, by mark.

`python -m deploy.dev.docs` puts them where a page has their marks. Not here: how a
table is laid out (the modules *_table.py, and deploy/compare/tables.py).
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ablation_table
import adaad_table
import export_table
import few_images_table
import margins_table
import own_images_table
import precision_table
import summary_table
from rows import Row, read_rows

from deploy.compare import tables as compare_tables
from deploy.compare.rows import Row as CompareRow
from deploy.compare.rows import read_rows as read_compare_rows

RESULTS = Path(__file__).parent / "results"


def _of_compare(markdown: Callable[[Sequence[CompareRow]], str], *names: str) -> str:
    return markdown(
        [row for name in names for row in read_compare_rows(RESULTS / name)]
    )


def _of_bench(markdown: Callable[[list[Row]], str], name: str) -> str:
    return markdown(read_rows(RESULTS / name))


TABLES: dict[str, Callable[[], str]] = {
    "summary": partial(
        _of_compare, summary_table.markdown, "compare.json", "compare-few.json"
    ),
    "margins": partial(_of_compare, margins_table.markdown, "compare.json"),
    "compare": partial(_of_compare, compare_tables.markdown, "compare.json"),
    "plain": partial(_of_compare, compare_tables.markdown, "compare-plain.json"),
    "few-margins": partial(_of_compare, margins_table.markdown, "compare-few.json"),
    "few": partial(_of_compare, compare_tables.markdown, "compare-few.json"),
    "few-images": partial(_of_bench, few_images_table.markdown, "few-images.json"),
    "own-images": partial(_of_bench, own_images_table.markdown, "own_images.json"),
    "adaad": partial(_of_compare, adaad_table.markdown, "compare-live.json"),
    "ablation": partial(_of_bench, ablation_table.markdown, "ablation.json"),
    "export": partial(_of_bench, export_table.markdown, "export.json"),
    "precision": partial(_of_bench, precision_table.markdown, "precision.json"),
}
