"""`takt compare`: methods against each other at equal node CPU-seconds.

Trains every student of a grid for the same CPU-seconds by every method, measures it
with AutoAttack, and writes rows and plots. A row that is in the file already is not
made again. Not here: the plan (grid.py), a training (training.py) and its evaluation
(worker.py), tables and plots.
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError
from common.text import counted
from deploy.compare.entry import SHIPPED, Entry
from deploy.compare.grid import chosen, load_grid, make_plan, with_best_tries
from deploy.compare.live_gateway import LIVE_PREFIX
from deploy.compare.messages import GroupJob, RowJob
from deploy.compare.pool import RowPool
from deploy.compare.rows import Row, RowFile, sole_writer
from deploy.compare.tables import print_summary
from deploy.compare.trained import TrainedStudents
from deploy.report.wording import percent
from deploy.runtime.progress import Display, OnProgress, Step
from deploy.runtime.settings import refuse_data_dir

_POLL_S = 0.5  # between two readings of the workers' progress


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
    display: Display,
    teacher: Path | None = None,
) -> None:
    """Make the rows of a grid that are not there yet, and the plots of all.

    Args:
        grid: a shipped grid's name or a path.
        out: the file of rows; plots go beside it.
        work: keeps teachers and their knowledge for the next compare.
        data_dir: where the data sets lie; None: embedded or takt's usual place.
        choice: which part of the grid.
        num_workers: processes at a time, one thread each.
        display: shows what is done, and takes the summary.
        teacher: a cloud's storage folder with the finished teacher of the grid's
            config; None: each config's is trained here.

    Raises:
        TaktError: a name is unknown, data is missing, a file cannot be written, or
            a worker died; the rows that are done stay.
    """
    if out.suffix != ".json":
        raise ConfigError(f"--out {out}: expected a file name that ends in .json")
    overrides = {} if data_dir is None else {"dataset.data_dir": str(data_dir)}
    wanted_grid = load_grid(grid)
    plan = chosen(
        make_plan(wanted_grid, overrides),
        datasets=choice.datasets,
        students=choice.students,
        methods=choice.methods,
    )
    plan = with_best_tries(plan, wanted_grid)
    if plan and all(entry.config.dataset.is_embedded for entry in plan):
        refuse_data_dir(plan[0].config.dataset)
    with sole_writer(out.parent, work):
        file = RowFile(out)
        missing = [entry for entry in plan if not file.has(entry.digest)]
        for left in work.glob(f"*/{LIVE_PREFIX}*"):  # of a compare that was stopped
            shutil.rmtree(left, ignore_errors=True)
        trained = TrainedStudents(work / "trained")
        begun = {e.start.digest for e in missing if e.start is not None}
        for row in file.rows:  # a kill may have come in between
            if row.identity not in begun:
                trained.drop(row.identity)
        num_done = len(plan) - len(missing)
        display.print(f"{counted(len(plan), 'row')}, {num_done} there already")
        if missing:
            with display:
                _make_rows(missing, file, work, trained, num_workers, display, teacher)
        from deploy.compare.plots import write_plots  # and with it matplotlib

        plots = write_plots(file.rows, out)
    wanted = {entry.digest for entry in plan}
    console = display.console
    print_summary([row for row in file.rows if row.identity in wanted], console)
    for path in (out, *plots):
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)


def _make_rows(
    entries: Sequence[Entry],
    file: RowFile,
    work: Path,
    trained: TrainedStudents,
    num_workers: int,
    display: Display,
    teacher: Path | None,
) -> None:
    """Make rows, one teacher after the other."""
    by_config: dict[str, list[Entry]] = {}
    for entry in entries:
        by_config.setdefault(entry.config.model_dump_json(), []).append(entry)
    if teacher is not None and len(by_config) > 1:
        names = ", ".join(own[0].config.channel for own in by_config.values())
        raise ConfigError(
            f"--teacher {teacher}: the rows are of several configs ({names}), each of "
            "which has its own teacher; choose one with --dataset"
        )
    num_made = 0
    begun = {e.start.digest for e in entries if e.start is not None}
    with display.step("all rows") as total:
        total.update(0.0, detail=f"0 of {len(entries)}")
        for own in by_config.values():
            with display.step(f"{own[0].config.channel}: stage 1") as on_progress:
                groups = prepare_groups(
                    own, work, trained.folder, on_progress, teacher=teacher
                )
            with RowPool(num_workers=num_workers, log=work / "workers.log") as pool:
                jobs: dict[Future[Row], Entry] = {}
                for group, group_job in groups:
                    jobs |= zip(pool.submit(group_job), group, strict=True)
                for entry, row in _as_they_come(jobs, pool, display):
                    file.add(row)
                    if entry.digest not in begun:
                        trained.drop(entry.digest)
                    num_made += 1
                    done = f"{num_made} of {len(entries)}"
                    total.update(num_made / len(entries), detail=done)
                    display.print(_line(entry, row))
        for digest in begun:  # a compare that is stopped goes on from them
            trained.drop(digest)


def prepare_groups(
    entries: Sequence[Entry],
    work: Path,
    trained: Path,
    on_progress: OnProgress,
    *,
    teacher: Path | None = None,
) -> list[tuple[list[Entry], GroupJob]]:
    """Do stage 1 for rows of one config, and make a job of what is compared.

    Args:
        entries: of the plan.
        work: takes teacher and knowledge.
        trained: keeps students until they are measured.
        on_progress: called with the step and the share of it that is done.
        teacher: a storage folder that has it; None: train it.
    """
    # And with it torch.
    from deploy.compare.teacher import prepare_shipping, prepare_stage

    config = entries[0].config
    release = shipping = prepare_stage(config, work, on_progress, teacher=teacher)
    shipped = [entry for entry in entries if entry.method == SHIPPED]
    shipped += [entry.start for entry in entries if entry.start is not None]
    if shipped:
        recipes = [entry.recipe for entry in shipped]
        shipping = prepare_shipping(config, recipes, release, work, on_progress)
    found: dict[str, list[Entry]] = {}
    for entry in entries:  # those of a group are interleaved
        found.setdefault(entry.group, []).append(entry)
    return [
        (
            group,
            GroupJob(
                jobs=tuple(_job(entry, release, shipping) for entry in group),
                trained=trained,
            ),
        )
        for group in found.values()
    ]


def _as_they_come(
    jobs: dict[Future[Row], Entry], pool: RowPool, display: Display
) -> Iterator[tuple[Entry, Row]]:
    """Yield finished rows; meanwhile show how far the others are."""
    waiting, shown = set(jobs), dict[str, Step]()
    names = {entry.digest: entry.group for entry in jobs.values()}
    while waiting:
        done, waiting = wait(waiting, _POLL_S, FIRST_COMPLETED)
        for future in done:
            yield jobs[future], future.result()
        updates = pool.updates()
        for digest in [old for old in shown if old not in updates]:
            shown.pop(digest).end()
        for digest, now in updates.items():
            if digest not in shown:
                shown[digest] = display.step(names[digest])
            shown[digest].update(now.share, stage=now.step)


def _job(entry: Entry, release: Path, shipping: Path) -> RowJob:
    start = entry.start
    return RowJob(
        release_dir=shipping if entry.method == SHIPPED else release,
        config=entry.config,
        student=entry.student,
        method=entry.method,
        recipe=entry.recipe,
        temperature=entry.temperature,
        seed=entry.seed,
        cpu_budget_s=entry.cpu_budget_s,
        budget=entry.budget,
        tuned=entry.tuned,
        num_images=entry.num_images,
        digest=entry.digest,
        start=None if start is None else _job(start, release, shipping),
    )


def _line(entry: Entry, row: Row) -> str:
    flags = f"; flags: {', '.join(row.flags)}" if row.flags else ""
    return (
        f"{entry}: robust {percent(row.robust_accuracy)} %, clean "
        f"{percent(row.clean_accuracy)} %, {row.epochs} epochs in {row.cpu_s:.2f} "
        f"CPU-s{flags}"
    )
