"""`takt doctor`: can this machine run takt, and if not, what to do.

Each check is a function for one subject that returns one finding: a level, what was
found and, unless it is ok, what to do. `fail` means that a run cannot work, `warn`
that it will be slower, less strict or not possible for every data set. It takes a few
seconds, changes nothing, starts no Ray, needs no network and does not import torch into
this process. Not here: caps (edge.limits), which are only asked about.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography import x509

from cloud.gateway.addresses import check_ports as refuse_ports
from cloud.gateway.addresses import wanted
from common.address import join
from common.config import (
    DatasetConfig,
    GatewayConfig,
    NodeConfig,
    OwnImagesConfig,
    ProfileConfig,
    RunConfig,
)
from common.data.folder_counts import count_folder
from common.data.sources import default_data_dir, open_sources
from common.effective_limits import (
    address_space_mib,
    effective_limits,
    process_limit,
)
from common.errors import AddressError, CapError, DataError
from common.interpreter import python
from common.regular_file import is_folder, is_there
from common.text import counted, printable
from deploy.runtime.surroundings import (
    ADDRESS_SPACE_MIB,
    NUM_PROCESSES,
    before_install,
    require_memory_of_nodes,
)
from edge.limits import MINIMUM_MIB, probe_methods

FAILED = 1  # exit code when a check failed; warnings alone leave it 0
SIMULATION_MIB = 4096  # Ray, two training workers, a gateway and the nodes' caps
DISK_MIB = 1024  # a run takes tens of MiB; Ray's session folder some hundred
SHM_MIB = 256  # Ray's object store; Docker gives 64 unless --shm-size says more
_MIB = 1024 * 1024
# Loads the compiled half of torchvision: what breaks when the pair does not match.
_IMPORT_PAIR = """
import glob, importlib.util, json, os, torch
folder = importlib.util.find_spec("torchvision").submodule_search_locations[0]
for library in glob.glob(os.path.join(folder, "_C*.so")):
    torch.ops.load_library(library)
gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({"cuda": torch.version.cuda, "gpus": gpus}))
"""


class Finding(NamedTuple):
    """One line of the doctor's report."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    found: str
    fix: str = ""


def run_doctor(
    config: RunConfig,
    *,
    runs_dir: Path = Path("runs"),
    pki_dir: Path | None = None,
    now: Callable[[], float] = time.time,
    echo: Callable[[str], object] = print,
) -> int:
    """Check this machine for a config and print a line for each finding.

    Args:
        config: whose data set, gateway and nodes are asked about.
        runs_dir: where runs are written.
        pki_dir: folder with certificates to check the clock against.
        now: the wall clock, seconds since 1970.
        echo: prints one line.

    Returns:
        0, or 1 when a check failed.
    """
    findings = examine(config, runs_dir=runs_dir, pki_dir=pki_dir, now=now)
    return print_findings(findings, echo)


def examine(
    config: RunConfig, *, runs_dir: Path, pki_dir: Path | None, now: Callable[[], float]
) -> list[Finding]:
    """Make every check; see `run_doctor`."""
    finish_torch = start_torch_check()  # the slow one, in the background
    rest = [
        check_cores(),
        check_processes(),
        check_memory(config.nodes),
        check_caps(),
        check_ports(config.gateway),
        check_clock(now(), pki_dir),
        check_disk(runs_dir),
        check_data(config.dataset),
        *check_node_images(config.nodes),
        check_shared_memory(),
    ]
    return [check_python(), finish_torch(), *rest]


def print_findings(findings: list[Finding], echo: Callable[[str], object]) -> int:
    """Print a line per finding and a verdict; return the exit code."""
    for finding in findings:
        echo(format_finding(finding))
    failed = sum(finding.level == "fail" for finding in findings)
    warned = sum(finding.level == "warn" for finding in findings)
    if failed:
        these = "this" if failed == 1 else "these"
        echo(f"{failed} of {len(findings)} checks failed: fix {these} first")
        return FAILED
    echo("takt works here" + (f", with {counted(warned, 'warning')}" if warned else ""))
    return 0


def format_finding(finding: Finding) -> str:
    """Write a finding as one line: level, subject, what was found, the fix."""
    fix = f" -> {finding.fix}" if finding.fix else ""
    message = printable(" ".join(f"{finding.found}{fix}".split()))
    return f"{finding.level:4}  {finding.subject:7} {message}"


def check_python() -> Finding:
    """Check the interpreter's version."""
    version = sys.version_info[:3]
    found = ".".join(map(str, version))
    if version < (3, 11, 0):
        return Finding("fail", "python", found, "install Python 3.11 or newer")
    return Finding("ok", "python", f"{found} ({sys.executable})")


