"""Each test shows one property of the executors on this machine, or says why it cannot.

    python -m pytest tests/edge/test_limits.py -ra

As root this machine's cgroups are tried too; an ordinary user tries what is
there, which always includes the watchdog.
"""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import WAIT_S, until

from common.config import ProfileConfig
from common.effective_limits import effective_limits
from common.errors import CapError
from edge.limits import (
    METHODS,
    MINIMUM_MIB,
    MethodReport,
    child_environment,
    open_executor,
    probe_methods,
    procfs,
)
from edge.limits.executor import Executor
from edge.limits.watchdog import CpuPacer

ROOT = Path(__file__).parents[2]
OWN_CAPS = [method for method in METHODS if method != "inherited"]
SMALL = ProfileConfig(cpus=0.25, memory_mib=100, bandwidth_kib_s=1)
# Spins in C without the GIL, so that two threads use two cores.
SPIN = """
import hashlib, threading, sys
for _ in range(int(sys.argv[1])):
    spin = ("md5", b"", b"", 1 << 30)
    threading.Thread(target=hashlib.pbkdf2_hmac, args=spin).start()
"""
# Touches 300 MB, 1 MB at a time (bytes(n) would only reserve it), and keeps it.
GREEDY = """
import time
kept = [b'1' * 10**6 for _ in range(300)]
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def reports() -> dict[str, MethodReport]:
    return {report.method: report for report in probe_methods(SMALL)}


@pytest.fixture(params=OWN_CAPS)
def method(request: pytest.FixtureRequest, reports: dict[str, MethodReport]) -> str:
    report = reports[request.param]
    if not report.works:
        pytest.skip(f"{report.method} does not work here: {report.reason}")
    return report.method


@pytest.fixture
def executor(method: str) -> Iterator[Executor]:
    with open_executor(SMALL, name="test", method=method, minimum_mib=1) as executor:
        yield executor


def python(code: str, *args: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", textwrap.dedent(code), *args]


# --- memory


def test_an_allocation_beyond_the_cap_is_stopped(executor: Executor) -> None:
    child = executor.spawn(python(GREEDY))
    assert child.wait(timeout=WAIT_S) == -signal.SIGKILL
    assert executor.usage().oom_killed


# Stays until it is told to go, as its first argument says.
STAY = """
def stay(told):
    while not os.path.exists(told):
        time.sleep(0.05)
"""


def test_an_allocation_within_the_cap_goes_through(
    executor: Executor, tmp_path: Path
) -> None:
    code = f"import os, sys, time\n{STAY}\nkept = b'1' * (60 << 20)\nstay(sys.argv[1])"
    child = executor.spawn(python(code, str(tmp_path / "go")))
    until("a sample", lambda: executor.usage().peak_memory_mib >= 60)
    (tmp_path / "go").touch()
    assert child.wait(timeout=WAIT_S) == 0
    usage = executor.usage()
    assert not usage.oom_killed
    assert 60 <= usage.peak_memory_mib < 80


def test_the_memory_of_the_whole_tree_counts(executor: Executor) -> None:
    # Two processes of 70 MiB each: none is over the cap of 100, together they are.
    code = """
    import os, time
    os.fork()
    kept = b'1' * (70 << 20)
    time.sleep(3600)
    """
    child = executor.spawn(python(code))
    assert child.wait(timeout=WAIT_S) == -signal.SIGKILL  # the root too, and its child
    assert executor.usage().oom_killed


def test_memory_shared_after_a_fork_counts_once(
    executor: Executor, tmp_path: Path
) -> None:
    code = f"""
import os, sys, time
{STAY}
kept = b'1' * (60 << 20)
stay(sys.argv[1] + "/fork")
child = os.fork()
if child:
    more = b'1' * (10 << 20)
stay(sys.argv[1] + "/go")
if child:
    os.waitpid(child, 0)
