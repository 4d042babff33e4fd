"""A channel's pointer that is not what was signed: no version is taken from it."""

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from gateway_site import DEADLINE_S, member
from repository_site import Node, draft
from tuf.api.metadata import TargetFile
from waiting import until

from cloud.gateway.release_service import VersionFeed
from cloud.gateway.server import GatewayThread
from cloud.publishing.repository import ReleaseRepository
from cloud.publishing.signing_keys import RoleKeys
from cloud.publishing.tuf_metadata import SignedMetadata
from cloud.storage import StorageDir
from common.clock import utc_now
from common.errors import StorageError
from common.pb import takt_pb2 as pb

NEWEST = 3  # of the channel whose pointer is damaged
DAMAGES = [b"\xff" * 14, b"", b'{"version": 1}', b'{"version": 9007199254740991}']
OTHER_FORMS = [
    b"[]",
    b"3",
    b"\xff",
    b'{"version": "3"}',
    b'{"version": 3.5}',
    b'{"version": 0}',
    b'{"version": -1}',
    b'{"version": 9007199254740992}',
    b'{"release": 3}',
]


@pytest.fixture
def published(repository: ReleaseRepository, knowledge: Path) -> ReleaseRepository:
    """Publish in two channels."""
    for _ in range(NEWEST):
        repository.publish(draft(), knowledge, force=True)
    repository.publish(draft("mnist"), knowledge)
    return repository


def pointer_of(repository: ReleaseRepository) -> Path:
    """Return the file that the signed metadata name."""
    content = json.dumps({"version": NEWEST}).encode()
    name = f"{hashlib.sha256(content).hexdigest()}.channel.json"
    return repository.targets / "digits" / name


def sign_pointer(repository: ReleaseRepository, keys: Path, data: bytes) -> None:
    """Sign any bytes as the pointer."""
    metadata = SignedMetadata(
        repository.root / "metadata", RoleKeys(keys), clock=utc_now
    )
    state = metadata.load()
    target = TargetFile.from_data("digits/channel.json", data, ["sha256"])
    state.targets.signed.targets[target.path] = target
    name = f"{target.hashes['sha256']}.channel.json"
    (repository.targets / "digits" / name).write_bytes(data)
    metadata.commit(state, "publish")


@pytest.mark.parametrize("data", DAMAGES, ids=repr)
def test_a_pointer_that_was_overwritten_signs_no_version(
    published: ReleaseRepository, knowledge: Path, node: Node, data: bytes
) -> None:
    """It was followed unseen: version 2 was signed as newest though 3 exists."""
    pointer = pointer_of(published)
    original = pointer.read_bytes()
    pointer.write_bytes(data)
    with pytest.raises(StorageError, match=rf"{pointer.name}.*from a backup"):
        published.publish(draft(), knowledge, force=True)
    with pytest.raises(StorageError, match=rf"{pointer.name}.*from a backup"):
        published.versions()
    pointer.write_bytes(original)
    assert node.version() == NEWEST
    assert published.publish(draft(), knowledge, force=True).version == NEWEST + 1


@pytest.mark.parametrize("data", OTHER_FORMS, ids=repr)
def test_a_signed_pointer_to_no_version_is_refused_as_nodes_refuse_it(
    published: ReleaseRepository, knowledge: Path, tmp_path: Path, data: bytes
) -> None:
    sign_pointer(published, tmp_path / "keys", data)
    with pytest.raises(StorageError, match=r"digits/channel\.json"):
        published.publish(draft(), knowledge, force=True)


def test_a_manifest_that_was_overwritten_is_not_taken_for_the_published_one(
    published: ReleaseRepository, knowledge: Path
) -> None:
    (place,) = (published.targets / "digits" / f"{NEWEST}").glob("*.manifest.json")
    place.write_bytes(place.read_bytes().replace(b'"digits"', b'"digitz"'))
    with pytest.raises(StorageError, match="is not the file that was listed"):
        published.manifest("digits")
    published.publish(draft(), knowledge, force=True)
    assert published.manifest("digits").version == NEWEST + 1


def test_a_damaged_channel_leaves_the_others_their_releases(
    published: ReleaseRepository, knowledge: Path
) -> None:
    pointer_of(published).write_bytes(b"\xff")
    assert published.publish(draft("mnist"), knowledge, force=True).version == 2
    versions, damaged = published.readable_versions()
    assert versions == {"mnist": 2}
    assert list(damaged) == ["digits"]


@pytest.mark.parametrize("data", DAMAGES, ids=repr)
def test_a_gateway_serves_on_when_a_pointer_is_damaged(
    tmp_path: Path,
    published: ReleaseRepository,
    knowledge: Path,
    caplog: pytest.LogCaptureFixture,
    data: bytes,
) -> None:
    """Its watch on the repository ended, and with it the gateway."""
    with GatewayThread(storage=StorageDir(tmp_path)) as gateway:
        pointer = pointer_of(published)
        pointer.write_bytes(data)
        with member(gateway).open(gateway.address) as stubs:
            request = pb.WatchRequest(channel="mnist", known_version=1)
            news = stubs.releases.Watch(request, timeout=DEADLINE_S)
            published.publish(draft("mnist"), knowledge, force=True)
            assert next(iter(news)).version == 2
            kept = stubs.releases.Watch(
                pb.WatchRequest(channel="digits"), timeout=DEADLINE_S
            )
            assert next(iter(kept)).version == NEWEST
        until("its word of it", lambda: pointer.name in caplog.text)
        check = gateway.running.check()
        asyncio.run_coroutine_threadsafe(check, gateway.loop).result(DEADLINE_S)


def test_a_gateway_starts_on_a_damaged_pointer(
    tmp_path: Path, published: ReleaseRepository
) -> None:
    pointer_of(published).write_bytes(b"\xff")
    with (
        GatewayThread(storage=StorageDir(tmp_path)) as gateway,
        member(gateway).open(gateway.address) as stubs,
    ):
        request = pb.WatchRequest(channel="mnist")
        news = stubs.releases.Watch(request, timeout=DEADLINE_S)
        assert next(iter(news)).version == 1


def test_a_pointer_that_is_restored_is_read_though_nothing_was_signed(
    published: ReleaseRepository, caplog: pytest.LogCaptureFixture
) -> None:
    pointer = pointer_of(published)
    original = pointer.read_bytes()
    pointer.write_bytes(b"\xff")

    async def look() -> list[int]:
        feed, seen = VersionFeed(published, retry_s=0), []
        for data in (b"\xff", b"\xff", original):
            pointer.write_bytes(data)
            await feed.refresh()
            seen.append(feed.version("digits"))
        return seen

    assert asyncio.run(look()) == [0, 0, NEWEST]
    assert caplog.text.count(pointer.name) == 1  # not once a look
