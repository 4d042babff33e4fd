"""What the daemon tells a service manager, over a real socket.

The manager is a datagram socket of the test; the daemon is a process of its own
against a real gateway.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from edge_site import EdgeSite, edge_site, node_environment
from waiting import WAIT_S

from common.config import ProfileConfig
from common.errors import ConfigError
from edge.config import EdgeConfig, save_edge_config
from edge.daemon.sd_notify import Notifier

PERIOD_S = 24.0  # of the watchdog; a keep-alive is due every quarter of it


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, address: str | Path) -> None:
        """Listen at a path, or at the abstract "@name"."""
        self.address = str(address)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address.replace("@", "\0"))
        self.heard: list[str] = []

    def listen(self, timeout_s: float) -> str | None:
        """Wait for one message; None when none came."""
        self.socket.settimeout(timeout_s)
        try:
            self.heard.append(self.socket.recv(4096).decode())
        except TimeoutError:
            return None
        return self.heard[-1]

    def hear(self, message: str) -> None:
        """Wait until a message comes, noting all others."""
        end = time.monotonic() + WAIT_S
        while self.listen(max(end - time.monotonic(), 0.01)) != message:
            assert time.monotonic() < end, (message, self.heard)

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with closing(Manager(tmp_path / "notify")) as manager:
        yield manager


@pytest.fixture
def notifier(manager: Manager) -> Iterator[Notifier]:
    with closing(Notifier(environment(manager))) as notifier:
        yield notifier


def environment(manager: Manager, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.address, **more}


def test_ready_status_and_stopping_arrive_word_for_word(
    manager: Manager, notifier: Notifier
) -> None:
    notifier.ready()
    notifier.status("idle,\nrelease 3")
    notifier.stopping()
    heard = [manager.listen(1) for _ in range(3)]
    assert heard == ["READY=1", "STATUS=idle, release 3", "STOPPING=1"]


def test_a_status_and_the_stop_are_said_once(
    manager: Manager, notifier: Notifier
) -> None:
    for _ in range(2):
        notifier.status("idle")
        notifier.stopping()
    assert [manager.listen(0.05) for _ in range(3)] == [
        "STATUS=idle",
        "STOPPING=1",
        None,
    ]


def test_an_abstract_socket_is_reached() -> None:
    with closing(Manager(f"@takt-test-{os.getpid()}")) as manager:
        with closing(Notifier(environment(manager))) as notifier:
            notifier.ready()
        assert manager.listen(1) == "READY=1"


def test_keep_alives_are_sent_a_few_times_a_period(
    manager: Manager,
) -> None:
    now = 0.0
    watched = environment(manager, WATCHDOG_USEC="40000000")
    with closing(Notifier(watched, clock=lambda: now)) as notifier:
        for second in range(41):
            now = float(second)
            notifier.keep_alive()
    keep_alives = 0
    while manager.listen(0.05) == "WATCHDOG=1":
        keep_alives += 1
    assert keep_alives == 5


@pytest.mark.parametrize(
    "more", [{}, {"WATCHDOG_USEC": "40000000", "WATCHDOG_PID": "1"}]
)
def test_without_a_watchdog_of_its_own_no_keep_alive_is_sent(
    manager: Manager, more: dict[str, str]
) -> None:
    with closing(Notifier(environment(manager, **more))) as notifier:
        notifier.keep_alive()
    assert manager.listen(0.05) is None


def test_the_variables_are_kept_from_children(manager: Manager) -> None:
    variables = environment(
        manager, WATCHDOG_USEC="40000000", WATCHDOG_PID=str(os.getpid()), HOME="/"
    )
    Notifier(variables).close()
    assert variables == {"HOME": "/"}


def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "/nonexistent/notify"})
    notifier.ready()
    notifier.status("idle")
    notifier.stopping()


def test_a_manager_that_does_not_read_stops_no_work(notifier: Notifier) -> None:
    for number in range(10_000):  # more than any queue takes
        notifier.status(str(number))


def test_a_watchdog_without_a_period_is_refused(manager: Manager) -> None:
    with pytest.raises(ConfigError, match="WatchdogSec"):
        Notifier(environment(manager, WATCHDOG_USEC="0"))


def test_a_watchdog_that_would_end_a_slow_pull_is_refused(
    tmp_path: Path,
) -> None:
    slow = ProfileConfig(cpus=1, memory_mib=500, bandwidth_kib_s=1)  # 64 s a message
    config = EdgeConfig(
        node="porch", student="tiny", gateway="g:1", state_dir=tmp_path, profile=slow
    )
    with pytest.raises(ConfigError, match=r"110 s is too short.*114 s"):
        Notifier({"WATCHDOG_USEC": "110000000"}).check_watchdog(config)
    Notifier({"WATCHDOG_USEC": "120000000"}).check_watchdog(config)


@contextmanager
def service(
    config: EdgeConfig, manager: Manager
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a daemon as its unit does, watched by `manager`."""
    path = config.state_dir / "edge.toml"
    save_edge_config(config, path)
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli.main", "edge", "run", "--config", str(path)],
        stderr=subprocess.DEVNULL,
        env={
            **node_environment(config.state_dir / "absent"),
            "NOTIFY_SOCKET": manager.address,
            "WATCHDOG_USEC": str(int(PERIOD_S * 1e6)),
        },
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    with edge_site(tmp_path_factory.mktemp("site")) as site:
        yield site


def test_a_service_is_ready_reports_its_status_keeps_alive_while_idle_and_stops(
    site: EdgeSite, manager: Manager
) -> None:
    config = site.join("porch", stall_s=1.0, channel="empty")
    with service(config, manager) as process:
        manager.hear("READY=1")
        manager.hear("STATUS=idle: waiting for the channel's first release")
        manager.hear("WATCHDOG=1")
        manager.hear("WATCHDOG=1")
        own_mib = psutil.Process(process.pid).memory_full_info().uss / 2**20
        process.terminate()
        manager.hear("STOPPING=1")
        assert process.wait(timeout=WAIT_S) == 0
    assert own_mib < 100


def test_a_loop_that_hangs_is_not_kept_alive_by_its_threads(
    site: EdgeSite, manager: Manager
) -> None:
    config = site.join("shed", stall_s=1.0, channel="empty")
    with service(config, manager) as process:
        manager.hear("READY=1")
        # A report that never ends: the loop hangs when it reads the outbox next.
        os.mkfifo(config.state_dir / "outbox" / "report.json")
        end = time.monotonic() + WAIT_S
        while manager.listen(PERIOD_S / 4 + 2) is not None:
            assert time.monotonic() < end, "it is kept alive"
        assert process.poll() is None
        assert psutil.Process(process.pid).num_threads() > 2
