"""Files that are whole, folders and locks, and what is said when a disk refuses."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from waiting import WAIT_S

from common.durable import (
    locked,
    make_folder,
    require_place,
    storing,
    write_atomic,
)
from common.errors import StorageError

HOLD = """
import sys, time
from pathlib import Path
from common.durable import locked
with locked(Path(sys.argv[1]), busy=str):
    print("held", flush=True)
    time.sleep(3600)
"""


FORK = """
import os, sys
from pathlib import Path
from common.durable import locked
reading, writing = os.pipe()
with locked(Path(sys.argv[1]), busy=str):
    if not (child := os.fork()):
        os.close(writing)
        os.read(reading, 1)  # until the parent has tried
        os._exit(0)
with locked(Path(sys.argv[1]), busy=str):
    print("free", flush=True)
os.close(writing)
os.waitpid(child, 0)
"""


WRITE = """
import sys
from pathlib import Path
from common.durable import write_atomic
write_atomic(Path(sys.argv[1]), b"new" * 1000, point="test")
"""


class Holder:
    """Another process that holds a lock."""

    def __init__(self, path: Path) -> None:
        """Start it and wait until it holds the lock."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def busy(pid: str) -> str:
    return f"held by {pid}"


def try_to_lock(path: Path) -> None:
    with locked(path, busy=busy):
        pass


def test_a_file_is_replaced_with_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    write_atomic(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("moment", ["half_written", "before_rename"])
def test_a_kill_inside_the_write_leaves_the_old_file_whole(
    tmp_path: Path, moment: str
) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"old")
    died = subprocess.run(
        [sys.executable, "-c", WRITE, str(path)],
        env={**os.environ, "TAKT_FAULT": f"test.{moment}:kill"},
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_file_that_cannot_be_written_is_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*/none/x: .*; make its f"):
        write_atomic(tmp_path / "none" / "x", b"")


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    made = make_folder(tmp_path / "a" / "b", mode=0o700)
    assert made.is_dir()
    assert made.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    assert make_folder(tmp_path, mode=0o700).stat().st_mode & 0o777 == 0o750


def test_a_folder_that_cannot_be_made_is_named_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot make folder .*/file/x: .*; a f"):
        make_folder(tmp_path / "file" / "x")


def test_an_error_of_the_disk_is_worded_in_one_way(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"cannot write .*: No such file"),
        storing(tmp_path),
    ):
        (tmp_path / "none").read_bytes()


def test_a_lock_keeps_another_process_out(tmp_path: Path) -> None:
    holder = Holder(tmp_path / "lock")
    try:
        with pytest.raises(StorageError, match=f"held by {holder.process.pid}"):
            try_to_lock(tmp_path / "lock")
    finally:
        holder.kill()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    Holder(tmp_path / "lock").kill()
    try_to_lock(tmp_path / "lock")


def test_without_words_for_a_busy_lock_it_is_waited_for(tmp_path: Path) -> None:
    holder = Holder(tmp_path / "lock")
    freed = threading.Event()

    def wait_for_it() -> None:
        with locked(tmp_path / "lock"):
            assert freed.is_set()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_for_it)
        freed.set()
        holder.kill()
        waiting.result(timeout=WAIT_S)


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    inside: list[int] = []

    def hold() -> None:
        for _ in range(20):
            with locked(tmp_path / "lock"):
                inside.append(1)
                time.sleep(0.001)  # the others' chance to come in as well
                assert len(inside) == 1
                inside.pop()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(hold) for _ in range(4)]:
            done.result(timeout=WAIT_S)


def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", FORK, str(tmp_path / "lock")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("free\n", "")


@pytest.mark.parametrize("before", [None, 0o644])
def test_other_users_cannot_open_a_lock_file(
    tmp_path: Path, before: int | None
) -> None:
    path = tmp_path / "lock"
    if before is not None:
        path.touch(before)
    with locked(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_lock_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot lock .*/none/lock: .*; fix"):
        try_to_lock(tmp_path / "none" / "lock")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder", "Is a directory; a folder has that name; give the name of a file"),
        ("file/x", "Not a directory; a file stands where a folder is expected"),
        ("file/x/y", "Not a directory; a file stands where a folder is expected"),
    ],
)
def test_a_place_where_no_file_can_be_is_refused_before_and_at_the_writing(
    tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for write in (require_place, lambda path: write_atomic(path, b"x")):
        with pytest.raises(StorageError) as caught:
            write(tmp_path / name)
        assert str(caught.value).startswith(f"cannot write {tmp_path / name}: {words}")
    require_place(tmp_path / "new" / "deep" / "x")
    assert not (tmp_path / "new").exists()
