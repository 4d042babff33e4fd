"""Each test shows one property of the cages on this machine, or says why it cannot.

    python -m pytest tests/edge/test_limits.py -ra

As root this machine's cgroups are tried too; an ordinary user tries what is
there, which always includes the soft cap.
"""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from common.config import ProfileConfig
from common.errors import CapError
from edge.limits import (
    METHODS,
    MINIMUM_MIB,
    MethodReport,
    child_environment,
    effective_limits,
    open_cage,
    probe_methods,
)
from edge.limits import procfs as processes
from edge.limits.executor import Cage
from edge.limits.machine import group_limits
from edge.limits.watchdog import CpuPacer

ROOT = Path(__file__).parents[2]
OWN_CAPS = [method for method in METHODS if method != "inherited"]
SMALL = ProfileConfig(cpus=0.25, memory_mib=100, bandwidth_kib_s=1)
SPIN_S = 4.0
# Spins in C without the GIL, so that two threads use two cores.
SPIN = """
import hashlib, threading, sys
for _ in range(int(sys.argv[1])):
    spin = ("md5", b"", b"", 1 << 30)
    threading.Thread(target=hashlib.pbkdf2_hmac, args=spin).start()
"""
# Touches 300 MB, 1 MB at a time (bytes(n) would only reserve it).
GREEDY = "kept = [b'1' * 10**6 for _ in range(300)]"


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
def cage(method: str) -> Iterator[Cage]:
    with open_cage(SMALL, name="test", method=method, minimum_mib=1) as cage:
        yield cage


