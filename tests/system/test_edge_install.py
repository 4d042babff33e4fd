"""A node from nothing: the edge commands of the pages in a copy of the source.

Installs the base dependencies over the network (gigabytes, where uv's cache is
cold), so it is slow and is skipped offline.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from edge_site import edge_site

from edge.config import save_edge_config
from edge.state import read_status

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ("takt", "pyproject.toml", "constraints.txt", "README.md")
OFFLINE = re.compile(
    "dns error|failed to lookup address|name resolution|Network is unreachable", re.I
)


def copy_source(home: Path) -> None:
    home.mkdir()
    for name in SOURCE:
        shutil.copy(ROOT / name, home / name)
    for package in ("cloud", "common", "deploy", "edge"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, home / package, ignore=ignored)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_node_that_was_installed_without_ray_enrols_and_distils(
    tmp_path: Path,
) -> None:
    home = tmp_path / "a node"
    copy_source(home)

    def takt(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [home / "takt", "edge", *arguments, "--config", home / "edge.toml"],
            env={**os.environ, "TAKT_EXTRAS": "", "OMP_NUM_THREADS": "1"},
            cwd="/",
            capture_output=True,
            text=True,
        )

    with edge_site(tmp_path / "project") as site:
        site.publish_digits()
        config = site.node_config("porch", state_dir=home / "state")
        save_edge_config(config, home / "edge.toml")

        enrolled = takt("enroll", "--token", site.allow("porch"))
        log = home / ".venv" / "takt-install.log"
        if enrolled.returncode and log.exists() and OFFLINE.search(log.read_text()):
            pytest.skip("offline: the base dependencies cannot be installed")
        assert enrolled.returncode == 0, enrolled.stderr

        distilled = takt("once")
        assert distilled.returncode == 0, distilled.stderr

    assert read_status(config.state_dir).version == 1
    assert list((config.state_dir / "students").rglob("*.safetensors"))
    assert not list((home / ".venv").rglob("site-packages/ray"))
