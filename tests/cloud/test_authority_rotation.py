"""The authority gets a new key while nodes go on: both count, then the new one."""

import asyncio
import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from edge_site import EdgeSite, connection_of, edge_site
from gateway_site import make_key, request_for
from victims import armed, renew_once
from waiting import WAIT_S, until

from cloud.pki.authority import Authority
from common.errors import ConfigError, TaktError
from common.pb import takt_pb2 as pb
from edge.config import EdgeConfig
from edge.daemon.renewal import renew
from edge.link.client import Link
from edge.state import StateDir

OTHERS = multiprocessing.get_context("forkserver")
OTHERS.set_forkserver_preload(["cloud.pki.authority", "edge.daemon"])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "pki")
    authority.init()
    authority.server_credentials()
    return authority


@pytest.fixture
def site(tmp_path: Path) -> Iterator[EdgeSite]:
    with edge_site(tmp_path) as site:
        yield site


def look(site: EdgeSite) -> None:
    assert site.gateway is not None
    certificate, loop = site.gateway.running.certificate, site.gateway.loop
    asyncio.run_coroutine_threadsafe(certificate.look(), loop).result(WAIT_S)


def beat(config: EdgeConfig) -> None:
    """Connect anew and call."""
    with contextlib.closing(Link(connection_of(config))) as link:
        link.heartbeat(pb.HeartbeatRequest(state="idle"))


def renew_of(config: EdgeConfig) -> None:
    with contextlib.closing(Link(connection_of(config))) as link:
        renew(link, StateDir(config.state_dir).identity, node=config.node)
    beat(config)


def begin(folder: Path) -> None:
    Authority(folder).begin_rotation()


def end(folder: Path) -> None:
    Authority(folder).end_rotation()


def test_nodes_follow_a_rotation_without_enrolling_again(site: EdgeSite) -> None:
    early, late = site.join("early"), site.join("late")
    authority = Authority(site.storage.pki)
    authority.begin_rotation()
    look(site)
    beat(early)
    renew_of(early)
    beat(late)
    renew_of(late)
    entries = authority.allow_list.entries
    until("both are written", lambda: not any(e.next for e in entries().values()))
    authority.end_rotation()
    look(site)
    beat(early)
    beat(late)


def test_a_node_that_enrols_during_a_rotation_is_let_in_after_it(
    site: EdgeSite,
) -> None:
    authority = Authority(site.storage.pki)
    authority.begin_rotation()
    look(site)
    config = site.join("new")
    authority.end_rotation()
    look(site)
    beat(config)


def test_a_node_that_is_behind_keeps_the_old_authority(authority: Authority) -> None:
    authority.sign(request_for("late", make_key()), "late")
    authority.begin_rotation()
    before = authority.ca_pem()
    with pytest.raises(ConfigError, match=r"old authority: late; each renews"):
        authority.end_rotation()
    assert authority.ca_pem() == before


def test_a_node_that_is_revoked_holds_nothing_up(authority: Authority) -> None:
    authority.sign(request_for("gone", make_key()), "gone")
    authority.begin_rotation()
    authority.revoke("gone")
    authority.end_rotation()
    assert authority.ca_pem().count(b"BEGIN CERTIFICATE") == 1


def test_the_old_authority_is_refused_afterwards(site: EdgeSite) -> None:
    config = site.join("gone")
    authority = Authority(site.storage.pki)
    authority.begin_rotation()
    authority.revoke("gone")
    authority.end_rotation()
    look(site)
    with pytest.raises(TaktError):
        beat(config)


def test_beginning_twice_makes_one_new_authority(authority: Authority) -> None:
    authority.begin_rotation()
    before = authority.ca_pem()
    authority.begin_rotation()
    assert authority.ca_pem() == before


def test_ending_what_has_not_begun_is_refused(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="no rotation of the authority has begun"):
        authority.end_rotation()


def test_a_rotation_leaves_its_entries(authority: Authority) -> None:
    authority.begin_rotation()
    authority.end_rotation()
    found = [(e.action, e.subject) for e in authority.trail.entries()]
    assert found == [
        ("renew", "the gateway"),
        ("rotate", "authority"),
        ("rotated", "authority"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before_rename", "after_rename"])
def test_a_node_killed_while_it_learns_the_new_authority_goes_on(
    site: EdgeSite, moment: str
) -> None:
    config = site.join("node")
    Authority(site.storage.pki).begin_rotation()
    look(site)
    fault = f"edge.renewal.ca.{moment}:kill"
    victim = OTHERS.Process(target=armed, args=(fault, renew_once, config))
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    beat(config)
    renew_of(config)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before_rename", "after_rename"])
@pytest.mark.parametrize("step", ["next", "both", "one"])
def test_a_kill_at_any_step_leaves_an_authority_that_signs_and_can_go_on(
    authority: Authority, step: str, moment: str
) -> None:
    if step == "one":
        authority.begin_rotation()
    target = end if step == "one" else begin
    fault = f"authority.{step}.{moment}:kill"
    victim = OTHERS.Process(target=armed, args=(fault, target, authority.folder))
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    authority.server_credentials()
    authority.sign(request_for("node", make_key()), "node")
    if step == "one" and moment == "after_rename":
        assert authority.ca_pem().count(b"BEGIN CERTIFICATE") == 1  # it had ended
    authority.begin_rotation()
    authority.sign(request_for("node", make_key()), "node")
    authority.end_rotation()
    authority.server_credentials()
