"""A node that is killed, or whose disk fills up, at any point of its work.

Each fault point is reached for real (the process dies of it), then a daemon
starts on what was left. The distillation itself is taken as done: its folder is
prepared, so that no torch is loaded; tests/edge/test_daemon.py runs the real child.
"""

import contextlib
import errno
import itertools
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from edge_site import CHANNEL, EdgeSite, current_student, edge_site
from prepared_work import outcomes, prepare
from victims import armed, enroll_once, renew_once, run_once
from waiting import WAIT_S, until

from common.config import DatasetConfig, OwnImagesConfig
from common.errors import ConfigError, StorageError, StudentError
from common.pb import takt_pb2 as pb
from common.release import decode_manifest
from edge.config import EdgeConfig
from edge.credentials import load_identity
from edge.daemon import NodeDaemon
from edge.daemon.enrolment import enroll
from edge.daemon.job_setup import prepare_work_dir
from edge.daemon.new_images import NewImages
from edge.daemon.renewal import finish_renewal, renew
from edge.daemon.reports import Outbox
from edge.jobs.job import DistilJob
from edge.releases.sync import Release
from edge.state import FAULT_POINTS, Current, StateDir, read_status, sha256_of

IDENTITY_POINTS = [p for p in FAULT_POINTS if p.startswith("edge.identity")]
RENEWAL_POINTS = [p for p in FAULT_POINTS if p.startswith("edge.renewal")]
WORK_POINTS = [p for p in FAULT_POINTS if p not in IDENTITY_POINTS + RENEWAL_POINTS]
SEEDS = itertools.count()  # a report is known by its seed
# A process that has the daemon's modules but no thread forks the victims.
VICTIMS = multiprocessing.get_context("forkserver")
VICTIMS.set_forkserver_preload(["edge.daemon", "edge.daemon.enrolment"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    with edge_site(tmp_path_factory.mktemp("site")) as site:
        site.publish_noise(num_samples=500)
        yield site


@pytest.fixture(scope="module")
def enrolled(site: EdgeSite) -> EdgeConfig:
    """Enrol a node and keep its folder as it is then, for each test to start with."""
    config = site.join("sensor")
    shutil.copytree(config.state_dir, site.folder / "enrolled")
    return config


@pytest.fixture
def node(site: EdgeSite, enrolled: EdgeConfig) -> EdgeConfig:
    shutil.rmtree(enrolled.state_dir)
    shutil.copytree(site.folder / "enrolled", enrolled.state_dir)
    images = site.folder / "images" / "unlabelled"
    images.mkdir(parents=True, exist_ok=True)
    (images / "1.png").write_bytes(b"read by the child alone")
    data = OwnImagesConfig(folder=images.parent)
    return enrolled.model_copy(update={"seed": next(SEEDS), "data": data})


@pytest.fixture
def distilled(site: EdgeSite, node: EdgeConfig) -> EdgeConfig:
    """Prepare the node's work folder as the child leaves it, before any pull."""
    prepare(site, node, robust_accuracy=0.5)
    return node


def kill_at(point: str, target: Callable[..., None], *arguments: object) -> None:
    """Run `target` in a process that dies at `point`."""
    victim = VICTIMS.Process(target=armed, args=(f"{point}:kill", target, *arguments))
    victim.start()
    victim.join(WAIT_S)
    lives = victim.is_alive()
    if lives:  # or pytest would wait for it in the end
        victim.kill()
        victim.join()
    assert not lives, f"it still ran, and had not reached {point}"
    assert victim.exitcode == -signal.SIGKILL, f"{point} was never reached"


def test_every_fault_point_in_the_code_is_listed() -> None:
    edge = Path(__file__).parents[2] / "edge"
    source = "".join(path.read_text() for path in edge.rglob("*.py"))
    moments = ("half_written", "before_rename", "after_rename")
    named = set(re.findall(r'faults\.point\("(edge\.[a-z._]+)"\)', source))
    for prefix in re.findall(r'point="(edge\.[a-z._]+)"', source):
        named |= {f"{prefix}.{moment}" for moment in moments}
    unprepared = {f"edge.job.{moment}" for moment in moments}
    assert named == set(FAULT_POINTS) | unprepared


@pytest.mark.parametrize("point", WORK_POINTS)
def test_a_kill_at_any_point_of_the_work_is_made_good_by_a_restart(
    site: EdgeSite, distilled: EdgeConfig, point: str
) -> None:
    kill_at(point, run_once, distilled)
    state = StateDir(distilled.state_dir)
    verified = {p.name for p in state.cache.iterdir() if p.suffix != ".part"}

    daemon = NodeDaemon(distilled)
    current = daemon.once()

    assert current.outcome == "promoted"
    assert current.promoted is not None
    student = current_student(distilled.state_dir)
    assert student is not None
    assert sha256_of(student) == current.promoted.weights_sha256
    assert not list(state.outbox.iterdir())
    assert outcomes(site, distilled) == ["promoted"]
    manifest = site.repository.manifest(CHANNEL)
    shards = [s for s in manifest.shards if s.content != "unread"]
    missing = sum(s.num_bytes for s in shards if s.sha256 not in verified)
    assert read_status(distilled.state_dir).pulled_bytes <= missing + 20_000


@pytest.mark.parametrize("point", WORK_POINTS)
def test_a_full_disk_at_any_point_loses_nothing(
    site: EdgeSite,
    distilled: EdgeConfig,
    point: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TAKT_FAULT", f"{point}:enospc")
    with pytest.raises((StorageError, OSError), match="No space left"):
        NodeDaemon(distilled).once()
    monkeypatch.delenv("TAKT_FAULT")
    assert NodeDaemon(distilled).once().outcome == "promoted"
    assert outcomes(site, distilled) == ["promoted"]


@pytest.mark.parametrize(
    "point", [p for p in RENEWAL_POINTS if not p.startswith("edge.renewal.ca.")]
)
def test_a_kill_during_a_renewal_leaves_the_old_identity_or_the_new_one(
    site: EdgeSite, point: str
) -> None:
    config = site.join("renewer")
    folder = StateDir(config.state_dir).identity
    old = load_identity(folder, node="renewer")
    kill_at(point, renew_once, config)
    finish_renewal(folder)  # as a daemon does when it starts
    found = load_identity(folder, node="renewer")
    answered = point.startswith(
        ("edge.renewal.crt.after", "edge.renewal.half", "edge.renewal.placed")
    )
    assert (found.certificate_pem != old.certificate_pem) == answered
    with site.syncing(config) as (link, _):
        link.heartbeat(pb.HeartbeatRequest(state="idle"))  # it is let in
        if not answered:  # and the next renewal ends what this one began
            renew(link, folder, node="renewer")
            link.heartbeat(pb.HeartbeatRequest(state="idle"))
    assert not list(folder.glob("next.*"))


@pytest.mark.parametrize(
    "step", ["key.after_rename", "crt.after_rename", "half_placed"]
)
def test_an_enrolment_after_a_renewal_that_was_killed_is_what_counts(
    site: EdgeSite, step: str
) -> None:
    config = site.join("anew")
    folder = StateDir(config.state_dir).identity
    kill_at(f"edge.renewal.{step}", renew_once, config)
    enrolled = enroll(config, site.allow("anew"))
    finish_renewal(folder)  # as a daemon does when it starts
    found = load_identity(folder, node="anew")
    assert found.certificate_pem == enrolled.certificate_pem
    with site.syncing(config) as (link, _):
        link.heartbeat(pb.HeartbeatRequest(state="idle"))  # it is let in
    assert not list(folder.glob("next.*"))


@pytest.mark.parametrize("point", IDENTITY_POINTS)
def test_a_kill_during_enrolment_leaves_a_node_that_can_enrol(
    site: EdgeSite, enrolled: EdgeConfig, tmp_path: Path, point: str
) -> None:
    assert site.gateway is not None
    authority = site.gateway.running.authority
    config = enrolled.model_copy(update={"node": "victim", "state_dir": tmp_path})
    kill_at(point, enroll_once, config, authority.allow("victim"))
    key_file = tmp_path / "identity" / "node.key"
    key = key_file.read_bytes() if key_file.exists() else None
    enroll(config, authority.allow("victim"))
    load_identity(tmp_path / "identity", node="victim")
    assert key in (None, key_file.read_bytes())


def test_a_less_robust_student_does_not_replace_the_present_one(
    site: EdgeSite, distilled: EdgeConfig
) -> None:
    first = NodeDaemon(distilled).once().promoted
    assert first is not None
    site.publish_noise(num_samples=500)
    prepare(site, distilled, robust_accuracy=0.4)
    current = NodeDaemon(distilled).once()
    assert (current.outcome, current.promoted) == ("kept", first)


def test_a_collapsed_student_is_never_promoted(
    site: EdgeSite, node: EdgeConfig
) -> None:
    prepare(site, node, robust_accuracy=0.9, flags=("collapsed",))
    with pytest.raises(StudentError, match="one class"):
        NodeDaemon(node).once()
    assert current_student(node.state_dir) is None
    assert outcomes(site, node) == ["refused"]


def test_a_damaged_student_file_is_noticed_at_the_start(
    site: EdgeSite, distilled: EdgeConfig
) -> None:
    NodeDaemon(distilled).once()
    student = current_student(distilled.state_dir)
    assert student is not None
    student.write_bytes(b"")
    assert current_student(distilled.state_dir) is None


@pytest.mark.parametrize("damage", [b"", b'{"version": 1, "prom'])
def test_a_torn_current_json_is_rebuilt_from_the_students(
    distilled: EdgeConfig, damage: bytes
) -> None:
    before = NodeDaemon(distilled).once().promoted
    state = StateDir(distilled.state_dir)
    state.current.write_bytes(damage)
    assert state.read_current().promoted == before
    assert NodeDaemon(distilled).once().promoted == before


def test_a_work_folder_whose_marker_is_damaged_begins_anew(
    distilled: EdgeConfig, tmp_path: Path
) -> None:
    (work,) = StateDir(distilled.state_dir).work.iterdir()
    job = DistilJob(
        release_dir=tmp_path,
        student="tiny",
        dataset=DatasetConfig(),
        work_dir=work,
    )
    release = Release(CHANNEL, 1, "0" * 64)
    images = NewImages(None, StateDir(distilled.state_dir)).look()
    prepare_work_dir(release, job, images)
    (work / "for").write_bytes(b"\xff\xfe")
    (work / "checkpoint").write_bytes(b"of whom?")
    prepare_work_dir(release, job, images)
    assert [path.name for path in work.iterdir()] == ["for"]
    prepare_work_dir(release, job, images)


def test_a_kill_while_a_work_folder_is_emptied_leaves_no_half_of_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateDir(tmp_path / "state")
    state.create()
    images = NewImages(None, state).look()
    release = Release(CHANNEL, 1, "0" * 64)
    first, second = (
        DistilJob(
            release_dir=tmp_path,
            student="tiny",
            dataset=DatasetConfig(),
            work_dir=state.work / "1",
            seed=seed,
        )
        for seed in (0, 1)
    )
    prepare_work_dir(release, first, images)
    for name in ("outcome.json", "student.safetensors"):
        (state.work / "1" / name).write_bytes(b"of the first job")

    def killed(folder: Path, **options: object) -> None:
        (folder / "student.safetensors").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        prepare_work_dir(release, second, images)
    prepare_work_dir(release, first, images)  # the seed of before, again
    assert [path.name for path in (state.work / "1").iterdir()] == ["for"]


def test_a_report_waits_for_the_gateway_and_arrives_once(
    site: EdgeSite, distilled: EdgeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAKT_FAULT", "edge.outbox.after_rename:enospc")
    with contextlib.suppress(StorageError):
        NodeDaemon(distilled).once()
    monkeypatch.delenv("TAKT_FAULT")
    assert len(list((distilled.state_dir / "outbox").iterdir())) == 1
    assert outcomes(site, distilled) == []
    for _ in range(2):
        NodeDaemon(distilled).once()
    assert outcomes(site, distilled) == ["promoted"]


def test_a_report_that_waits_is_not_overwritten_by_the_next_of_its_release(
    site: EdgeSite, distilled: EdgeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAKT_FAULT", "edge.outbox.after_rename:enospc")
    with pytest.raises(StorageError):
        NodeDaemon(distilled).once()
    monkeypatch.delenv("TAKT_FAULT")
    with one_more_image(distilled):  # so that the release is handled again
        prepare(site, distilled, robust_accuracy=0.3)
        NodeDaemon(distilled).once()
    assert outcomes(site, distilled) == ["promoted", "kept"]


@contextlib.contextmanager
def one_more_image(node: EdgeConfig) -> Iterator[None]:
    """Let a node have one image more than it had."""
    assert node.data is not None and node.data.folder is not None
    image = node.data.folder / "unlabelled" / "2.png"
    image.write_bytes(b"read by the child alone")
    try:
        yield
    finally:
        image.unlink()


def test_a_report_that_is_refused_for_good_is_set_aside_or_kept_by_a_broken_disk(
    site: EdgeSite, node: EdgeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with site.syncing(node) as (link, _):
        outbox = StateDir(node.state_dir).outbox
        report, aside = outbox / "report.json", outbox / "report.refused"
        report.write_text('{"clean_accuracy": 2.0}')
        aside.mkdir()  # nothing can be renamed to it
        with pytest.raises(StorageError, match="report"):
            Outbox(StateDir(node.state_dir)).flush(link)
        assert report.exists()
        aside.rmdir()
        assert Outbox(StateDir(node.state_dir)).flush(link) == 0
        assert aside.is_file() and not report.exists()
        (said,) = (r for r in caplog.records if r.name == "edge.daemon.reports")
        assert said.levelname == "WARNING"
        assert str(aside) in said.message and "clean_accuracy is 2" in said.message


def test_a_report_of_a_handling_that_was_cut_short_is_not_sent(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.create()
    (state.work / "1").mkdir()
    before = Current(channel=CHANNEL, version=1, student="tiny", outcome="promoted")
    again = before.model_copy(update={"images_sha256": "of more images"})
    outbox = Outbox(state)
    outbox.draft(pb.ReportRequest(outcome="kept"), again)
    outbox.enqueue(before)  # as at a start: current.json did not come to be
    assert list(state.outbox.iterdir()) == []
    outbox.enqueue(again)
    assert len(list(state.outbox.iterdir())) == 1


def test_a_report_that_cannot_be_read_for_a_moment_is_delivered_later(
    site: EdgeSite, node: EdgeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with site.syncing(node) as (link, _):
        outbox = Outbox(StateDir(node.state_dir))
        report = StateDir(node.state_dir).outbox / "report.json"
        report.write_text(f'{{"outcome": "kept", "seed": {node.seed}}}')
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", refuse)
            assert outbox.flush(link) == 0
        assert outbox.flush(link) == 1
    assert not report.exists()


def test_a_report_that_cannot_be_read_does_not_hold_the_others_back(
    site: EdgeSite, node: EdgeConfig
) -> None:
    with site.syncing(node) as (link, _):
        state = StateDir(node.state_dir)
        (state.outbox / "a.json").mkdir()  # cannot be read
        (state.outbox / "b.json").write_text(
            f'{{"outcome": "kept", "seed": {node.seed}}}'
        )
        assert Outbox(state).flush(link) == 1
    assert outcomes(site, node) == ["kept"]


def test_a_second_daemon_on_the_same_folder_is_refused(node: EdgeConfig) -> None:
    with (
        StateDir(node.state_dir).lock(),
        pytest.raises(StorageError, match=f"pid {os.getpid()}"),
    ):
        NodeDaemon(node).once()


def test_a_lock_of_a_dead_daemon_is_no_obstacle(distilled: EdgeConfig) -> None:
    (distilled.state_dir / "lock").write_text("1")
    assert NodeDaemon(distilled).once().outcome == "promoted"


def test_a_folder_that_is_a_file_is_one_line(node: EdgeConfig) -> None:
    shutil.rmtree(node.state_dir / "cache", ignore_errors=True)
    (node.state_dir / "cache").write_text("")
    with pytest.raises(StorageError, match="cache"):
        NodeDaemon(node).once()


def test_the_manifest_on_disk_is_the_signed_one(
    site: EdgeSite, distilled: EdgeConfig
) -> None:
    NodeDaemon(distilled).once()
    manifest = site.repository.manifest(CHANNEL)
    folder = distilled.state_dir / "releases" / str(manifest.version)
    assert decode_manifest((folder / "manifest.json").read_bytes()) == manifest


def until_said(node: EdgeConfig, state: str, words: str) -> None:
    """Wait for the daemon of `node` to say something."""

    def said() -> bool:
        with contextlib.suppress(StorageError):
            status = read_status(node.state_dir)
            return status.state == state and words in status.message
        return False

    until(f"{state}: {words}", said)


@contextlib.contextmanager
def running(node: EdgeConfig) -> Iterator[None]:
    """Run the daemon in a thread; stop it, which ends whatever it waits for."""
    daemon = NodeDaemon(node)
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(daemon.run)
        try:
            yield
        finally:
            daemon.stop()
            end.result(timeout=WAIT_S)


def test_a_gateway_that_is_not_there_yet_is_waited_for(
    site: EdgeSite, distilled: EdgeConfig
) -> None:
    site.stop()
    try:
        with running(distilled):
            until_said(distilled, "backing-off", "connection refused")
            site.start()
            until_said(distilled, "idle", "the first student")
    finally:
        if site.gateway is None:
            site.start()
    assert outcomes(site, distilled) == ["promoted"]


def test_a_tampered_release_leaves_the_present_student_serving(
    site: EdgeSite, distilled: EdgeConfig
) -> None:
    present = NodeDaemon(distilled).once().promoted
    manifest = site.publish_noise(num_samples=500, seed=next(SEEDS))
    prepare(site, distilled, robust_accuracy=0.6)
    shard = next(s for s in manifest.shards if s.content == "deltas")
    folder, _, name = shard.path.rpartition("/")
    path = site.repository.targets / folder / f"{shard.sha256}.{name}"
    good = path.read_bytes()
    path.write_bytes(b"\xff" + good[1:])
    with running(distilled):
        until_said(distilled, "backing-off", "deltas-0.safetensors is not what")
        assert StateDir(distilled.state_dir).read_current().promoted == present
        path.write_bytes(good)  # mended at the gateway: no restart is needed here
        until_said(distilled, "idle", "60.0% robust")
    assert outcomes(site, distilled) == ["promoted", "promoted"]


def test_a_node_that_was_off_catches_up_with_the_newest_release(
    site: EdgeSite, distilled: EdgeConfig
) -> None:
    before = NodeDaemon(distilled).once()
    for _ in range(3):
        newest = site.publish_noise(num_samples=500)
    prepare(site, distilled, robust_accuracy=0.7)
    current = NodeDaemon(distilled).once()
    assert current.version == newest.version == before.version + 3
    releases = {p.name for p in (distilled.state_dir / "releases").iterdir()}
    assert releases == {str(before.version), str(newest.version)}


def test_a_recipe_that_the_release_lacks_is_reported_as_failed(
    site: EdgeSite, node: EdgeConfig
) -> None:
    config = node.model_copy(update={"student": "huge"})
    with pytest.raises(ConfigError, match="no student 'huge'"):
        NodeDaemon(config).once()
    assert outcomes(site, config) == ["failed"]
