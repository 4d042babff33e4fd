"""A node's certificate is renewed in time, over the node port, while it works."""

import contextlib
import itertools
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from clocks import Clock
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from edge_site import CHANNEL, EdgeSite, connection_of
from gateway_site import put_file
from waiting import WAIT_S, until

from cloud.pki.authority import Authority
from common.errors import IdentityError, LinkError, StorageError
from common.pb import takt_pb2 as pb
from edge.config import EdgeConfig
from edge.credentials import (
    Certificates,
    check_renewed,
    load_identity,
    make_key,
    request_of,
)
from edge.daemon import NodeDaemon
from edge.daemon.enrolment import enroll
from edge.daemon.renewal import Renewal, finish_renewal, renew
from edge.link.client import Link
from edge.state import StateDir

NUMBERS = itertools.count()
SIZE = 4 * 1024 * 1024


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[EdgeSite]:
    site = EdgeSite(tmp_path_factory.mktemp("site"))
    site.clock = clock
    clock.now = datetime.now(UTC)
    site.start()
    put_file(site.repository, "targets/long", bytes(SIZE))
    yield site
    site.stop()


@pytest.fixture
def node(site: EdgeSite, clock: Clock) -> EdgeConfig:
    """Let a node join 25 days ago, when its 30 days began."""
    clock.now = datetime.now(UTC) - timedelta(days=25)
    config = site.join(f"node-{next(NUMBERS)}")
    clock.now = datetime.now(UTC)
    return config


def folder_of(config: EdgeConfig) -> Path:
    return StateDir(config.state_dir).identity


def beat(link: Link) -> None:
    link.heartbeat(pb.HeartbeatRequest(state="idle"))


@pytest.fixture
def link(node: EdgeConfig) -> Iterator[Link]:
    link = Link(connection_of(node))
    yield link
    link.close()


@pytest.fixture
def old_link(node: EdgeConfig, link: Link, tmp_path: Path) -> Iterator[Link]:
    """Connect with a copy of the identity as it was before any renewal."""
    copy = shutil.copytree(folder_of(node), tmp_path / "old")
    link = Link(connection_of(node, Certificates.of(copy)))
    yield link
    link.close()


def test_a_renewal_brings_a_new_key_and_a_later_end(
    node: EdgeConfig, link: Link
) -> None:
    old = load_identity(folder_of(node), node=node.node)
    new = renew(link, folder_of(node), node=node.node)
    assert new.key_pem != old.key_pem
    assert new.not_after > old.not_after + timedelta(days=20)
    beat(link)
    assert {p.name for p in folder_of(node).glob("next*")} == set()


def test_an_enrolment_while_a_renewal_is_answered_is_what_counts(
    site: EdgeSite, node: EdgeConfig
) -> None:
    enrolled = []

    class EnrolsMeanwhile(Link):
        def renew(self, csr_pem: bytes) -> pb.RenewResponse:
            answer = super().renew(csr_pem)
            enrolled.append(enroll(node, site.allow(node.node)))
            return answer

    link = EnrolsMeanwhile(connection_of(node))
    found = renew(link, folder_of(node), node=node.node)
    assert found == enrolled[0]
    assert load_identity(folder_of(node), node=node.node) == found
    beat(link)
    link.close()
    assert not list(folder_of(node).glob("next*"))


