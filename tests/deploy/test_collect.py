"""A run whose parts run elsewhere: what of it is seen, said and written down."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from edge_site import EdgeSite, edge_site
from waiting import WAIT_S

from cloud.fleet.database import Fleet, sqlite_url
from cloud.gateway.probe import check_gateway
from cloud.pki.authority import Authority
from cloud.pki.entries import Signed
from cloud.storage import StorageDir
from common.clock import utc_now
from common.errors import (
    ClusterError,
    ConfigError,
    LinkError,
    StorageError,
    TaktError,
)
from common.pb.takt_pb2 import HeartbeatRequest
from deploy.cli.invite import invite_nodes
from deploy.runtime.settings import load_run_config
from deploy.simulation.nodes import GONE, RemoteNodes
from deploy.simulation.run_folder import create_run
from edge.config import load_edge_config

CONFIG, _ = load_run_config("digits-same")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    with edge_site(tmp_path_factory.mktemp("site")) as site:
        yield site


def test_a_gateway_that_answers_is_named(
    site: EdgeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.gateway.probe.ANSWER_S", WAIT_S)
    assert site.gateway is not None
    assert check_gateway(site.storage) == site.gateway.address


def test_a_gateway_that_was_never_started_is_said_so(tmp_path: Path) -> None:
    storage = StorageDir(tmp_path)
    Authority(storage.pki).init()
    with pytest.raises(LinkError, match="no gateway has served"):
        check_gateway(storage)


def test_a_folder_without_a_project_is_no_gateway_that_does_not_answer(
    tmp_path: Path,
) -> None:
    with pytest.raises(StorageError, match="typo has no release yet"):
        check_gateway(StorageDir(tmp_path / "typo"))


def test_a_gateway_that_is_gone_does_not_answer(tmp_path: Path) -> None:
    gone = EdgeSite(tmp_path)
    gone.start()
    gone.stop()
    with pytest.raises(LinkError, match="does not answer"):
        check_gateway(gone.storage)


def test_the_failure_of_a_job_is_raised_elsewhere_in_its_own_class(
    tmp_path: Path,
) -> None:
    with pytest.raises(StorageError), StorageDir(tmp_path).recorded_failure():
        raise StorageError("the disk is full; free space")
    with pytest.raises(StorageError, match="the cloud job failed: the disk is full"):
        StorageDir(tmp_path).raise_failure()


def test_a_new_job_forgets_the_failure_of_the_last(tmp_path: Path) -> None:
    StorageDir(tmp_path).failure.write_text(
        json.dumps({"code": 10, "message": "no Ray"})
    )
    with StorageDir(tmp_path).recorded_failure():
        StorageDir(tmp_path).raise_failure()


def test_a_failure_of_an_unknown_code_is_still_an_error_of_takt(tmp_path: Path) -> None:
    StorageDir(tmp_path).failure.write_text(json.dumps({"code": 99, "message": "?"}))
    with pytest.raises(TaktError, match="the cloud job failed"):
        StorageDir(tmp_path).raise_failure()


def test_a_job_that_fails_without_storage_keeps_its_own_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError),
        StorageDir(tmp_path / "missing").recorded_failure(),
    ):
        raise ClusterError("Ray did not start")


def test_a_job_that_is_stopped_ends_the_waiting_of_others(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), StorageDir(tmp_path).recorded_failure():
        raise KeyboardInterrupt
    with pytest.raises(TaktError, match="it was stopped by a signal; the same command"):
        StorageDir(tmp_path).raise_failure()


def test_a_job_that_is_stopped_when_its_work_is_done_has_not_failed(
    tmp_path: Path,
) -> None:
    storage = StorageDir(tmp_path)
    with pytest.raises(KeyboardInterrupt), storage.recorded_failure() as work_is_done:
        work_is_done()
        raise KeyboardInterrupt
    storage.raise_failure()


def test_a_bug_in_a_job_ends_the_waiting_of_others(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), StorageDir(tmp_path).recorded_failure():
        _ = 1 / 0
    with pytest.raises(TaktError, match="job failed: ZeroDivisionError: division"):
        StorageDir(tmp_path).raise_failure()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(sqlite_url(tmp_path / "fleet.sqlite"), clock=lambda: NOON)
    yield fleet
    fleet.close()


def remote(fleet: Fleet, later: timedelta = timedelta(0)) -> RemoteNodes:
    return RemoteNodes(CONFIG.nodes, fleet, Path("/nodes"), clock=lambda: NOON + later)


def test_a_node_that_was_never_heard_of_is_not_seen(fleet: Fleet) -> None:
    nodes = remote(fleet)
    assert nodes.status("sensor") is None and nodes.ended("sensor") is None
    assert [view.state for view in nodes.views()] == ["not seen"] * 3


def test_what_a_node_does_is_what_its_last_heartbeat_says(fleet: Fleet) -> None:
    fleet.heartbeat("camera", HeartbeatRequest(state="distilling", progress=0.5))
    status = remote(fleet).status("camera")
    assert status is not None
    assert (status.state, status.progress) == ("distilling", 0.5)
    assert [view.state for view in remote(fleet).views()][1] == "distilling"


def test_a_node_that_stays_stopped_has_ended_with_its_last_words(fleet: Fleet) -> None:
    beat = HeartbeatRequest(state="stopped", message="memory cap 200 MiB is too small")
    fleet.heartbeat("hub", beat)
    assert remote(fleet, GONE / 2).ended("hub") is None
    assert "memory cap 200 MiB" in str(remote(fleet, GONE).ended("hub"))


def test_a_run_of_an_outside_cloud_has_no_cloud_of_its_own(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    run = create_run(tmp_path / "runs", "digits", "", storage=storage)
    assert run.cloud.root == storage
    assert sorted(f.name for f in run.path.iterdir()) == [
        "config.toml",
        "logs",
        "students",
    ]


def invited(storage: Path, folder: Path) -> list[str]:
    authority = Authority(storage / "pki")
    authority.init()
    return invite_nodes(
        CONFIG,
        authority,
        folder,
        gateway="gateway:7443",
        enroll="gateway:7444",
        ca=Path("ca.crt"),
        state_dir=Path("/var/lib/takt"),
    )


def test_an_invitation_holds_config_authority_and_token_and_no_key(
    tmp_path: Path,
) -> None:
    assert invited(tmp_path, tmp_path / "join") == ["sensor", "camera", "hub"]
    folder = tmp_path / "join" / "camera"
    assert sorted(f.name for f in folder.iterdir()) == ["ca.crt", "edge.toml", "token"]
    config = load_edge_config(folder / "edge.toml")
    assert (config.node, config.profile) == ("camera", CONFIG.nodes[1].profile)
    assert config.state_dir == Path("/var/lib/takt")
    assert config.ca == folder / "ca.crt"
    assert b"PRIVATE" not in b"".join(f.read_bytes() for f in folder.iterdir())


def test_a_node_that_has_joined_is_not_invited_again(tmp_path: Path) -> None:
    invited(tmp_path, tmp_path / "join")
    authority = Authority(tmp_path / "pki")
    token = (tmp_path / "join" / "camera" / "token").read_text().strip()
    signed = Signed(b"", "0" * 64, 1, "0" * 64, utc_now(), "0" * 64)
    authority.allow_list.bind("camera", signed, token=token)
    assert invited(tmp_path, tmp_path / "join") == ["sensor", "hub"]


def test_a_revoked_node_is_not_invited_again(tmp_path: Path) -> None:
    invited(tmp_path, tmp_path / "join")
    authority = Authority(tmp_path / "pki")
    authority.revoke("camera")
    assert invited(tmp_path, tmp_path / "join") == ["sensor", "hub"]
    assert authority.allow_list.entries()["camera"].state == "revoked"


def test_an_address_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.init()
    with pytest.raises(ConfigError, match=r"gateway = 'head'.*HOST:PORT"):
        invite_nodes(CONFIG, authority, tmp_path / "join", gateway="head")
