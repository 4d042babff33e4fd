"""What the gateway serves to an admitted node: files, news, the fleet."""

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from gateway_site import DEADLINE_S, Stubs, member, put_file, status_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from release_drafts import draft, shard_of
from waiting import until

from cloud.errors import MissingFileError
from cloud.fleet.database import Fleet, sqlite_url
from cloud.gateway.release_service import (
    MAX_MESSAGE_BYTES,
    MESSAGE_BYTES,
    open_inside,
)
from cloud.gateway.server import GatewayThread
from cloud.storage import StorageDir
from common.errors import StorageError
from common.pb import takt_pb2 as pb

SIZE = 300_000
PATH = "targets/digits/1/abc.deltas-0.safetensors"
CONTENT = np.random.default_rng(0).bytes(SIZE)
INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayThread]:
    """Serve one file; the tests of this module only read."""
    with GatewayThread(
        storage=StorageDir(tmp_path_factory.mktemp("storage"))
    ) as gateway:
        put_file(gateway.running.repository, PATH, CONTENT)
        yield gateway


def publish(gateway: GatewayThread, folder: Path) -> int:
    data = b"s" * 100
    shard = shard_of("deltas", data, num_samples=4)
    folder.mkdir(exist_ok=True)
    (folder / shard.path).write_bytes(data)
    manifest = draft(shards=(shard,))
    return gateway.running.repository.publish(manifest, folder, force=True).version


def test_a_file_arrives_as_it_is(stubs: Stubs) -> None:
    messages = stubs.fetch(PATH)
    assert b"".join(m.data for m in messages) == CONTENT
    assert {m.total_bytes for m in messages} == {SIZE}
    assert max(len(m.data) for m in messages) <= MESSAGE_BYTES


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(offset=st.integers(0, SIZE) | st.sampled_from([1, MESSAGE_BYTES, SIZE - 1]))
def test_a_fetch_resumes_at_any_byte(stubs: Stubs, offset: int) -> None:
    messages = stubs.fetch(PATH, offset)
    at = offset
    for message in messages:
        assert message.offset == at
        at += len(message.data)
    assert b"".join(m.data for m in messages) == CONTENT[offset:]


@pytest.mark.parametrize("offset", [0, 5])
def test_at_the_end_of_a_file_there_is_one_empty_message(
    gateway: GatewayThread, stubs: Stubs, offset: int
) -> None:
    put_file(gateway.running.repository, f"targets/{offset}", b"x" * offset)
    (message,) = stubs.fetch(f"targets/{offset}", offset)
    assert (message.data, message.total_bytes) == (b"", offset)


def test_an_offset_beyond_the_end_is_out_of_range(stubs: Stubs) -> None:
    code, message = status_of(lambda: stubs.fetch(PATH, SIZE + 1))
    assert code is grpc.StatusCode.OUT_OF_RANGE
    assert f"has {SIZE} bytes" in message


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "metadata",
        "metadata/",
        "metadata//timestamp.json",
        "metadata/../../keys/root.pem",
        "targets/../../pki/ca.key",
        "../pki/ca.key",
        "keys/root.pem",
        "pki/allow.json",
        "fleet.sqlite",
        "./metadata/timestamp.json",
        "metadata/./timestamp.json",
        "metadata/time\0stamp.json",
        "metadata\\timestamp.json",
        "metadata/%2e%2e/x",
        "metadata/.timestamp.json.part",
        "targets/" + "a/" * 300 + "b",
    ],
)
def test_a_path_that_is_not_plain_is_refused(stubs: Stubs, path: str) -> None:
    code, message = status_of(lambda: stubs.fetch(path))
    assert code is INVALID
    assert "expected plain names below metadata/ or targets/" in message


@pytest.mark.parametrize(
    "path", ["targets/none", "targets/digits", "targets/a/b/c", "targets/" + "a" * 400]
)
def test_a_file_that_is_not_there_is_not_found(stubs: Stubs, path: str) -> None:
    assert status_of(lambda: stubs.fetch(path))[0] is MISSING