def python(code: str, *args: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", textwrap.dedent(code), *args]


# --- memory


def test_an_allocation_beyond_the_cap_is_stopped(cage: Cage) -> None:
    child = cage.spawn(python(GREEDY))
    assert child.wait(timeout=60) == -signal.SIGKILL
    assert cage.usage().oom_killed


def test_an_allocation_within_the_cap_goes_through(cage: Cage) -> None:
    code = "import time; kept = b'1' * (60 << 20); time.sleep(0.3)"
    assert cage.spawn(python(code)).wait(timeout=60) == 0
    usage = cage.usage()
    assert not usage.oom_killed
    assert 60 <= usage.peak_memory_mib < 80


def test_the_memory_of_the_whole_tree_counts(cage: Cage) -> None:
    # Two processes of 70 MiB each: none is over the cap of 100, together they are.
    code = """
    import os, time
    os.fork()
    kept = b'1' * (70 << 20)
    time.sleep(20)
    """
    child = cage.spawn(python(code))
    assert child.wait(timeout=20) == -signal.SIGKILL  # the root too, with its child
    assert cage.usage().oom_killed


def test_memory_shared_after_a_fork_counts_once(cage: Cage) -> None:
    code = """
    import os, time
    kept = b'1' * (60 << 20)
    child = os.fork()
    time.sleep(1)
    if child:
        os.waitpid(child, 0)
    """
    assert cage.spawn(python(code)).wait(timeout=30) == 0
    assert cage.usage().peak_memory_mib < 90


def test_two_processes_of_equal_size_both_count_once_they_are_too_old_for_vfork(
    tmp_path: Path,
) -> None:
    code = """
    import os, time
    os.fork()
    kept = b'1' * (70 << 20)
    open('ready-' + str(os.getpid()), 'w').close()
    time.sleep(60)
    """
    with subprocess.Popen(python(code), cwd=tmp_path) as parent:
        try:
            until("both", lambda: len(list(tmp_path.glob("ready-*"))) == 2)
            members = processes.tree(parent.pid)
            equal = dict.fromkeys(members, processes.Memory(80.0, 90.0))
            if max(map(processes.age_s, members)) < 0.9:
                assert 70 < processes.total_anonymous_mib(equal) < 90
            until("its pages", lambda: 140 < processes.total_anonymous_mib(equal) < 160)
        finally:
            for pid in processes.tree(parent.pid):
                os.kill(pid, signal.SIGKILL)


def test_one_huge_allocation_under_the_soft_cap_fails_at_once() -> None:
    # Catchable: the child can say so, instead of being killed.
    code = """
    try:
        bytes(2 << 30)
    except MemoryError:
        raise SystemExit(4)
    """
    with open_cage(SMALL, name="test", method="soft", minimum_mib=1) as cage:
        assert cage.spawn(python(code)).wait(timeout=30) == 4
        assert not cage.usage().oom_killed


def test_a_cage_works_again_after_its_child_ran_out_of_memory(cage: Cage) -> None:
    cage.spawn(python(GREEDY)).wait(timeout=60)
    assert cage.spawn(["true"]).wait(timeout=30) == 0
    assert not cage.usage().oom_killed


def test_a_cap_below_the_cost_of_importing_torch_is_refused() -> None:
    with pytest.raises(CapError, match=f"need {MINIMUM_MIB} MiB"):
        open_cage(SMALL, name="test")


# --- CPU


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_quarter_of_a_core_is_a_quarter_of_a_core(
    cage: Cage, num_threads: int
) -> None:
    child = cage.spawn(python(SPIN, str(num_threads)))
    time.sleep(0.3)  # the start is not spinning
    share = measured_share(child.pid)
    assert share < 0.25 * 1.15
    if share < 0.25 * 0.85 and os.getloadavg()[0] > 2 * len(os.sched_getaffinity(0)):
        pytest.skip(f"this busy machine gave {share:.3f} of a core (at most 0.25 held)")
    assert share > 0.25 * 0.85


def measured_share(pid: int) -> float:
    """Measure the cores that a process uses over a few seconds."""
    watched = psutil.Process(pid)
    started, before = time.monotonic(), watched.cpu_times()
    time.sleep(SPIN_S)
    after, elapsed = watched.cpu_times(), time.monotonic() - started
    return (after.user + after.system - before.user - before.system) / elapsed


def test_the_soft_cap_itself_costs_under_2_percent_of_a_core() -> None:
    with open_cage(SMALL, name="test", method="soft", minimum_mib=1) as cage:
        cage.spawn(python(SPIN, "2"))
        started, before = time.monotonic(), time.process_time()
        time.sleep(3)
        own = (time.process_time() - before) / (time.monotonic() - started)
    assert own < 0.02


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


def test_cpu_time_of_finished_children_counts(cage: Cage) -> None:
    code = """
    import os, time
    if os.fork() == 0:
        while time.process_time() < 0.3:
            pass
        os._exit(0)
    os.wait()
    """
    before = cage.usage().cpu_s
    assert cage.spawn(python(code)).wait(timeout=30) == 0
    assert 0.3 <= cage.usage().cpu_s - before < 0.8  # the rest: two starts of Python


def test_threads_are_the_quota_rounded_up_within_affinity() -> None:
    affinity = len(os.sched_getaffinity(0))
    small = child_environment(SMALL)
    assert small["OMP_NUM_THREADS"] == small["MKL_NUM_THREADS"] == "1"
    huge = ProfileConfig(cpus=1000, memory_mib=100, bandwidth_kib_s=1)
    assert 1 <= int(child_environment(huge)["OMP_NUM_THREADS"]) <= affinity


# --- life and death

# A daemon of its own: opens a cage, starts a child with a child of its own.
DAEMON = """
import sys, time
from common.config import ProfileConfig
from edge.limits import open_cage
profile = ProfileConfig(cpus=0.25, memory_mib=100, bandwidth_kib_s=1)
cage = open_cage(profile, name="doomed", method=sys.argv[1], minimum_mib=1)
child = cage.spawn([sys.executable, "-c", "while True: pass"])
print(child.pid, cage.name, flush=True)
time.sleep(60)
"""


def kill_a_daemon(method: str) -> tuple[int, str]:
    """Start a daemon with a busy child, SIGKILL it; return the child and cage."""
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
    until("its end", lambda: not processes.is_alive(child))


def test_what_a_killed_daemon_left_goes_when_the_next_cage_opens(method: str) -> None:
    _, name = kill_a_daemon(method)
    open_cage(SMALL, name="next", method=method, minimum_mib=1).close()
    left = list(Path("/sys/fs/cgroup").glob(f"**/{name}*"))
    until("their end", lambda: not processes.marked(name))
    assert left == []


def test_a_child_outlives_the_thread_that_started_it(cage: Cage) -> None:
    thread = threading.Thread(target=cage.spawn, args=(["sleep", "20"],))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert len(cage_members(cage)) == 1


def test_kill_reaches_a_grandchild_in_a_session_of_its_own(cage: Cage) -> None:
    code = """
    import os, time
    if os.fork() == 0:
        os.setsid()
    time.sleep(60)
    """
    cage.spawn(python(code))
    until("its child", lambda: len(cage_members(cage)) == 2)
    cage.kill()
    assert cage_members(cage) == []


def test_what_a_finished_child_leaves_behind_is_killed(cage: Cage) -> None:
    code = """
    import os, time
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
    """
    assert cage.spawn(python(code)).wait(timeout=30) == 0
    until("their end", lambda: cage_members(cage) == [])


def test_nothing_stays_stopped_when_a_soft_cage_closes() -> None:
    tiny = ProfileConfig(cpus=0.02, memory_mib=100, bandwidth_kib_s=1)
    cage = open_cage(tiny, name="test", method="soft", minimum_mib=1)
    child = cage.spawn(python(SPIN, "2"))
    until("its stop", lambda: processes.is_stopped(child.pid))
    cage.close()
    assert cage_members(cage) == []


def cage_members(cage: Cage) -> list[int]:
    """List the live processes of a cage by their mark."""
    return [pid for pid in processes.marked(cage.name) if processes.is_alive(pid)]


def test_a_program_that_does_not_exist_is_a_cap_error(cage: Cage) -> None:
    with pytest.raises(CapError, match="no-such-program"):
        cage.spawn(["/no-such-program"])


def test_the_daemon_does_not_import_torch_for_its_cages() -> None:
    code = "import edge.limits, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# --- what there is


def test_a_profile_beyond_the_machine_gets_the_machine_and_a_note() -> None:
    huge = ProfileConfig(cpus=1000, memory_mib=10**8, bandwidth_kib_s=1)
    limits = effective_limits()
    with open_cage(huge, name="test", method="soft") as cage:
        assert cage.caps.cpus == limits.cpus
        assert cage.caps.memory_mib == pytest.approx(limits.memory_mib)
        assert len(cage.notes) == 2


def test_the_smallest_v2_limit_above_this_process_counts(tmp_path: Path) -> None:
    top = tmp_path / "cgroup"
    own = top / "machine" / "node"
    own.mkdir(parents=True)
    proc = tmp_path / "self"
    proc.mkdir()
    (proc / "mountinfo").write_text(f"30 1 0:26 / {top} rw - cgroup2 cgroup2 rw\n")
    (proc / "cgroup").write_text("0::/machine/node\n")
    (own / "memory.max").write_text("max\n")
    (own / "cpu.max").write_text("150000 100000\n")
    (own.parent / "memory.max").write_text(f"{512 << 20}\n")
    (own.parent / "cpu.max").write_text("max 100000\n")
    assert group_limits(proc=proc) == (512, 1.5)


def test_v1_limits_of_a_container_are_found_at_its_mount(tmp_path: Path) -> None:
    # In a container the own path is the host's, and only its own part is mounted.
    memory, cpu = tmp_path / "memory", tmp_path / "cpu,cpuacct"
    memory.mkdir()
    cpu.mkdir()
    proc = tmp_path / "self"
    proc.mkdir()
    (proc / "mountinfo").write_text(
        f"31 1 0:27 /docker/abc {memory} ro - cgroup cgroup rw,memory\n"
        f"32 1 0:28 /docker/abc {cpu} ro - cgroup cgroup rw,cpu,cpuacct\n"
    )
    (proc / "cgroup").write_text("4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n")
    (memory / "memory.limit_in_bytes").write_text(f"{400 << 20}\n")
    (cpu / "cpu.cfs_quota_us").write_text("25000\n")
    (cpu / "cpu.cfs_period_us").write_text("100000\n")
    assert group_limits(proc=proc) == (400, 0.25)


def test_the_soft_cap_works_everywhere(reports: dict[str, MethodReport]) -> None:
    assert list(reports) == list(METHODS)
    assert reports["soft"].works
    assert not reports["soft"].hard
    assert all(report.works or report.reason for report in reports.values())
