"""A small grid, its config, and the folder that compare works in."""

import os
import subprocess
import sys
from pathlib import Path

from waiting import WAIT_S

from common.faults import VARIABLE
from deploy.compare.grid import load_grid, make_plan
from deploy.compare.messages import GroupJob
from deploy.compare.run import Choice, prepare_groups, run_compare
from deploy.runtime.progress import Display
from deploy.runtime.terminal import make_console

RUN = """
channel = "small"
[dataset]
name = "digits"
limit = 400
[threat]
eps = 0.02
[teacher]
model = "cnn_tiny"
epochs = 2
batch_size = 32
attack = { steps = 1, step_size = 0.02 }
[knowledge]
attack = { steps = 2, step_size = 0.01 }
[students.tiny]
model = "cnn_tiny"
epochs = 10
eps_warmup_epochs = 2
attack = { steps = 1, step_size = 0.02 }
[evaluation]
node_attack = { steps = 2, step_size = 0.01 }
"""
BUDGET_S = 1.0


def grid_text(config: Path, methods: str, seeds: str = "[0]") -> str:
    tables = "\n".join(f"[methods.{line}]" for line in methods.split())
    return (
        f"{tables}\n[methods.pgd_at]\nsteps = 10\n[[datasets]]\n"
        f'config = "{config}"\nnum_images = 8\nseeds = {seeds}\n'
        f"cpu_budget_s = {{ tiny = {BUDGET_S} }}\n"
        "learning_rate = { pgd_at = { tiny = 0.2 } }\n"
    )


class Site:
    """A grid, its config and where compare works."""

    def __init__(self, folder: Path) -> None:  # noqa: D107
        self.folder, self.work = folder, folder / "work"
        self.grid, self.out = folder / "grid.toml", folder / "out" / "rows.json"
        self.config = folder / "small.toml"
        self.config.write_text(RUN)
        self.grid.write_text(grid_text(self.config, "takt"))

    def compare(
        self,
        out: Path | None = None,
        choice: Choice | None = None,
        teacher: Path | None = None,
    ) -> None:
        run_compare(
            str(self.grid),
            out=out or self.out,
            work=self.work,
            data_dir=None,
            choice=choice or Choice(),
            num_workers=2,
            display=Display(make_console()),
            teacher=teacher,
        )

    def group(
        self, methods: str, folder: Path, own: str = "", **overrides: object
    ) -> GroupJob:
        """Make the job of the grid's one group; the last method is pgd_at.

        `own` are lines of the last of `methods`.
        """
        text = grid_text(self.config, methods)
        self.grid.write_text(
            text.replace("[methods.pgd_at]", f"{own}\n[methods.pgd_at]")
        )
        keys = {key.replace("__", "."): value for key, value in overrides.items()}
        plan = make_plan(load_grid(str(self.grid)), keys)
        ((_, job),) = prepare_groups(
            plan, self.work, folder / "trained", lambda step, share: None
        )
        return job

    def process(self, fault: str = "") -> int:
        """Compare in a process of its own: its exit code."""
        argv = ["-m", "deploy.cli.main", "compare", "--grid", str(self.grid)]
        argv += ["--out", str(self.out), "--work", str(self.work), "--workers", "1"]
        env = {**os.environ, VARIABLE: fault}
        return subprocess.run(
            [sys.executable, *argv], env=env, timeout=WAIT_S
        ).returncode
