"""The frame of a run: its folder before, its result.json and table after.

Whatever happens in between, what was found is written down, and the error that
ends the run is the one that the record names. Not here: what is done in between
(deploy/simulation/simulate.py, deploy/simulation/collect.py).
"""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from common.config import RunConfig
from common.errors import TaktError
from deploy.report.result import Failure, write_result
from deploy.report.table import print_result
from deploy.runtime.exits import interrupt_code, record_bug
from deploy.runtime.terminal import quiet_output
from deploy.simulation.run_folder import RunFolder, create_run
from deploy.simulation.run_state import Findings

Body = Callable[[RunFolder, Findings, Console], None]


def conduct_run(
    config: RunConfig,
    config_text: str,
    body: Body,
    *,
    runs_dir: Path,
    storage: Path | None = None,
) -> int:
    """Do a run in a folder of its own; print the table; leave the folder.

    Args:
        config: of the run.
        config_text: the same as TOML, for the run's folder.
        body: does the run, and puts what it finds into the findings at once.
        runs_dir: where the run's folder is made.
        storage: of a cloud side that runs elsewhere; None: in the run's folder.

    Raises:
        TaktError: a part failed; result.json says the same.
        KeyboardInterrupt: the run was stopped; result.json says so.
    """
    run = create_run(runs_dir, config.channel, config_text, storage=storage)
    findings = Findings(config, run)
    error: BaseException | None = None
    with quiet_output(run.log("simulation")) as console:
        console.print(f"run {run.run_id}: {run.path}", highlight=False, soft_wrap=True)
        try:
            body(run, findings, console)
        except BaseException as e:
            error = e
        code = interrupt_code()
        if code is not None:
            where = f" in phase '{findings.phase}'; what there is stays in {run.path}"
            findings.failure = Failure(code=code, message=f"stopped{where}")
            error = KeyboardInterrupt(where)
        elif error is not None:
            error = (
                error if isinstance(error, TaktError) else record_bug(error, run.logs)
            )
            findings.failure = Failure(code=error.exit_code, message=str(error))
        else:
            error = findings.shortcoming()
        result = findings.result()
        write_result(result, run.path)
        from deploy.report.page import write_report  # and with it matplotlib

        write_report(run.path)
        if code is None:
            print_result(result, console, run.path)
    if error is not None:
        raise error
    return 0
