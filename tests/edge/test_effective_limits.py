"""What a process may really use, read from cgroups as containers mount them."""

from pathlib import Path

from edge.limits.effective import group_limits


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
