"""A state folder that may be read and not written: one line, and nothing changed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from edge_site import edge_site

from common.errors import StorageError
from edge.config import save_edge_config

# Root may write everywhere unless it lost that right.
LIMITED = () if os.getuid() else ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


MENDING = """
import sys
from pathlib import Path
from tuf.api.metadata import TargetFile
from common.errors import StorageError
from edge.releases.cache import Cache
folder = Path(sys.argv[1])
target = TargetFile.from_data("main/1/manifest.json", b"signed", ["sha256"])
(folder / (target.hashes["sha256"] + sys.argv[2])).write_bytes(b"rotten")
folder.chmod(0o500)
try:
    Cache(folder, None).get(target)
except StorageError as e:
    print(e)
"""
unwritable = pytest.mark.skipif(
    not os.getuid() and shutil.which("setpriv") is None,
    reason="root may write everywhere, and there is no setpriv",
)


@unwritable
@pytest.mark.parametrize("suffix", ["", ".part"])
def test_a_damaged_file_that_may_not_be_removed_is_one_line(
    tmp_path: Path, suffix: str
) -> None:
    done = subprocess.run(
        [*LIMITED, sys.executable, "-c", MENDING, str(tmp_path), suffix],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    tmp_path.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cannot write {tmp_path}/")
    assert "Permission denied" in done.stdout


@unwritable
def test_a_state_folder_that_may_not_be_written_is_one_line(tmp_path: Path) -> None:
    with edge_site(tmp_path) as site:
        config = site.join("sensor")
        path = tmp_path / "edge.toml"
        save_edge_config(config, path)
    folders = (
        config.state_dir,
        *(p for p in config.state_dir.rglob("*") if p.is_dir()),
    )
    before = sorted(config.state_dir.rglob("*"))
    for folder in folders:
        folder.chmod(0o500)
    try:
        argv = ("-m", "deploy.cli.main", "edge", "once", "--config", str(path))
        done = subprocess.run(
            [*LIMITED, sys.executable, *argv],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert done.returncode == StorageError.exit_code, done.stderr
    assert str(config.state_dir) in done.stderr.splitlines()[-1]
    assert "Permission denied" in done.stderr or "not writable" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(config.state_dir.rglob("*")) == before