def start_torch_check() -> Callable[[], Finding]:
    """Start importing torch and torchvision elsewhere; return what waits for it.

    It takes seconds, in which the other checks can run.
    """
    versions = {}
    for package in ("torch", "torchvision"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            fix = "run ./takt once, or pip install torch torchvision"
            missing = Finding("fail", "torch", f"{package} is not installed", fix)
            return lambda: missing
    pair = " + ".join(f"{name} {version}" for name, version in versions.items())
    process = subprocess.Popen(
        python("-W", "ignore", "-c", _IMPORT_PAIR),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
    )

    def finish() -> Finding:
        try:
            output, errors = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            fix = "the disk or the machine is very slow; try again"
            return Finding("fail", "torch", f"{pair}: no import within 120 s", fix)
        if process.returncode != 0:
            last = (errors.strip().splitlines() or ["killed"])[-1]
            return Finding("fail", "torch", f"{pair}: {last[:160]}", _torch_fix())
        build = json.loads(output.splitlines()[-1])
        kind = f"CUDA {build['cuda']} build" if build["cuda"] else "CPU build"
        gpus = counted(build["gpus"], "GPU")
        return Finding("ok", "torch", f"{pair}, {kind}, {gpus}")

    return finish


def _torch_fix() -> str:
    limit_mib = address_space_mib()
    if limit_mib is not None and limit_mib < ADDRESS_SPACE_MIB:
        limit = f"the address space's limit of {limit_mib:.0f} MiB"
        return f"lift {limit}: ulimit -v unlimited"
    return "install a matching pair (constraints.txt): rm -r .venv, ./takt doctor"


def check_cores() -> Finding:
    """Check how many cores takt may use."""
    limits = effective_limits()
    found = f"{limits.cpus:g} (by {limits.cpus_by})"
    if limits.cpus < 2:
        fix = "a simulation takes several minutes; allow it 2 cores"
        return Finding("warn", "cores", found, fix)
    return Finding("ok", "cores", found)


def check_processes() -> Finding:
    """Check how many processes and threads there may be."""
    limit = process_limit()
    if limit is None:
        return Finding("ok", "procs", "no limit on processes")
    found = f"{limit[0]} processes and threads (by {limit[1]})"
    if limit[0] < NUM_PROCESSES:
        return Finding("fail", "procs", found, f"raise it to {NUM_PROCESSES} or more")
    return Finding("ok", "procs", found)


def check_memory(nodes: tuple[NodeConfig, ...]) -> Finding:
    """Check the memory against a simulation and the nodes' caps."""
    limits = effective_limits()
    found = f"{limits.memory_mib:.0f} MiB (by {limits.memory_by})"
    try:
        require_memory_of_nodes(nodes)
    except CapError as e:
        what, _, fix = str(e).partition("; ")
        return Finding("fail", "memory", f"{found}; {what}", fix)
    if limits.memory_mib < MINIMUM_MIB:
        fix = f"a node needs {MINIMUM_MIB} MiB, a simulation {SIMULATION_MIB} MiB"
        return Finding("fail", "memory", found, fix)
    addresses_mib = address_space_mib()
    if addresses_mib is not None and addresses_mib < ADDRESS_SPACE_MIB:
        found = f"{found}; the address space is limited to {addresses_mib:.0f} MiB"
        fix = f"a simulation maps up to {ADDRESS_SPACE_MIB} MiB: ulimit -v unlimited"
        return Finding("warn", "memory", found, fix)
    if limits.memory_mib < SIMULATION_MIB:
        fix = f"enough for a node; a simulation wants {SIMULATION_MIB} MiB"
        return Finding("warn", "memory", found, fix)
    return Finding("ok", "memory", found)


def check_caps() -> Finding:
    """Check by which method a node's caps can be held here."""
    profile = ProfileConfig(cpus=0.25, memory_mib=MINIMUM_MIB, bandwidth_kib_s=1)
    reports = probe_methods(profile)
    best = next((report for report in reports if report.works), None)
    reasons = "; ".join(f"{r.method}: {r.reason}" for r in reports if not r.works)
    if best is None:
        return Finding("fail", "caps", reasons, "takt needs Linux with /proc")
    if not best.hard:
        fix = (
            "caps are watched, not enforced; for hard ones run as root, as a service "
            "with Delegate=yes, or in a systemd user session"
        )
        return Finding("warn", "caps", f"{best.method} only ({reasons})", fix)
    others = [r.method for r in reports if r.works and r is not best]
    also = f"; also {', '.join(others)}" if others else ""
    return Finding("ok", "caps", f"{best.method} (hard){also}")


def check_ports(gateway: GatewayConfig) -> Finding:
    """Check that the gateway's addresses can be bound."""
    try:
        refuse_ports(gateway)
    except AddressError as e:
        found, _, fix = str(e).partition("; ")
        return Finding("fail", "ports", found, fix)
    ports = [join(host, port) for _, host, port in wanted(gateway)]
    if not ports:
        return Finding("ok", "ports", f"any free ones on {gateway.host}")
    return Finding("ok", "ports", f"free: {' and '.join(ports)}")


def check_clock(now: float, pki_dir: Path | None) -> Finding:
    """Check the clock against this file's age, its own pace and certificates' dates.

    Args:
        now: what the clock shows (seconds since 1970).
        pki_dir: folder in which to look for certificates (*.crt), or None.
    """
    shown = datetime.fromtimestamp(now, UTC)
    found = f"{shown:%Y-%m-%d %H:%M} UTC"
    fix = "set the clock (timedatectl set-ntp true); certificates depend on it"
    wrong = before_install(now)
    if wrong is not None:
        return Finding("fail", "clock", wrong, fix)
    before_s = _wall_ahead_s()
    time.sleep(0.1)
    drift_s = _wall_ahead_s() - before_s
    if abs(drift_s) > 0.02:
        return Finding("warn", "clock", f"{found}, jumped {drift_s:+.2f} s", fix)
    for path in sorted(pki_dir.rglob("*.crt")) if pki_dir is not None else ():
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError):
            fix = "restore it, or enrol again"
            return Finding("fail", "clock", f"{path} is no readable certificate", fix)
        if shown < certificate.not_valid_before_utc:
            begins = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M}"
            return Finding("fail", "clock", f"{found}; {path} begins {begins}", fix)
        if shown > certificate.not_valid_after_utc:
            ended = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
            fix = "set the clock if it is wrong, else enrol again"
            return Finding("fail", "clock", f"{found}; {path} ended {ended}", fix)
    return Finding("ok", "clock", found)


