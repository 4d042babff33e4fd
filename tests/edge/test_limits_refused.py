"""What opening a cap does where this process may not make control groups."""

import errno
from collections.abc import Callable
from pathlib import PosixPath

import pytest

from common.config import ProfileConfig
from common.errors import CapError
from edge.limits import METHODS, open_executor
from edge.limits.backend import Backend, Caps, cannot
from edge.limits.cgroup import remove_group
from edge.limits.watchdog import Watchdog

SMALL = ProfileConfig(cpus=0.25, memory_mib=100, bandwidth_kib_s=1)


class RefusingFolder(PosixPath):
    """A group's folder that cannot be removed, for one reason and so many times."""

    error: int
    times: int
    tries = 0

    def rmdir(self) -> None:
        self.tries += 1
        if self.tries <= self.times:
            raise OSError(self.error, "refused")


def refusing(error: int, times: int) -> RefusingFolder:
    folder = RefusingFolder("/nonexistent/takt.node.1.0")
    folder.error, folder.times = error, times
    return folder


@pytest.mark.parametrize(
    "error", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTEMPTY]
)
def test_a_group_that_may_not_be_removed_is_not_waited_for(error: int) -> None:
    folder = refusing(error, times=1000)
    remove_group(folder)
    assert folder.tries == 1


def test_a_busy_group_is_waited_for() -> None:
    folder = refusing(errno.EBUSY, times=2)
    remove_group(folder)
    assert folder.tries == 3


def failing(tried: list[float], error: int) -> Callable[[str, Caps], Backend]:
    """Make a method that fails with one error and notes the caps it was asked for."""

    def method(name: str, caps: Caps) -> Backend:
        tried.append(caps.cpus)
        raise cannot("make a group", OSError(error, "refused"))

    return method


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_method_that_this_process_may_not_use_is_tried_once(
    monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    tried: list[float] = []
    method = f"refused-{error}"
    monkeypatch.setitem(METHODS, method, failing(tried, error))
    for _ in range(3):
        with pytest.raises(CapError, match=f"{method}: cannot make a group: .*refused"):
            open_executor(SMALL, name="test", method=method, minimum_mib=1)
    assert tried == [0.25]


@pytest.mark.parametrize("error", [errno.EBUSY, errno.ENOMEM, errno.ENOSPC])
def test_a_method_that_failed_for_the_moment_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    tried: list[float] = []
    method = f"failed-{error}"
    monkeypatch.setitem(METHODS, method, failing(tried, error))
    for _ in range(2):
        with pytest.raises(CapError):
            open_executor(SMALL, name="test", method=method, minimum_mib=1)
    assert tried == [0.25, 0.25]


def test_a_method_that_refused_some_caps_is_taken_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def picky(name: str, caps: Caps) -> Backend:
        if caps.cpus > 0.1:
            raise CapError("the group above holds less")
        return Watchdog(caps)

    monkeypatch.setitem(METHODS, "picky", picky)
    with pytest.raises(CapError, match="the group above"):
        open_executor(SMALL, name="test", method="picky", minimum_mib=1)
    less = SMALL.model_copy(update={"cpus": 0.1})
    open_executor(less, name="test", method="picky", minimum_mib=1).close()
