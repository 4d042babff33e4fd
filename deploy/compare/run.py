"""`takt compare`: methods against each other at equal node CPU-seconds.

Trains every student of a grid for the same CPU-seconds by every method, measures it
with AutoAttack, and writes rows and plots. A row that is in the file already is not
made again. Not here: the parts, which this puts together (the other modules of
deploy.compare).
"""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from common.errors import ConfigError
from deploy.compare.grid import Entry, chosen, load_grid, make_plan
from deploy.compare.pool import RowPool
from deploy.compare.rows import Row, RowFile, sole_writer
from deploy.compare.tables import print_summary
from deploy.compare.trained import TrainedStudents
from deploy.compare.worker import GroupJob, RowJob
from deploy.report.wording import percent
from deploy.runtime.terminal import make_console

_LOOK_S = 0.5  # between two looks at the workers


@dataclass(frozen=True)
class Choice:
    """Which part of a grid; empty means all of it."""

    datasets: Collection[str] = ()
    students: Collection[str] = ()
    methods: Collection[str] = ()


def run_compare(
    grid: str,
    *,
    out: Path,
    work: Path,
    data_dir: Path | None,
    choice: Choice,
    num_workers: int,
) -> None:
    """Make the rows of a grid that are not there yet, and the plots of all.

    Args:
        grid: a shipped grid's name or a path.
        out: the file of rows; plots go beside it.
        work: keeps teachers and their knowledge for the next compare.
        data_dir: where the data sets lie; None: embedded or takt's usual place.
        choice: which part of the grid.
        num_workers: processes at a time, one thread each.

    Raises:
        TaktError: a name is unknown, data is missing, a file cannot be written, or
            a worker died; the rows that are done stay.
    """
    if out.suffix != ".json":
        raise ConfigError(f"--out {out}: expected a file name that ends in .json")
    overrides = {} if data_dir is None else {"dataset.data_dir": str(data_dir)}
    plan = chosen(
        make_plan(load_grid(grid), overrides),
        datasets=choice.datasets,
        students=choice.students,
        methods=choice.methods,
    )
    console = make_console()
    with sole_writer(out.parent, work):
        file = RowFile(out)
        missing = [entry for entry in plan if not file.has(entry.identity)]
        trained = TrainedStudents(work / "trained")
        for row in file.rows:
            trained.drop(row.identity)  # where a kill came between the two
        _say(console, f"{len(plan)} rows, {len(plan) - len(missing)} of them there")
        if missing:
            _make_rows(missing, file, work, trained, num_workers, console)
        from deploy.compare.plots import write_plots  # and with it matplotlib

        plots = write_plots(file.rows, out)
    wanted = {entry.identity for entry in plan}
    print_summary([row for row in file.rows if row.identity in wanted], console)
    for path in (out, *plots):
        _say(console, str(path))


def _make_rows(
    entries: Sequence[Entry],
    file: RowFile,
    work: Path,
    trained: TrainedStudents,
    num_workers: int,
    console: Console,
) -> None:
    """Make rows, those of one teacher together."""
    from deploy.compare.teacher import prepare_stage  # and with it torch

    by_config: dict[str, list[Entry]] = {}
    for entry in entries:
        by_config.setdefault(entry.config.model_dump_json(), []).append(entry)
    with _progress(console) as progress:
        total = progress.add_task("all rows", total=len(entries))
        for own in by_config.values():
            with _told(progress, f"{own[0].config.channel}: stage 1") as tell:
                release = prepare_stage(own[0].config, work, tell)
            with RowPool(num_workers=num_workers, log=work / "workers.log") as pool:
                jobs: dict[Future[Row], Entry] = {}
                for group in _groups(own):
                    jobs_of = tuple(_job(e, release) for e in group)
                    made = GroupJob(jobs=jobs_of, trained=trained.folder)
                    jobs |= zip(pool.submit(made), group, strict=True)
                for entry, row in _as_they_come(jobs, pool, progress):
                    file.add(row)
                    trained.drop(entry.identity)
                    progress.advance(total)
                    _say(progress.console, _line(entry, row))


def _as_they_come(
    jobs: dict[Future[Row], Entry], pool: RowPool, progress: Progress
) -> Iterator[tuple[Entry, Row]]:
    """Yield finished rows; meanwhile show how far the others are."""
    waiting, shown = set(jobs), dict[str, TaskID]()
    names = {e.identity: e.group for e in jobs.values()}
    while waiting:
        done, waiting = wait(waiting, _LOOK_S, FIRST_COMPLETED)
        for future in done:
            yield jobs[future], future.result()
        news = pool.news()
        for identity in [old for old in shown if old not in news]:
            progress.remove_task(shown.pop(identity))
        for identity, now in news.items():
            if identity not in shown:
                shown[identity] = progress.add_task(names[identity], total=1.0)
            text = f"{names[identity]}: {now.step}"
            progress.update(shown[identity], description=text, completed=now.share)


def _groups(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Put together what is compared with each other: these train in turns."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.group, []).append(entry)
    return list(found.values())


def _job(entry: Entry, release: Path) -> RowJob:
    return RowJob(
        release_dir=release,
        dataset=entry.config.dataset,
        student=entry.student,
        recipe=entry.recipe,
        temperature=entry.temperature,
        seed=entry.seed,
        cpu_budget_s=entry.cpu_budget_s,
        num_images=entry.num_images,
        identity=entry.identity,
    )


def _line(entry: Entry, row: Row) -> str:
    flags = f"; flags: {', '.join(row.flags)}" if row.flags else ""
    return (
        f"{entry}: robust {percent(row.robust_accuracy)} %, clean "
        f"{percent(row.clean_accuracy)} %, {row.epochs} epochs in {row.cpu_s:.2f} "
        f"CPU-s{flags}"
    )


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


@contextmanager
def _told(progress: Progress, name: str) -> "Iterator[_Teller]":
    teller = _Teller(progress, name)
    yield teller
    progress.remove_task(teller.task)


class _Teller:
    """Shows the steps of one piece of work: a bar, or a line each."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name, self._step = progress, name, ""
        self.task = progress.add_task(name, total=1.0)

    def __call__(self, step: str, share: float) -> None:
        text = f"{self._name}: {step}"
        self._progress.update(self.task, description=text, completed=share)
        if step != self._step and self._progress.disable:
            _say(self._progress.console, text)
        self._step = step


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
