"""Folders that others planted, or may change, are not used for keys and state."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from waiting import WAIT_S

from common.errors import StorageError
from common.ownership import require_own_folder
from edge.state import StateDir

OTHER_UID = 65534
AS_ANOTHER = """
import os, sys
from pathlib import Path
from common.errors import StorageError
from common.ownership import require_own_folder
os.setuid(int(sys.argv[2]))
try:
    require_own_folder(Path(sys.argv[1]))
except StorageError as e:
    print(e)
"""


def takt(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775])
def test_a_folder_of_ones_own_is_accepted(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    require_own_folder(tmp_path)


def test_a_folder_that_is_not_there_is_accepted(tmp_path: Path) -> None:
    require_own_folder(tmp_path / "none")


def test_a_folder_that_every_user_may_write_to_is_refused_with_the_fix(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StorageError, match=r"mode 777.*`chmod o-w") as caught:
        require_own_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_for_everybodys_files_is_not_itself_one_to_keep_keys_in() -> None:
    with pytest.raises(StorageError, match="every user may write to /var/tmp"):
        require_own_folder(Path("/var/tmp"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give folders away")
def test_a_folder_of_another_user_is_refused_and_both_are_named() -> None:
    # Not below pytest's own folder, which other users cannot pass.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        planted = Path(folder, "takt")
        planted.mkdir()
        os.chown(planted, 12345, -1)
        Path(folder).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER, str(planted), str(OTHER_UID)],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
    said = "belongs to uid 12345, expected user nobody or root"
    assert said in done.stdout, done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give folders away")
def test_root_may_use_a_folder_of_another_user(tmp_path: Path) -> None:
    os.chown(tmp_path, OTHER_UID, -1)
    require_own_folder(tmp_path)


@pytest.mark.parametrize("verb", [("pki", "init"), ("pki", "list"), ("cloud", "serve")])
def test_a_verb_refuses_a_storage_folder_that_others_may_write_to(
    tmp_path: Path, verb: tuple[str, str]
) -> None:
    tmp_path.chmod(0o777)
    config = ("--config", "digits") if verb[0] == "cloud" else ()
    done = takt(*verb, *config, "--storage", str(tmp_path))
    assert done.returncode == 8
    (line,) = done.stderr.splitlines()
    assert f"every user may write to {tmp_path}" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", ["000", "077"])
def test_no_verb_makes_a_folder_that_takt_then_refuses(
    tmp_path: Path, umask: str
) -> None:
    storage = tmp_path / "storage"
    script = f'umask {umask} && exec "$@"'
    verb = ("-m", "deploy.cli.main", "pki", "init", "--storage", str(storage))
    done = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, *verb],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, done.stderr
    for folder in (storage, storage / "pki"):
        require_own_folder(folder)


def test_a_daemon_refuses_a_state_folder_that_others_may_write_to(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StorageError, match="every user"), StateDir(tmp_path).lock():
        pass
    assert list(tmp_path.iterdir()) == []
