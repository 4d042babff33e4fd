"""A publish, a rotation, a creation that dies midway: nothing half done is seen."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repository_site import (
    SHARD,
    Node,
    draft,
    knowledge_in,
    newest,
    only,
    repository_in,
)
from tuf.api.metadata import Metadata, Root

from cloud.publishing.repository import ReleaseRepository
from common.errors import StorageError

STEPS = [
    f"publish.{step}.{moment}"
    for step in ("shard", "manifest", "pointer", "targets", "snapshot", "timestamp")
    for moment in ("half_written", "before_rename", "after_rename")
]
DONE = "publish.timestamp.after_rename"
ROLES = ("targets", "snapshot", "timestamp")
# What a rotation of each writes: what refers to the role is signed again, no more.
LOST_KEY_STEPS = [
    (role, step)
    for number, role in enumerate(ROLES)
    for step in ("both", *ROLES[number:], "root")
]

# Forks, so that each death costs no start of Python; in a process without threads.
KILLER = """
import os, shutil, sys
from pathlib import Path
from cloud.publishing.repository import ReleaseRepository
from common.release import Manifest
folder, draft = Path(sys.argv[1]), Manifest.model_validate_json(sys.stdin.read())
for point in sys.argv[2:]:
    mine = folder / point
    shutil.copytree(folder / "before", mine, symlinks=True)
    child = os.fork()
    if child == 0:
        os.environ["TAKT_FAULT"] = f"{point}:kill"
        ReleaseRepository(mine / "repository", mine / "keys").publish(
            draft, folder / "knowledge", force=True
        )
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"{point} was not reached"
"""


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder a fault point, each left by a publish that died there."""
    folder = tmp_path_factory.mktemp("deaths")
    before = repository_in(folder / "before")
    before.publish(draft(), knowledge_in(folder))
    subprocess.run(
        [sys.executable, "-c", KILLER, str(folder), *STEPS],
        input=draft().model_dump_json(),
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return folder


@pytest.mark.parametrize("point", STEPS)
def test_a_publish_that_is_killed_leaves_its_release_invisible_or_whole(
    deaths: Path, tmp_path: Path, point: str
) -> None:
    folder = deaths / point
    repository = ReleaseRepository(folder / "repository", folder / "keys")
    node = Node(tmp_path / "node", repository)
    assert node.version() == (2 if point == DONE else 1)
    manifest = repository.manifest("digits")
    assert node.pull(manifest.shards[0].path) == SHARD


@pytest.mark.parametrize("point", STEPS)
def test_the_publish_after_a_killed_one_works(
    deaths: Path, tmp_path: Path, point: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(deaths / point, folder)
    repository = ReleaseRepository(folder / "repository", folder / "keys")
    node = Node(tmp_path / "node", repository)
    node.version()
    expected = 3 if point == DONE else 2
    published = repository.publish(draft(), deaths / "knowledge", force=True)
    assert published.version == node.version() == expected
    assert node.pull(published.shards[0].path) == SHARD


@pytest.mark.parametrize("kind", ["enospc", "eio"])
@pytest.mark.parametrize("step", [s for s in STEPS if s.endswith("before_rename")])
def test_a_failing_disk_leaves_the_newest_release_as_it_was(
    repository: ReleaseRepository,
    knowledge: Path,
    node: Node,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    kind: str,
) -> None:
    repository.publish(draft(), knowledge)
    with monkeypatch.context() as patch:
        patch.setenv("TAKT_FAULT", f"{step}:{kind}")
        with pytest.raises(StorageError, match="cannot write"):
            repository.publish(draft(), knowledge, force=True)
    assert node.version() == 1
    repository.publish(draft(), knowledge, force=True)
    assert node.version() == 2


@pytest.mark.parametrize("step", ["root", "targets", "snapshot", "timestamp"])
def test_a_rotation_that_dies_is_mended_by_the_next_refresh(
    repository: ReleaseRepository,
    knowledge: Path,
    node: Node,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    repository.publish(draft(), knowledge)
    with monkeypatch.context() as patch:
        patch.setenv("TAKT_FAULT", f"rotate.{step}.before_rename:eio")
        with pytest.raises(StorageError):
            repository.rotate("targets")
    repository.refresh()
    assert node.version() == 1
    repository.publish(draft(), knowledge, force=True)
    assert node.version() == 2


@pytest.mark.parametrize(("role", "step"), LOST_KEY_STEPS)
def test_a_rotation_of_a_lost_key_that_dies_is_done_by_the_next_one(
    repository: ReleaseRepository,
    knowledge: Path,
    node: Node,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
    step: str,
) -> None:
    repository.publish(draft(), knowledge)
    only(repository.root.parent, f"{role}-*.pem").unlink()
    with monkeypatch.context() as patch:
        patch.setenv("TAKT_FAULT", f"rotate.{step}.before_rename:eio")
        with pytest.raises(StorageError, match="cannot write"):
            repository.rotate(role)
    assert node.version() == 1
    assert repository.versions() == {"digits": 1}
    repository.rotate(role)
    repository.publish(draft(), knowledge, force=True)
    assert node.version() == 2
    root = newest(repository.root / "metadata", "root")
    named = Metadata[Root].from_file(str(root)).signed.roles[role].keyids
    assert len(named) == 1


@pytest.mark.parametrize("moment", ["before_rename", "after_rename"])
@pytest.mark.parametrize("step", ["root", "targets", "snapshot", "timestamp"])
def test_a_creation_that_dies_is_done_again(
    tmp_path: Path,
    knowledge: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    moment: str,
) -> None:
    repository = ReleaseRepository(tmp_path / "r", tmp_path / "k")
    with monkeypatch.context() as patch:
        patch.setenv("TAKT_FAULT", f"create.{step}.{moment}:enospc")
        with pytest.raises(StorageError, match="No space left"):
            repository.create()
    repository.create()
    repository.publish(draft(), knowledge)
    assert Node(tmp_path / "node", repository).version() == 1
    assert (tmp_path / "k" / "root.json").read_bytes() == repository.root_json()


@pytest.mark.parametrize("lost", ["timestamp.json", "*.json"])
def test_a_repository_that_lost_its_metadata_is_not_made_anew(
    repository: ReleaseRepository,
    knowledge: Path,
    node: Node,
    tmp_path: Path,
    lost: str,
) -> None:
    """It was: with another root and other keys, which no node follows."""
    repository.publish(draft(), knowledge)
    metadata, kept = repository.root / "metadata", tmp_path / "kept"
    shutil.copytree(metadata, kept)
    for path in metadata.glob(lost):
        path.unlink()
    before = contents(tmp_path / "keys"), contents(metadata)
    with pytest.raises(StorageError, match=r"no .*timestamp\.json.*from a backup"):
        repository.create()
    assert (contents(tmp_path / "keys"), contents(metadata)) == before
    shutil.copytree(kept, metadata, dirs_exist_ok=True)
    repository.create()
    repository.publish(draft(), knowledge, force=True)
    assert node.version() == 2


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