def open_below(folder: Path) -> list[str]:
    """Name what this process has open in a folder."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(link.readlink()))
    return [name for name in found if name.startswith(str(folder))]


def test_an_open_file_takes_one_descriptor(tmp_path: Path) -> None:
    """Each folder above it had one, too, as long as the stream was open."""
    (tmp_path / "targets" / "digits" / "1").mkdir(parents=True)
    (tmp_path / "targets" / "digits" / "1" / "shard").write_bytes(b"s")
    with open_inside(tmp_path, "targets/digits/1/shard") as (handle, size):
        assert os.pread(handle, 9, 0) == b"s"
        assert size == 1
        assert open_below(tmp_path) == [str(tmp_path / "targets/digits/1/shard")]
    for path in ("targets/digits/1/none", "targets/digits/none/1", "targets/digits"):
        with pytest.raises(MissingFileError), open_inside(tmp_path, path):
            pass
    assert open_below(tmp_path) == []


@pytest.mark.parametrize("error", [errno.EIO, errno.EMFILE, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("depth", [0, 3])
def test_a_disk_that_refuses_is_no_missing_file(
    tmp_path: Path, error: int, depth: int
) -> None:
    """A node waits for a disk, and not for a file that the repository does not have."""
    put = tmp_path / "targets" / "digits" / "shard"
    put.parent.mkdir(parents=True)
    put.write_bytes(b"s")
    opened: list[int] = []

    def failing(*arguments: Any, **options: Any) -> int:
        if len(opened) == depth:
            raise OSError(error, os.strerror(error))
        opened.append(os.open(*arguments, **options))
        return opened[-1]

    with (
        pytest.raises(StorageError, match="fix the disk"),
        open_inside(tmp_path, "targets/digits/shard", opening=failing),
    ):
        pass
    assert open_below(tmp_path) == []


def test_a_repository_that_has_gone_is_no_missing_file(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="fix the disk"),
        open_inside(tmp_path / "none", "metadata/timestamp.json"),
    ):
        pass


def test_links_are_not_followed(own: GatewayThread, tmp_path: Path) -> None:
    targets = tmp_path / "repository" / "targets"
    (targets / "file").symlink_to(tmp_path / "pki" / "ca.key")
    (targets / "folder").symlink_to(tmp_path / "pki")
    os.mkfifo(targets / "pipe")
    with member(own).open(own.address) as stubs:
        for path in ("targets/file", "targets/folder/ca.key", "targets/pipe"):
            code, message = status_of(lambda p=path: stubs.fetch(p))
            assert (code, "ca.key" in message and "file" in path) == (MISSING, False)


def test_a_file_that_is_replaced_meanwhile_arrives_as_it_was(
    own: GatewayThread, tmp_path: Path
) -> None:
    old, new = bytes(8_000_000), b"n" * 8_000_000
    put_file(own.running.repository, "targets/f", old)
    with member(own).open(own.address) as stubs:
        request = pb.FetchRequest(path="targets/f")
        messages = iter(stubs.releases.Fetch(request, timeout=DEADLINE_S))
        received = next(messages).data
        put_file(own.running.repository, "targets/g", new)
        targets = tmp_path / "repository" / "targets"
        (targets / "g").replace(targets / "f")
        received += b"".join(m.data for m in messages)
    assert received == old


def test_a_slow_reader_does_not_make_the_gateway_read_ahead(
    own: GatewayThread,
) -> None:
    """Beyond what the two ends' windows hold, nothing is produced."""
    size = 64 * 1024 * 1024
    put_file(own.running.repository, "targets/large", bytes(size))
    with member(own).open(own.address) as stubs:
        request = pb.FetchRequest(path="targets/large")
        messages = iter(stubs.releases.Fetch(request, timeout=DEADLINE_S))
        next(messages)
        own.stop()  # what was produced by now is all that can arrive
        received = 0
        with pytest.raises(grpc.RpcError):
            for message in messages:
                received += len(message.data)
    assert received < size / 4


def test_a_watcher_gets_a_version_it_does_not_have_at_once(
    own: GatewayThread, tmp_path: Path
) -> None:
    version = publish(own, tmp_path / "knowledge")
    with member(own).open(own.address) as stubs:
        for known in (0, version + 5):
            request = pb.WatchRequest(channel="digits", known_version=known)
            news = iter(stubs.releases.Watch(request, timeout=DEADLINE_S))
            assert next(news).version == version


def test_a_watcher_gets_each_release(own: GatewayThread, tmp_path: Path) -> None:
    with member(own).open(own.address) as stubs:
        request = pb.WatchRequest(channel="digits")
        news = iter(stubs.releases.Watch(request, timeout=DEADLINE_S))
        stubs.beat()
        for expected in (1, 2, 3):
            publish(own, tmp_path / "knowledge")
            notice = next(news)
            assert (notice.channel, notice.version) == ("digits", expected)


def test_a_watcher_that_is_up_to_date_gets_the_next_release_only(
    own: GatewayThread, tmp_path: Path
) -> None:
    version = publish(own, tmp_path / "knowledge")
    with member(own).open(own.address) as stubs:
        request = pb.WatchRequest(channel="digits")
        newest = iter(stubs.releases.Watch(request, timeout=DEADLINE_S))
        assert next(newest).version == version  # the gateway knows of it by now
        request.known_version = version
        news = stubs.releases.Watch(request, timeout=DEADLINE_S)
        stubs.beat()  # over the same connection, so after it
        publish(own, tmp_path / "knowledge")
        assert next(iter(news)).version == version + 1


def test_a_watch_ends_cleanly_when_the_gateway_stops(own: GatewayThread) -> None:
    with member(own).open(own.address) as stubs:
        stubs.beat()
        request = pb.WatchRequest(channel="digits")
        news = stubs.releases.Watch(request, timeout=DEADLINE_S)
        heard: list[pb.WatchResponse] = []
        listener = threading.Thread(target=lambda: heard.extend(news))
        listener.start()
        stubs.beat()
        own.stop(grace_s=5.0)
        listener.join(timeout=DEADLINE_S)
        assert news.code() is grpc.StatusCode.OK
    assert heard == []