def _wall_ahead_s() -> float:
    """Read how far the wall clock is ahead of the monotonic one, as nearly as can be.

    Of several pairs of readings the one with the least time between them: a busy
    machine may take the processor away in the middle of a pair.
    """
    pairs = []
    for _ in range(20):
        began, wall, ended = time.monotonic(), time.time(), time.monotonic()
        pairs.append((ended - began, wall - ended))
    return min(pairs)[1]


def check_disk(runs_dir: Path) -> Finding:
    """Check that runs can be written, and the space for them."""
    existing = runs_dir.absolute()
    while not is_there(existing):
        existing = existing.parent
    if not is_folder(existing) or not os.access(existing, os.W_OK | os.X_OK):
        fix = f"give write permission on {existing}, or choose --runs-dir"
        return Finding("fail", "disk", f"{runs_dir} cannot be written", fix)
    free_mib = shutil.disk_usage(existing).free / _MIB
    found = f"{free_mib / 1024:.1f} GiB free for {runs_dir}"
    if free_mib < DISK_MIB:
        fix = f"free some space: a run wants {DISK_MIB} MiB"
        return Finding("warn" if free_mib > 100 else "fail", "disk", found, fix)
    return Finding("ok", "disk", found)


def check_data(dataset: DatasetConfig) -> Finding:
    """Check that a data set's files are there and whole; fetches nothing."""
    name = dataset.name
    if name == "cifar10":  # opening it imports torchvision
        folder = (dataset.data_dir or default_data_dir()).expanduser()
        names = ("cifar-10-batches-py", "cifar10/train")
        if any(is_folder(folder / name) for name in names):
            return Finding("ok", "data", f"{name} in {folder}")
        fix = "a run downloads it; offline, give --data-dir"
        return Finding("warn", "data", f"{name} is not there", fix)
    try:
        sources = open_sources(dataset, None)
    except DataError as e:
        absent = "downloads are off" in str(e)
        what, _, fix = str(e).rpartition("; ")
        return Finding("warn" if absent else "fail", "data", what, fix)
    classes = len(sources.class_names)
    if sources.notes:
        found = f"{name}, {classes} classes; {'; '.join(sources.notes)}"
        fix = "check that this is meant: deploy/README.md, Your own images"
        return Finding("warn", "data", found, fix)
    return Finding("ok", "data", f"{name}, {classes} classes, files are whole")


def check_node_images(nodes: tuple[NodeConfig, ...]) -> list[Finding]:
    """Say what images the nodes of a config have of their own, and who shares them."""
    having = [(node.name, node.data) for node in nodes if node.data is not None]
    if not having:
        return []
    try:
        held = [f"{name}: {_held(data)}" for name, data in having]
    except DataError as e:
        what, _, fix = str(e).rpartition("; ")
        return [Finding("fail", "images", what or str(e), fix or "correct nodes.data")]
    sharing = [name for name, data in having if data.share_images]
    if sharing:
        held.append(
            f"images of {', '.join(sharing)} leave the device: the gateway's teacher "
            "is asked about them (share_images)"
        )
    return [Finding("ok", "images", "; ".join(held))]


def _held(data: OwnImagesConfig) -> str:
    if data.folder is not None:
        return count_folder(data.folder).describe()
    of_classes = f" of {counted(len(data.classes), 'class', 'classes')}"
    return f"{counted(data.images or 0, 'image')}{of_classes * bool(data.classes)}"


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Check the shared memory that Ray keeps its objects in."""
    size_mib = 0.0
    if folder.is_dir():
        size_mib = shutil.disk_usage(folder).free / _MIB
    found = f"{size_mib:.0f} MiB free in {folder}"
    if size_mib < SHM_MIB:
        fix = "Ray is slower without; in Docker give --shm-size 2g"
        return Finding("warn", "shm", found, fix)
    return Finding("ok", "shm", found)
