"""Keys that lie elsewhere: what is signed without them, and for how long."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from repository_site import Node, draft, newest
from tuf.api.exceptions import ExpiredMetadataError

from cloud.publishing.repository import ReleaseRepository


def served_for(
    days: int, role: str, folder: Path, knowledge: Path
) -> tuple[Node, ReleaseRepository, list[str]]:
    """Make a repository so long ago, take a key away, refresh it until now.

    Returns:
        A node that joined at the start, the repository, and the roles that could not
        be signed in the end.
    """
    now = datetime.now(UTC)
    left = timedelta(days=days)

    def at(before: timedelta) -> ReleaseRepository:
        return ReleaseRepository(folder / "r", folder / "k", clock=lambda: now - before)

    first = at(left)
    first.create()
    first.publish(draft(), knowledge)
    node = Node(folder / "node", first)
    (folder / "elsewhere").mkdir()
    for key in (folder / "k").glob(f"{role}-*"):
        shutil.move(key, folder / "elsewhere")
    failures: list[str] = []
    while left >= timedelta(0):
        failures = list(at(left).refresh().failures)
        left -= timedelta(days=min(7, left.days) or 1)
    return node, at(timedelta(0)), failures


@pytest.mark.parametrize(
    ("role", "days"), [("root", 190), ("root", 364), ("targets", 16), ("targets", 29)]
)
def test_a_key_that_is_elsewhere_costs_nothing_before_its_own_metadata_ends(
    tmp_path: Path, knowledge: Path, role: str, days: int
) -> None:
    node, _, failures = served_for(days, role, tmp_path, knowledge)
    assert node.version() == 1
    assert failures == [role]


def test_targets_that_nobody_signed_end_alone(tmp_path: Path, knowledge: Path) -> None:
    node, repository, _ = served_for(31, "targets", tmp_path, knowledge)
    with pytest.raises(ExpiredMetadataError, match="targets is expired"):
        node.version()
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "k", dirs_exist_ok=True)
    assert repository.refresh().signed == ("targets",)
    assert node.version() == 1


def test_a_timestamp_is_signed_without_the_keys_of_root_and_snapshot(
    tmp_path: Path, knowledge: Path
) -> None:
    node, repository, _ = served_for(2, "[rs]*t", tmp_path, knowledge)
    kept = {key.name.partition("-")[0] for key in (tmp_path / "k").glob("*.pem")}
    assert kept == {"targets", "timestamp"}
    assert repository.refresh(force=True).signed == ("timestamp",)
    assert node.version() == 1


def test_signing_a_snapshot_again_leaves_the_targets_as_they_are(
    tmp_path: Path, knowledge: Path
) -> None:
    _, repository, _ = served_for(16, "targets", tmp_path, knowledge)
    assert newest(repository.root / "metadata", "targets").name == "3.targets.json"
    assert newest(repository.root / "metadata", "snapshot").name != "3.snapshot.json"
