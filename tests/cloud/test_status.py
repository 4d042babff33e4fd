"""What the gateway says of itself over HTTP, and that all who are told agree."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_site import DEADLINE_S, member, put_file, signed_by, status_of
from prometheus_client.parser import text_string_to_metric_families

from cloud.gateway.addresses import Addresses
from cloud.gateway.condition import CERTIFICATES, DATABASE, DISK, PARTS, SIGNATURES
from cloud.gateway.probe import check_gateway
from cloud.gateway.quarantine import MAX_LIES
from cloud.gateway.server import GatewayThread
from cloud.pki.authority import Authority, Lifetimes
from cloud.publishing.repository import ReleaseRepository
from cloud.storage import StorageDir
from common.config import GatewayConfig
from common.errors import AddressError, StorageError
from common.pb import takt_pb2 as pb


@pytest.fixture
def gateway(storage: StorageDir) -> Iterator[GatewayThread]:
    with GatewayThread(storage=storage) as gateway:
        look(gateway)  # the first one, which a task of its own makes, is over
        yield gateway


def look(gateway: GatewayThread) -> None:
    condition = gateway.running.condition
    asyncio.run_coroutine_threadsafe(condition.look(), gateway.loop).result(DEADLINE_S)


def get(storage: StorageDir, path: str) -> str:
    addresses = Addresses.load(storage)
    assert addresses is not None
    url = f"http://{addresses.status_host}:{addresses.status_port}{path}"
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
        return str(answer.read().decode())


def tree_of(storage: StorageDir) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(get(storage, "/status.json"))
    return tree


def metrics_of(storage: StorageDir) -> dict[tuple[str, ...], float]:
    """Read the metrics as a scraper does, by name and the values of its labels."""
    families = text_string_to_metric_families(get(storage, "/metrics"))
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in families
        for sample in family.samples
    }


def test_a_healthy_gateway_has_nothing_to_mend_and_says_when_things_end(
    gateway: GatewayThread, storage: StorageDir
) -> None:
    member(gateway, "sensor")
    tree, metrics = tree_of(storage), metrics_of(storage)
    assert (tree["problems"], tree["unreadable"]) == ({}, [])
    assert "nothing to mend" in get(storage, "/")
    for part in PARTS:
        assert metrics["takt_gateway_problem", part.removeprefix("takt.")] == 0
    end = "takt_gateway_end_days"
    lives = {"root": 365, "targets": 30, "snapshot": 30, "timestamp": 1}
    for role, days in lives.items():
        assert days - 0.1 < metrics[end, role, "metadata"] <= days
    for whose, days in {"gateway": 365, "authority": 3650, "node": 30}.items():
        assert days - 0.1 < metrics[end, whose, "certificate"] <= days
    assert tree["nearest_node"] == "sensor"
    assert metrics["takt_gateway_disk_free_bytes",] > 0


def test_calls_bytes_and_nodes_are_counted(
    gateway: GatewayThread, storage: StorageDir
) -> None:
    put_file(gateway.running.repository, "targets/file", bytes(100_000))
    lie = pb.ReportRequest(peak_memory_mib=-1)
    with (
        member(gateway, "sensor").open(gateway.address) as honest,
        member(gateway, "liar").open(gateway.address) as liar,
    ):
        honest.beat()
        honest.fetch("targets/file")
        for _ in range(MAX_LIES):
            status_of(lambda: liar.fleet.Report(lie, timeout=DEADLINE_S))
    tree, metrics = tree_of(storage), metrics_of(storage)
    assert (tree["nodes_allowed"], tree["nodes_seen"]) == (2, 1)
    assert tree["quarantined"] == ["liar"]
    assert tree["refused"] == {"INVALID_ARGUMENT": MAX_LIES}
    assert metrics["takt_gateway_refused_total", "INVALID_ARGUMENT"] == MAX_LIES
    assert metrics["takt_gateway_nodes_quarantined",] == 1
    assert metrics["takt_gateway_sent_bytes_total",] == tree["sent_bytes"] == 100_000
    heartbeats = "/takt.v1.FleetService/Heartbeat"
    assert metrics["takt_gateway_calls_total", heartbeats] == 1


def test_a_refused_certificate_is_counted_by_its_code(
    gateway: GatewayThread, storage: StorageDir
) -> None:
    identity = member(gateway)
    gateway.running.authority.revoke("sensor")
    with identity.open(gateway.address) as stubs:
        assert status_of(stubs.beat)[0] is grpc.StatusCode.PERMISSION_DENIED
    assert tree_of(storage)["refused"] == {"PERMISSION_DENIED": 1}


def told(gateway: GatewayThread, storage: StorageDir, part: str, words: str) -> None:
    """Check that the page, the metrics and the check of a gateway tell the same."""
    look(gateway)
    tree = tree_of(storage)
    assert list(tree["problems"]) == [part]
    assert words in tree["problems"][part]
    assert f"TO MEND  {part}: " in get(storage, "/")
    broken = {p for p in PARTS if metrics_of(storage)[_problem(p)]}
    assert broken == {part}
    with pytest.raises(StorageError, match=rf"{part} must be mended \(.*{words}"):
        check_gateway(storage)


def _problem(part: str) -> tuple[str, str]:
    return "takt_gateway_problem", part.removeprefix("takt.")


def test_a_full_disk_is_told_by_all(
    gateway: GatewayThread, storage: StorageDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAKT_FAULT", "gateway.disk:enospc")
    told(gateway, storage, DISK, "No space left")


def test_a_database_that_refuses_is_told_by_all_and_the_rest_is_shown(
    gateway: GatewayThread, storage: StorageDir
) -> None:
    gateway.running.fleet.close()
    storage.fleet.write_bytes(b"torn" * 1000)
    told(gateway, storage, DATABASE, "cannot write the fleet's database")
    tree = tree_of(storage)
    assert tree["nodes_seen"] is None
    assert [what.partition(":")[0] for what in tree["unreadable"]] == ["fleet"]
    assert set(tree["metadata_ends"]) == {"root", "targets", "snapshot", "timestamp"}


def test_a_key_that_is_missing_is_told_by_all(storage: StorageDir) -> None:
    past = datetime.now(UTC) - timedelta(days=0.55)
    ReleaseRepository(storage.repository, storage.keys, clock=lambda: past).create()
    for key in storage.keys.glob("timestamp-*"):
        key.rename(storage.root / key.name)
    with GatewayThread(storage=storage) as gateway:
        told(gateway, storage, SIGNATURES, "cannot read the timestamp key")


def test_an_authority_near_its_end_is_told_by_all(storage: StorageDir) -> None:
    short = Lifetimes(authority=timedelta(days=80))
    Authority(storage.pki, lifetimes=short).init()
    with GatewayThread(storage=storage) as gateway:
        told(gateway, storage, CERTIFICATES, "takt pki rotate authority")


def test_a_node_at_work_whose_certificate_was_not_renewed_is_told_by_all(
    storage: StorageDir,
) -> None:
    now = datetime.now(UTC)
    past = now - timedelta(days=26)
    authority = Authority(storage.pki, clock=lambda: past)
    with GatewayThread(storage=storage, clock=lambda: now) as gateway:
        identity = signed_by(authority, "sensor")
        look(gateway)
        assert tree_of(storage)["problems"] == {}  # it is off
        with identity.open(gateway.address) as stubs:
            stubs.beat()
        told(gateway, storage, CERTIFICATES, "sensor")
        now += timedelta(hours=2)
        look(gateway)
        assert tree_of(storage)["problems"] == {}  # it is off again


def test_a_gateways_certificate_that_was_not_renewed_is_told_by_all(
    storage: StorageDir,
) -> None:
    now = datetime.now(UTC)
    with GatewayThread(storage=storage, clock=lambda: now) as gateway:
        now += timedelta(days=310)
        look(gateway)
        problem = tree_of(storage)["problems"][CERTIFICATES]
    assert "the gateway's certificate ends on" in problem


def test_the_page_keeps_its_port_and_is_left_out_where_the_config_says_so(
    storage: StorageDir,
) -> None:
    ports = []
    for _ in range(2):
        with GatewayThread(storage=storage):
            addresses = Addresses.load(storage)
            assert addresses is not None and addresses.status_host == "127.0.0.1"
            ports.append(addresses.status_port)
    assert ports[0] == ports[1] > 0
    config = GatewayConfig(status_page=False)
    with GatewayThread(storage=storage, config=config) as gateway:
        addresses = Addresses.load(storage)
        assert addresses is not None and addresses.status_port == 0
        assert check_gateway(storage) == gateway.address


def test_a_port_of_the_page_that_is_in_use_is_named_with_the_fix(
    gateway: GatewayThread, tmp_path: Path
) -> None:
    port = int(gateway.address.rpartition(":")[2])
    config = GatewayConfig(status_port=port)
    with (
        pytest.raises(
            AddressError, match=rf"status page.*:{port}: .*gateway\.status_port"
        ),
        GatewayThread(storage=StorageDir(tmp_path / "other"), config=config),
    ):
        pass


def test_any_other_path_is_not_found(
    gateway: GatewayThread, storage: StorageDir
) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(storage, "/etc/passwd")