"""
    child = executor.spawn(python(code, str(tmp_path)))
    until("a sample", lambda: executor.usage().memory_mib >= 60)
    alone_mib = executor.usage().memory_mib
    (tmp_path / "fork").touch()
    until("one of both", lambda: executor.usage().memory_mib >= alone_mib + 9)
    (tmp_path / "go").touch()
    assert child.wait(timeout=WAIT_S) == 0
    assert executor.usage().peak_memory_mib < alone_mib + 40  # twice: 70 more


def test_two_processes_of_equal_size_both_count_once_they_are_too_old_for_vfork(
    tmp_path: Path,
) -> None:
    code = """
    import os, time
    os.fork()
    kept = b'1' * (70 << 20)
    open('ready-' + str(os.getpid()), 'w').close()
    time.sleep(3600)
    """
    with subprocess.Popen(python(code), cwd=tmp_path) as parent:
        try:
            until("both", lambda: len(list(tmp_path.glob("ready-*"))) == 2)
            members = procfs.tree(parent.pid)
            equal = dict.fromkeys(members, procfs.Memory(80.0, 90.0))
            young = procfs.total_anonymous_mib(equal, age_s=lambda pid: 0.5)
            old = procfs.total_anonymous_mib(equal, age_s=lambda pid: 1.5)
            assert 70 < young < 90 and 140 < old < 160
        finally:
            for pid in procfs.tree(parent.pid):
                os.kill(pid, signal.SIGKILL)


def test_a_process_that_ends_while_it_is_sampled_no_longer_counts() -> None:
    own = procfs.memory(os.getpid())
    assert own is not None
    with subprocess.Popen(["true"]) as ended:
        until("its end", lambda: not procfs.is_alive(ended.pid))
        # As it was read a moment before, with all that it shared after a fork.
        sample = {os.getpid(): own, ended.pid: procfs.Memory(5000.0, 5000.0)}
        assert procfs.total_anonymous_mib(sample) < 5000


def test_one_huge_allocation_under_the_watchdog_fails_at_once() -> None:
    # Catchable: the child can say so, instead of being killed.
    code = """
    try:
        bytes(2 << 30)
    except MemoryError:
        raise SystemExit(4)
    """
    with open_executor(SMALL, name="test", method="soft", minimum_mib=1) as executor:
        assert executor.spawn(python(code)).wait(timeout=WAIT_S) == 4
        assert not executor.usage().oom_killed


def test_an_executor_works_again_after_its_child_ran_out_of_memory(
    executor: Executor,
) -> None:
    executor.spawn(python(GREEDY)).wait(timeout=WAIT_S)
    assert executor.spawn(["true"]).wait(timeout=WAIT_S) == 0
    assert not executor.usage().oom_killed


def test_a_cap_below_the_cost_of_importing_torch_is_refused() -> None:
    with pytest.raises(CapError, match=f"at least {MINIMUM_MIB} MiB"):
        open_executor(SMALL, name="test")


# --- CPU


# How exactly a share is held, and what holding it costs: tests/bench/caps.py.


def test_the_kernel_holds_a_quarter_of_a_core_where_the_cap_is_hard(
    executor: Executor, tmp_path: Path
) -> None:
    code = (
        "import sys; from common.effective_limits import group_limits\n"
        "open(sys.argv[1], 'w').write(str(group_limits().cpus))"
    )
    told = tmp_path / "cpus"
    child = executor.spawn([sys.executable, "-c", code, str(told)], cwd=ROOT)
    assert child.wait(timeout=WAIT_S) == 0
    if executor.hard:
        assert float(told.read_text()) == pytest.approx(0.25, rel=0.001)
    else:
        assert executor.caps.cpus == 0.25  # what the pacer below is given


@given(
    cpus=st.floats(0.05, 2.0),
    cores=st.sampled_from([1.0, 2.0, 4.0]),
    lateness=st.lists(st.floats(0.0, 0.05), min_size=1, max_size=20),
)
def test_the_pacer_keeps_the_share_however_late_it_wakes(
    cpus: float, cores: float, lateness: list[float]
) -> None:
    pacer, now, used, wakes = CpuPacer(cpus), 0.0, 0.0, 0
    while now < 60:
        delay = pacer.step(now, used) + lateness[wakes % len(lateness)]
        used += cores * delay if pacer.running else 0.0
        now += delay
        wakes += 1
    # What one late wake can add, over a minute; too little only by lateness.
    assert used <= min(cpus, cores) * now + cores * 0.2
    assert used >= min(cpus, cores) * now * 0.98 - 0.2 or max(lateness) > 0.02


def test_idle_time_is_not_saved_up() -> None:
    pacer = CpuPacer(0.25)
    pacer.step(0.0, 0.0)
    pacer.step(100.0, 0.0)  # nothing used for 100 s
    pacer.step(100.2, 0.2)  # then 0.2 s at full speed
    assert not pacer.running


def test_cpu_time_of_finished_children_counts(
    executor: Executor, tmp_path: Path
) -> None:
    code = """
    import os, sys, time
    if os.fork() == 0:
        while time.process_time() < 0.3:
            pass
        os._exit(0)
    os.wait()
    open(sys.argv[1], "w").write(str(sum(os.times()[:4])))
    """
    told = tmp_path / "cpu_s"
    before = executor.usage().cpu_s
    child = executor.spawn(python(code, str(told)))
    assert child.wait(timeout=WAIT_S) == 0
    used, own = executor.usage().cpu_s - before, float(told.read_text())
    assert own >= 0.3
    assert own - 0.05 <= used < 1.5 * own  # in steps of 10 ms; the rest: its end


def test_threads_are_the_quota_rounded_up_within_affinity() -> None:
    affinity = len(os.sched_getaffinity(0))
    small = child_environment(SMALL)
    assert small["OMP_NUM_THREADS"] == small["MKL_NUM_THREADS"] == "1"
    huge = ProfileConfig(cpus=1000, memory_mib=100, bandwidth_kib_s=1)
    assert 1 <= int(child_environment(huge)["OMP_NUM_THREADS"]) <= affinity


# --- life and death

# A daemon of its own: opens an executor, starts a child with a child of its own.
DAEMON = """
import sys, time
from common.config import ProfileConfig
from edge.limits import open_executor
profile = ProfileConfig(cpus=0.25, memory_mib=100, bandwidth_kib_s=1)
executor = open_executor(profile, name="doomed", method=sys.argv[1], minimum_mib=1)
child = executor.spawn([sys.executable, "-c", "while True: pass"])
print(child.pid, executor.name, flush=True)
time.sleep(3600)
"""


def kill_a_daemon(method: str) -> tuple[int, str]:
    """Start a daemon with a busy child, SIGKILL it; return the child and executor."""
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, method],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert daemon.stdout is not None
    with daemon.stdout:
        child, name = daemon.stdout.readline().split()
    daemon.kill()
    daemon.wait()
    return int(child), name


def test_a_child_dies_with_its_killed_daemon(method: str) -> None:
    child, _ = kill_a_daemon(method)
    until("its end", lambda: not procfs.is_alive(child))


def test_what_a_killed_daemon_left_goes_when_the_next_executor_opens(
    method: str,
) -> None:
    _, name = kill_a_daemon(method)
    open_executor(SMALL, name="next", method=method, minimum_mib=1).close()
    # Not Path.glob: other tests remove groups of theirs while it walks.
    groups = (Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup"))
    left = [group for group in groups if group.name.startswith(name)]
    until("their end", lambda: not procfs.marked(name))
    assert left == []


def test_a_child_outlives_the_thread_that_started_it(executor: Executor) -> None:
    thread = threading.Thread(target=executor.spawn, args=(["sleep", "3600"],))
    thread.start()
    own = Path(f"/proc/self/task/{thread.native_id}")
    thread.join()
    until("the kernel's end of the thread", lambda: not own.exists())
    assert len(members_of(executor)) == 1


def test_kill_reaches_a_grandchild_in_a_session_of_its_own(executor: Executor) -> None:
    code = """
    import os, time
    if os.fork() == 0:
        os.setsid()
    time.sleep(3600)
    """
    executor.spawn(python(code))
    until("its child", lambda: len(members_of(executor)) == 2)
    executor.kill()
    assert members_of(executor) == []


def test_what_a_finished_child_leaves_behind_is_killed(executor: Executor) -> None:
    code = """
    import os, time
    if os.fork() == 0:
        os.setsid()
        time.sleep(3600)
    """
    assert executor.spawn(python(code)).wait(timeout=WAIT_S) == 0
    until("their end", lambda: members_of(executor) == [])


def test_nothing_stays_stopped_when_a_watchdog_closes() -> None:
    tiny = ProfileConfig(cpus=0.02, memory_mib=100, bandwidth_kib_s=1)
    executor = open_executor(tiny, name="test", method="soft", minimum_mib=1)
    child = executor.spawn(python(SPIN, "2"))
    process = psutil.Process(child.pid)
    until("its stop", lambda: process.status() == psutil.STATUS_STOPPED)
    executor.close()
    assert members_of(executor) == []


def members_of(executor: Executor) -> list[int]:
    """List the live processes of an executor by their mark."""
    return [pid for pid in procfs.marked(executor.name) if procfs.is_alive(pid)]


def test_a_program_that_does_not_exist_is_a_cap_error(executor: Executor) -> None:
    with pytest.raises(CapError, match="no-such-program"):
        executor.spawn(["/no-such-program"])


def test_the_daemon_does_not_import_torch_for_its_executors() -> None:
    code = "import edge.limits, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# --- what there is


def test_a_profile_beyond_the_machine_gets_the_machine_and_a_note() -> None:
    huge = ProfileConfig(cpus=1000, memory_mib=10**8, bandwidth_kib_s=1)
    limits = effective_limits()
    with open_executor(huge, name="test", method="soft") as executor:
        assert executor.caps.cpus == limits.cpus
        assert executor.caps.memory_mib == pytest.approx(limits.memory_mib)
        assert len(executor.notes) == 2


def test_the_watchdog_works_everywhere(reports: dict[str, MethodReport]) -> None:
    assert list(reports) == list(METHODS)
    assert reports["soft"].works
    assert not reports["soft"].hard
    assert all(report.works or report.reason for report in reports.values())
