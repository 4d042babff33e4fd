"""Fixtures of the cloud's tests: a clock, a repository with its node, a gateway."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clocks import Clock
from gateway_site import Stubs, member
from repository_site import Node, knowledge_in, repository_in
from waiting import WAIT_S

from cloud.gateway.server import GatewayThread
from cloud.publishing.ceremony import Ceremony
from cloud.publishing.repository import ReleaseRepository
from cloud.storage import StorageDir


@pytest.fixture(autouse=True)
def patient_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a gateway of this same process more than seconds to answer a check."""
    for module in ("probe", "status_page"):
        monkeypatch.setattr(f"cloud.gateway.{module}.ANSWER_S", WAIT_S)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def knowledge(tmp_path: Path) -> Path:
    return knowledge_in(tmp_path)


@pytest.fixture
def repository(tmp_path: Path) -> ReleaseRepository:
    return repository_in(tmp_path)


@pytest.fixture
def ceremony(repository: ReleaseRepository, tmp_path: Path) -> Ceremony:
    return Ceremony(repository.root, tmp_path / "keys")


@pytest.fixture
def node(tmp_path: Path, repository: ReleaseRepository) -> Node:
    return Node(tmp_path / "node", repository)


@pytest.fixture
def storage(tmp_path: Path) -> StorageDir:
    return StorageDir(tmp_path)


@pytest.fixture
def own(storage: StorageDir) -> Iterator[GatewayThread]:
    """Start a gateway that one test may change."""
    with GatewayThread(storage=storage) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def stubs(gateway: GatewayThread) -> Iterator[Stubs]:
    """Call the module's own gateway as one of its nodes."""
    with member(gateway).open(gateway.address) as stubs:
        yield stubs
