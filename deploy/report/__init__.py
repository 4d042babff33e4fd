"""What a run found and nodes report: result.json, report.html, tables for terminals.

`result` holds the record (`RunResult`, `read_result`, `write_result`) and `builder`
makes one from a run; `details` are the files beside it, of single classes and images,
which it names. `page` (`write_report`), `table` (`print_result`) and `wording` show
nothing that is not in them. The page is laid out by `templates/`; its rows of bars are
made in `bars`, its curves in `charts`, its images and classes in `pictured` and
`by_class`, and `svg` turns figures of matplotlib into SVG in the reader's colours, for
the plots of deploy.compare as well. `events` writes its curves for TensorBoard.
`fleet` shows nodes that no run started, from their gateway's database; it and `table`
share `columns`.

`page`, `pictured`, `charts` and `svg` load matplotlib and jinja2: import them where a
page is written, not at the top of a module that does other things.

Not here: measuring (deploy.evaluation), the run itself (deploy.simulation).
"""

import logging

# Its notes on font caches and folders would end up among the user's output, from the
# moment on at which it is imported.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
