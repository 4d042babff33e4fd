"""Every table of results on the pages of the clone, from the committed rows, by mark.

`python -m deploy.dev.docs` puts them where a page has their marks, and writes the plots
of benches. Not here: how a table is laid out (the modules *_table.py, and
deploy/compare/tables.py), plots of comparisons (deploy/compare/plots.py).
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ablation_table
import adaad_table
import export_table
import fair_table
import gap_plot
import gateway_table
import label_tries_table
import own_gains_table
import own_images_table
import pgd_speed_table
import precision_table
import soak_plot
import soak_table
import views_table
from rows import Row, read_rows

from deploy.compare import tables as compare_tables
from deploy.compare.rows import Row as CompareRow
from deploy.compare.rows import read_rows as read_compare_rows

RESULTS = Path(__file__).parent / "results"


def _of_compare(markdown: Callable[[Sequence[CompareRow]], str], name: str) -> str:
    return markdown(read_compare_rows(RESULTS / name))


def _of_bench(markdown: Callable[[list[Row]], str], name: str) -> str:
    return markdown(read_rows(RESULTS / name))


TABLES: dict[str, Callable[[], str]] = {
    "summary": partial(_of_compare, fair_table.summary, "compare.json"),
    "fair": partial(_of_compare, fair_table.markdown, "compare.json"),
    "fair-mnist": partial(
        _of_compare, partial(fair_table.by_method, dataset="mnist"), "compare.json"
    ),
    "cifar10-few": partial(
        _of_compare, partial(fair_table.by_method, dataset="cifar10"), "compare.json"
    ),
    "compare": partial(_of_compare, compare_tables.markdown, "compare.json"),
    "own-images": partial(_of_bench, own_images_table.markdown, "own_images.json"),
    "own-gains": partial(_of_bench, own_gains_table.markdown, "own_images.json"),
    "label-tries": partial(_of_bench, label_tries_table.markdown, "label_tries.json"),
    "adaad": partial(_of_compare, adaad_table.markdown, "compare-live.json"),
    "ablation": partial(_of_bench, ablation_table.markdown, "ablation.json"),
    "gateway": partial(_of_bench, gateway_table.markdown, "gateway.json"),
    "export": partial(_of_bench, export_table.markdown, "export.json"),
    "soak": partial(_of_bench, soak_table.markdown, "soak.json"),
    "pgd-speed": partial(_of_bench, pgd_speed_table.markdown, "pgd_speed.json"),
    "views": partial(_of_bench, views_table.markdown, "views.json"),
    "precision": partial(_of_bench, precision_table.markdown, "precision.json"),
}
PLOTS: dict[str, Callable[[], str]] = {
    "gap.svg": partial(_of_bench, gap_plot.plot, "gap.json"),
    "soak.svg": partial(_of_bench, soak_plot.plot, "soak.json"),
}
