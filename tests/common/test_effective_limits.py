"""What a process may really use, read from cgroups as containers mount them."""

import os
from pathlib import Path

import pytest

from common.effective_limits import (
    GroupLimits,
    effective_limits,
    group_limits,
    process_limit,
    usable_cores,
)

NONE = GroupLimits(cpus=None, memory_mib=None, slowed_mib=None)
UNLIMITED = {"memory.max": "max", "memory.high": "max", "cpu.max": "max 100000"}


class Host:
    """A /proc of one's own, and the cgroup v2 groups that it leads to."""

    def __init__(self, folder: Path, own: str) -> None:
        """Put this process into the group `own`, a path below the root."""
        self.proc = folder / "proc"
        self.top = folder / "cgroup"
        (self.top / own).mkdir(parents=True)
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "meminfo").write_text("MemTotal:  8388608 kB\n")
        mount = f"30 1 0:26 / {self.top} rw - cgroup2 cgroup2 rw\n"
        (self.proc / "self" / "mountinfo").write_text(mount)
        (self.proc / "self" / "cgroup").write_text(f"0::/{own}\n")

    def limit(self, group: str, **limits: str) -> None:
        """Set a group's limits; what is not named is unlimited."""
        set_here = {name.replace("_", "."): text for name, text in limits.items()}
        for name, text in (UNLIMITED | set_here).items():
            (self.top / group / name).write_text(text + "\n")


def test_the_smallest_v2_limit_above_this_process_counts(tmp_path: Path) -> None:
    host = Host(tmp_path, "machine/node")
    host.limit("machine/node", cpu_max="150000 100000")
    host.limit("machine", memory_max=str(512 << 20))
    found = group_limits(proc=host.proc / "self")
    assert found == GroupLimits(cpus=1.5, memory_mib=512, slowed_mib=None)


def test_a_slice_without_a_cpu_controller_has_the_quota_of_the_one_above(
    tmp_path: Path,
) -> None:
    # A user's session where only memory and pids are delegated.
    own = "user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope"
    host = Host(tmp_path, own)
    host.limit("user.slice/user-1000.slice", cpu_max="50000 100000")
    assert group_limits(proc=host.proc / "self").cpus == 0.5
    assert usable_cores(proc=host.proc) == 1


@pytest.mark.parametrize("group", ["app.slice", "app.slice/node.service"])
def test_memory_beyond_which_the_kernel_stalls_is_not_counted_on(
    tmp_path: Path, group: str
) -> None:
    host = Host(tmp_path, "app.slice/node.service")
    host.limit(group, memory_high=str(400 << 20), memory_max=str(2 << 30))
    found = effective_limits(proc=host.proc)
    assert (found.memory_mib, found.memory_by) == (
        400,
        "its control group's memory.high",
    )
    # It kills nothing: it holds no cap by itself.
    assert group_limits(proc=host.proc / "self").memory_mib == 2048


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
    found = group_limits(proc=proc)
    assert found == GroupLimits(cpus=0.25, memory_mib=400, slowed_mib=None)


@pytest.mark.parametrize("quota", ["10000 100000", "100000 100000"])
def test_a_quota_of_up_to_one_core_leaves_one(tmp_path: Path, quota: str) -> None:
    host = Host(tmp_path, "node")
    host.limit("node", cpu_max=quota)
    assert usable_cores(proc=host.proc) == 1


def test_the_cores_are_those_of_the_affinity_where_no_quota_is_less(
    tmp_path: Path,
) -> None:
    host = Host(tmp_path, "node")
    affinity = len(os.sched_getaffinity(0))
    assert usable_cores(proc=host.proc) == affinity
    host.limit("node", cpu_max=f"{(affinity + 1) * 100000} 100000")
    assert usable_cores(proc=host.proc) == affinity


def test_a_process_that_sees_nothing_of_the_machine_has_its_cores_and_memory(
    tmp_path: Path,
) -> None:
    # As in a sandbox, or a service with ProcSubset=pid.
    assert group_limits(proc=tmp_path / "self") == NONE
    found = effective_limits(proc=tmp_path)
    assert found.cpus == len(os.sched_getaffinity(0))
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.memory_mib == pytest.approx(pages / 2**20)


def test_the_least_limit_on_processes_above_this_one_counts(tmp_path: Path) -> None:
    host = Host(tmp_path, "pod/container")
    host.limit("pod/container", pids_max="max")
    host.limit("pod", pids_max="100")
    found = process_limit(proc=host.proc / "self")
    assert found == (100, "pids.max of its control group")