def test_a_report_is_kept_under_the_certificates_name(own: GatewayThread) -> None:
    report = pb.ReportRequest(channel="digits", version=1, outcome="promoted")
    with member(own, "camera").open(own.address) as stubs:
        stubs.fleet.Report(report, timeout=DEADLINE_S)
    (row,) = own.running.fleet.reports()
    assert (row.node, row.report) == ("camera", report)


def test_an_impossible_number_in_a_report_is_an_invalid_argument(stubs: Stubs) -> None:
    report = pb.ReportRequest(peak_memory_mib=float("nan"))
    code, message = status_of(lambda: stubs.fleet.Report(report, timeout=DEADLINE_S))
    assert (code, message) == (INVALID, "peak_memory_mib is nan, expected 0 to 1e+08")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_images", 0, "num_images is 0 or missing"),
        ("attack", "", "attack is 0 or missing"),
        ("version", "", "version is 0 or missing"),
        ("norm", "", "norm is 0 or missing"),
        ("num_images", 3, "accuracy is 0.5, expected a whole number of the 3 images"),
        ("accuracy", 1.5, "accuracy is 1.5, expected 0 to 1"),
        ("eps", -0.1, "eps is -0.1, expected 0 to 1"),
    ],
)
@pytest.mark.parametrize("field", ["robust", "release_robust"])
def test_an_impossible_evaluation_is_an_invalid_argument(
    stubs: Stubs, field: str, name: str, value: float | str, message: str
) -> None:
    """Who shows it would divide by its images, or name an attack that is none."""
    evaluation = pb.Evaluation(
        attack="pgd", version="a", norm="Linf", eps=0.1, num_images=4, accuracy=0.5
    )
    setattr(evaluation, name, value)
    report = pb.ReportRequest()
    getattr(report, field).append(evaluation)
    code, found = status_of(lambda: stubs.fleet.Report(report, timeout=DEADLINE_S))
    assert code is INVALID
    assert f"{field}.{message}" in found


def test_more_labelled_images_than_images_are_an_invalid_argument(
    stubs: Stubs,
) -> None:
    report = pb.ReportRequest(own_images=2, own_labelled=3)
    code, message = status_of(lambda: stubs.fleet.Report(report, timeout=DEADLINE_S))
    assert (code, message) == (INVALID, "own_labelled is 3, expected 0 to 2")


def break_database(gateway: GatewayThread, folder: Path) -> None:
    # The first look, of a task of its own, is over then: it holds a connection.
    look = gateway.running.condition.look()
    asyncio.run_coroutine_threadsafe(look, gateway.loop).result(DEADLINE_S)
    gateway.running.fleet.close()
    (folder / "fleet.sqlite").write_bytes(b"torn" * 1000)


def test_a_database_that_fails_is_unavailable_and_keeps_its_paths_to_itself(
    own: GatewayThread, tmp_path: Path
) -> None:
    report = pb.ReportRequest(channel="digits", version=1, outcome="promoted")
    with member(own).open(own.address) as stubs:
        break_database(own, tmp_path)
        code, message = status_of(
            lambda: stubs.fleet.Report(report, timeout=DEADLINE_S)
        )
    assert code is grpc.StatusCode.UNAVAILABLE
    assert message == "the gateway's storage fails; its log says why"


def test_heartbeats_are_refused_once_the_database_has_not_taken_them(
    own: GatewayThread, tmp_path: Path
) -> None:
    def is_refused() -> bool:
        try:
            stubs.beat()
        except grpc.RpcError as e:
            assert e.code() is grpc.StatusCode.UNAVAILABLE
            return True
        return False

    with member(own).open(own.address) as stubs:
        break_database(own, tmp_path)
        until("a flush has failed", is_refused)


def test_another_process_soon_sees_a_heartbeat_and_a_stop_writes_the_last(
    own: GatewayThread, tmp_path: Path
) -> None:
    def seen() -> set[str]:
        return {row.node for row in reader.nodes()}

    with (
        contextlib.closing(Fleet(sqlite_url(tmp_path / "fleet.sqlite"))) as reader,
        member(own).open(own.address) as sensor,
        member(own, "camera").open(own.address) as camera,
    ):
        sensor.beat()
        until("it is written", lambda: seen() == {"sensor"})
        camera.beat()
        own.stop()
        assert seen() == {"sensor", "camera"}


KIB = 1024


@pytest.mark.parametrize(
    ("asked", "sent"),
    [(0, 64), (1, 64), (100 * KIB, 100), (MAX_MESSAGE_BYTES, 1024), (2**31, 1024)],
)
def test_a_message_of_a_file_is_as_large_as_the_node_asks_within_bounds(
    gateway: GatewayThread, stubs: Stubs, asked: int, sent: int
) -> None:
    data = np.random.default_rng(asked).bytes(MAX_MESSAGE_BYTES + 300 * KIB + 1)
    put_file(gateway.running.repository, f"targets/asked-{asked}", data)
    request = pb.FetchRequest(path=f"targets/asked-{asked}", message_bytes=asked)
    messages = list(stubs.releases.Fetch(request, timeout=DEADLINE_S))
    assert b"".join(m.data for m in messages) == data
    assert max(len(m.data) for m in messages) == sent * KIB
