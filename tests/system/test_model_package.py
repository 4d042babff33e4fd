"""A package with a model of one's own: installed by pip beside takt, and distilled.

takt and its dependencies are those of this interpreter; the package lies in a virtual
environment of its own, as only a node that has installed it would find it.
"""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from edge_site import edge_site, recipe
from model_packages import EXAMPLE, EXAMPLE_MODEL, installed, write_example
from waiting import WAIT_S

from common.config import TuningConfig
from common.models.files import load_model
from edge.config import save_edge_config
from edge.state import read_status

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = re.compile("no matching distribution|connection|resolution", re.I)


def make_environment(folder: Path) -> Path:
    """Make a virtual environment that sees takt and its dependencies."""
    venv.create(folder, with_pip=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    seen = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "takt.pth").write_text("\n".join([str(ROOT), *seen, ""]))
    return folder / "bin" / "python"


def install(python: Path, package: Path) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "install", "--no-deps", package],
        capture_output=True,
        text=True,
    )
    if done.returncode and OFFLINE.search(done.stderr):
        pytest.skip("offline: what builds the package cannot be had")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_node_refuses_a_package_that_it_lacks_and_distils_once_it_is_installed(
    tmp_path: Path,
) -> None:
    python = make_environment(tmp_path / "environment")
    source = tmp_path / "my-models"
    shutil.copytree(EXAMPLE, source)

    def takt(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-P", "-m", "deploy.cli.main", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )

    (tmp_path / "site").mkdir()
    with (
        edge_site(tmp_path / "project") as site,
        installed(write_example(tmp_path / "site")),
    ):
        own = recipe(model=EXAMPLE_MODEL, tuning=TuningConfig(learning_rate=1.0))
        site.publish_transfer(students={"tiny": own}, num_images=400)
        config = site.join("porch")
        file = tmp_path / "edge.toml"
        save_edge_config(config, file)

        refused = takt("edge", "once", "--config", file)
        assert refused.returncode == 2
        (line,) = [line for line in refused.stderr.splitlines() if "takt:" in line]
        assert "of package 'takt-example-models', which is not installed here" in line

        install(python, source)
        shown = takt("models", "show", EXAMPLE_MODEL)
        assert shown.returncode == 0, shown.stderr
        distilled = takt("edge", "once", "--config", file)
        assert distilled.returncode == 0, distilled.stderr

        assert read_status(config.state_dir).version == 1
        (student,) = (config.state_dir / "students").rglob("*.safetensors")
        assert load_model(student)[1].architecture == EXAMPLE_MODEL