def test_an_enrolment_during_the_last_steps_of_a_renewal_comes_after_them(
    site: EdgeSite, node: EdgeConfig, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(1) as pool:
        enrolments = []

        def check_and_enrol(*arguments: Any, **options: Any) -> None:
            check_renewed(*arguments, **options)
            enrolments.append(pool.submit(enroll, node, site.allow(node.node)))
            wait(enrolments, timeout=1.0)  # it ends, or is kept waiting

        monkeypatch.setattr("edge.daemon.renewal.check_renewed", check_and_enrol)
        renew(link, folder_of(node), node=node.node)
        (enrolled,) = (each.result(WAIT_S) for each in enrolments)
    assert load_identity(folder_of(node), node=node.node) == enrolled
    assert not list(folder_of(node).glob("next*"))
    with contextlib.closing(Link(connection_of(node))) as anew:
        beat(anew)


def test_a_renewed_certificate_whose_key_is_gone_is_not_put_beside_another_key(
    node: EdgeConfig, link: Link
) -> None:
    folder = folder_of(node)
    old = load_identity(folder, node=node.node)
    make_key(folder / "next.key", point="edge.renewal.key")
    answer = link.renew(request_of(folder / "next.key", node.node))
    (folder / "next.crt").write_bytes(answer.certificate_pem)
    (folder / "next.key").unlink()
    finish_renewal(folder)
    assert load_identity(folder, node=node.node) == old
    assert not list(folder.glob("next*"))


def test_a_renewal_that_the_disk_broke_off_between_its_two_files_is_ended_by_the_next(
    node: EdgeConfig, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAKT_FAULT", "edge.renewal.half_placed:eio")
    with pytest.raises(StorageError):
        renew(link, folder_of(node), node=node.node)
    monkeypatch.delenv("TAKT_FAULT")
    new = renew(link, folder_of(node), node=node.node)
    assert load_identity(folder_of(node), node=node.node) == new
    assert new.not_after > datetime.now(UTC) + timedelta(days=29)
    assert not list(folder_of(node).glob("next*"))
    beat(link)


def test_a_renewed_certificate_goes_to_the_key_that_it_is_for(
    node: EdgeConfig, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(node)
    monkeypatch.setenv("TAKT_FAULT", "edge.renewal.half_placed:eio")
    with pytest.raises(StorageError):
        renew(link, folder, node=node.node)
    monkeypatch.delenv("TAKT_FAULT")
    make_key(folder / "next.key", point="edge.renewal.key")  # of a later renewal
    finish_renewal(folder)
    load_identity(folder, node=node.node)


def test_the_old_certificate_is_valid_until_the_new_one_was_used(
    node: EdgeConfig, link: Link, old_link: Link
) -> None:
    renew(link, folder_of(node), node=node.node)
    beat(old_link)
    beat(link)

    def is_refused() -> bool:
        try:
            beat(old_link)
        except IdentityError as e:
            assert "issued to it later" in str(e)
            return True
        return False

    until("the use is written", is_refused)


def test_a_lost_answer_is_given_again(
    node: EdgeConfig, link: Link, tmp_path: Path
) -> None:
    make_key(tmp_path / "key", point="edge.renewal.key")
    request = request_of(tmp_path / "key", node.node)
    assert link.renew(request) == link.renew(request)


def test_another_key_so_soon_is_refused(
    node: EdgeConfig, link: Link, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        make_key(tmp_path / name, point="edge.renewal.key")
    link.renew(request_of(tmp_path / "a", node.node))
    with pytest.raises(LinkError, match="certificate for another key"):
        link.renew(request_of(tmp_path / "b", node.node))


def test_a_revoked_node_is_given_nothing(
    site: EdgeSite, node: EdgeConfig, link: Link
) -> None:
    assert site.gateway is not None
    before = (folder_of(node) / "node.crt").read_bytes()
    site.gateway.running.authority.revoke(node.node)
    with pytest.raises(IdentityError, match="revoked"):
        renew(link, folder_of(node), node=node.node)
    assert (folder_of(node) / "node.crt").read_bytes() == before


def test_a_node_gets_no_certificate_of_another_name(
    node: EdgeConfig, link: Link, tmp_path: Path
) -> None:
    make_key(tmp_path / "key", point="edge.renewal.key")
    with pytest.raises(LinkError, match="signing request is for 'hub', expected"):
        link.renew(request_of(tmp_path / "key", "hub"))


def test_an_answer_for_another_key_is_not_kept(
    node: EdgeConfig, tmp_path: Path
) -> None:
    folder = folder_of(node)
    make_key(tmp_path / "other", point="edge.renewal.key")
    with pytest.raises(IdentityError, match="not for the key"):
        check_renewed(
            folder,
            node=node.node,
            key_pem=(tmp_path / "other").read_bytes(),
            certificate_pem=(folder / "node.crt").read_bytes(),
            ca_pem=(folder / "ca.crt").read_bytes(),
        )


@pytest.mark.parametrize("signer", ["nobody", "itself"])
def test_an_authority_that_the_present_one_has_not_signed_is_not_trusted(
    node: EdgeConfig, tmp_path: Path, signer: str
) -> None:
    other = Authority(tmp_path / "other")
    other.init()
    token = other.allow(node.node)
    make_key(tmp_path / "key", point="edge.renewal.key")
    certificate = other.enroll(
        node.node, token, request_of(tmp_path / "key", node.node)
    )
    key = serialization.load_pem_private_key(
        (tmp_path / "other" / "ca.key").read_bytes(), None
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    data = x509.load_pem_x509_certificate(other.ca_pem()).public_bytes(
        serialization.Encoding.DER
    )
    signature = key.sign(data, ec.ECDSA(hashes.SHA256())) if signer == "itself" else b""
    with pytest.raises(IdentityError, match="the present one has not signed"):
        check_renewed(
            folder_of(node),
            node=node.node,
            key_pem=(tmp_path / "key").read_bytes(),
            certificate_pem=certificate,
            ca_pem=(folder_of(node) / "ca.crt").read_bytes() + other.ca_pem(),
            ca_signature=signature,
        )


@pytest.mark.parametrize(("day", "due"), [(19, False), (21, True)])
def test_it_is_due_in_the_last_third(
    node: EdgeConfig, link: Link, day: int, due: bool
) -> None:
    identity = load_identity(folder_of(node), node=node.node)
    then = identity.not_before + timedelta(days=day)
    renewal = Renewal(
        link, identity, stop=threading.Event(), rng=Random(0), now=lambda: then
    )
    assert renewal.is_due == due


def test_a_daemon_renews_by_itself(node: EdgeConfig) -> None:
    certificate = folder_of(node) / "node.crt"
    before = certificate.read_bytes()
    daemon = NodeDaemon(node)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        until("its new certificate", lambda: certificate.read_bytes() != before)
    finally:
        daemon.stop()
        thread.join()
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    assert found.not_valid_after_utc > datetime.now(UTC) + timedelta(days=29)


def test_a_stream_goes_on_when_its_certificate_is_renewed_and_ends(
    node: EdgeConfig, link: Link, clock: Clock
) -> None:
    other = Link(connection_of(node))
    watch = other.watch(CHANNEL, 7)
    next(watch)
    stream = link.fetch("targets/long", max_bytes=SIZE)
    received = len(next(stream))
    renew(link, folder_of(node), node=node.node)
    clock.now += timedelta(days=6)  # the old one has ended
    with pytest.raises(IdentityError, match="is valid from"):
        next(watch)  # the calls of the old one were ended
    other.close()
    received += sum(map(len, stream))
    assert received == SIZE


def test_a_stream_of_another_process_takes_the_new_certificate(
    node: EdgeConfig, link: Link
) -> None:
    other = Link(connection_of(node))  # as the child's, to the live teacher
    stream = other.fetch("targets/long", max_bytes=SIZE)
    watch = other.watch(CHANNEL, 7)
    received = len(next(stream))
    next(watch)
    renew(link, folder_of(node), node=node.node)
    beat(link)  # and the old one is void
    with pytest.raises(IdentityError, match="issued to it later"):
        next(watch)  # the calls of the old one were ended
    received += sum(map(len, stream))
    other.close()
    assert received == SIZE


def test_a_stream_whose_certificate_ends_is_ended_with_the_reason(
    node: EdgeConfig, link: Link, clock: Clock
) -> None:
    stream = link.watch(CHANNEL, 7)
    next(stream)
    clock.now += timedelta(days=6)
    with pytest.raises(IdentityError, match=r"is valid from .* now is"):
        next(stream)
