"""A node's identity: its key never leaves, and every flaw is one readable line."""

import codecs
import contextlib
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from edge_site import EdgeSite, edge_site
from waiting import until

from cloud.pki.authority import Authority
from common.errors import ClockError, IdentityError, LinkError, TaktError
from common.interpreter import python
from common.pb import takt_pb2 as pb
from edge.config import EdgeConfig, load_edge_config, save_edge_config
from edge.credentials import load_identity, make_request, store_certificate
from edge.daemon.enrolment import enroll


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    with edge_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def node(site: EdgeSite) -> EdgeConfig:
    return site.join("sensor")


def copy_of(node: EdgeConfig, folder: Path) -> Path:
    for source in (node.state_dir / "identity").iterdir():
        target = folder / source.name
        target.write_bytes(source.read_bytes())
        target.chmod(0o600)
    return folder


def test_enrolment_gives_all_that_a_node_needs(node: EdgeConfig) -> None:
    identity = load_identity(node.state_dir / "identity", node="sensor")
    assert identity.channel == "digits"
    assert b'"root"' in identity.root_json
    assert identity.not_after > datetime.now(UTC)


def test_the_key_is_readable_by_its_owner_only(node: EdgeConfig) -> None:
    mode = (node.state_dir / "identity" / "node.key").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_key_that_others_can_read_is_refused(
    node: EdgeConfig, tmp_path: Path
) -> None:
    folder = copy_of(node, tmp_path)
    (folder / "node.key").chmod(0o644)
    with pytest.raises(IdentityError, match="mode 0644, expected 0600"):
        load_identity(folder, node="sensor")


def test_a_node_joins_with_files_that_begin_with_a_byte_order_mark(
    site: EdgeSite, tmp_path: Path
) -> None:
    config = site.node_config("marked", state_dir=tmp_path / "state")
    assert config.ca is not None
    authority, token = config.ca.read_bytes(), site.allow("marked").encode()
    edge_toml = tmp_path / "edge.toml"
    save_edge_config(config.model_copy(update={"ca": tmp_path / "ca.crt"}), edge_toml)
    files = {"ca.crt": authority, "token": token, "edge.toml": edge_toml.read_bytes()}
    for name, content in files.items():
        marked = codecs.BOM_UTF8 + content.replace(b"\n", b"\r\n")
        (tmp_path / name).write_bytes(marked)
    argv = ["-m", "deploy.cli.main", "edge", "run", "--config", "edge.toml"]
    process = subprocess.Popen(
        python(*argv, "--token-file", "token"),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # A signal between its certificate and its first status ends it without a word.
        status = tmp_path / "state" / "status.json"
        until("its first status", status.exists, alive=process)
    finally:
        process.terminate()
        _, errors = process.communicate()
    assert "enrolled" in errors


def test_enrolling_again_keeps_the_key(site: EdgeSite) -> None:
    config = site.join("twice")
    folder = config.state_dir / "identity"
    key, certificate = ((folder / f"node.{x}").read_bytes() for x in ("key", "crt"))
    assert site.gateway is not None
    enroll(config, site.gateway.running.authority.allow("twice"))
    assert (folder / "node.key").read_bytes() == key
    assert (folder / "node.crt").read_bytes() != certificate


def test_the_offline_way_works_without_the_enrolment_port(
    site: EdgeSite, tmp_path: Path
) -> None:
    request = make_request(tmp_path, "island")
    assert b"PRIVATE" not in request
    authority = Authority(site.storage.pki)
    store_certificate(
        tmp_path,
        node="island",
        certificate_pem=authority.sign(request, "island"),
        ca_pem=authority.ca_pem(),
        root_json=site.repository.root_json(),
        channel=None,
    )
    assert load_identity(tmp_path, node="island").channel is None


@pytest.mark.parametrize("name", ["node.key", "node.crt", "ca.crt", "root.json"])
def test_a_missing_file_is_named(node: EdgeConfig, tmp_path: Path, name: str) -> None:
    folder = copy_of(node, tmp_path)
    (folder / name).unlink()
    with pytest.raises(IdentityError, match=rf"{name} is missing; run `takt edge enr"):
        load_identity(folder, node="sensor")


@pytest.mark.parametrize(
    "name", ["node.key", "node.crt", "ca.crt", "root.json", "channel"]
)
def test_a_file_that_cannot_be_read_is_named(
    node: EdgeConfig, tmp_path: Path, name: str
) -> None:
    folder = copy_of(node, tmp_path)
    (folder / name).unlink()
    (folder / name).mkdir()  # root may read any file, but not a folder
    with pytest.raises(IdentityError, match=rf"cannot read .*{name}: Is a directory"):
        load_identity(folder, node="sensor")


NO_NAMES = ("../../evil", "/evil", "a/b", "..", "Digits", "a" * 64, "\0", "a\nb")


@pytest.mark.parametrize("channel", NO_NAMES)
def test_an_answer_that_names_no_channel_is_refused_and_nothing_of_it_is_kept(
    site: EdgeSite, tmp_path: Path, channel: str
) -> None:
    request = make_request(tmp_path, "island")
    authority = Authority(site.storage.pki)
    with pytest.raises(IdentityError, match=r"names the channel .* expected 1 to 63"):
        store_certificate(
            tmp_path,
            node="island",
            certificate_pem=authority.sign(request, "island"),
            ca_pem=authority.ca_pem(),
            root_json=site.repository.root_json(),
            channel=channel,
        )
    assert {p.name for p in tmp_path.iterdir()} == {"node.key", "node.csr"}


@pytest.mark.parametrize("channel", ["", *NO_NAMES])
def test_a_channel_that_is_kept_and_is_no_name_is_refused(
    node: EdgeConfig, tmp_path: Path, channel: str
) -> None:
    folder = copy_of(node, tmp_path)
    (folder / "channel").write_text(channel)
    with pytest.raises(IdentityError, match=r"channel names .* expected 1 to 63"):
        load_identity(folder, node="sensor")


@pytest.mark.parametrize("name", ["node.key", "node.crt", "ca.crt"])
def test_a_damaged_file_is_named(node: EdgeConfig, tmp_path: Path, name: str) -> None:
    folder = copy_of(node, tmp_path)
    (folder / name).write_bytes(b"")
    with pytest.raises(IdentityError, match=name):
        load_identity(folder, node="sensor")


@pytest.mark.parametrize(
    ("days", "words", "code"),
    [(400, "expired on", 6), (-400, "is not valid before", 12)],
)
def test_a_certificate_out_of_its_time_says_the_dates(
    node: EdgeConfig, days: int, words: str, code: int
) -> None:
    then = datetime.now(UTC) + timedelta(days=days)
    with pytest.raises(IdentityError, match=words) as raised:
        load_identity(node.state_dir / "identity", node="sensor", now=lambda: then)
    assert f"{then:%Y-%m-%d}" in str(raised.value)
    assert raised.value.exit_code == code  # a clock may be set; an end is one


def test_a_clock_that_is_a_few_minutes_behind_is_no_obstacle(node: EdgeConfig) -> None:
    then = datetime.now(UTC) - timedelta(minutes=9)
    load_identity(node.state_dir / "identity", node="sensor", now=lambda: then)


def test_a_certificate_of_another_node_is_refused(node: EdgeConfig) -> None:
    with pytest.raises(IdentityError, match="for node 'sensor', expected 'camera'"):
        load_identity(node.state_dir / "identity", node="camera")


def test_a_certificate_of_another_ca_is_refused(
    node: EdgeConfig, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "pki")
    other.init()
    (tmp_path / "identity").mkdir()
    folder = copy_of(node, tmp_path / "identity")
    (folder / "ca.crt").write_bytes(other.ca_pem())
    with pytest.raises(IdentityError, match="not issued by the CA"):
        load_identity(folder, node="sensor")


def test_a_certificate_for_another_key_is_refused(
    site: EdgeSite, node: EdgeConfig, tmp_path: Path
) -> None:
    folder = copy_of(node, tmp_path)
    other = site.join("other").state_dir / "identity"
    (folder / "node.key").write_bytes((other / "node.key").read_bytes())
    with pytest.raises(IdentityError, match="not for the key"):
        load_identity(folder, node="sensor")


def test_a_wrong_token_is_refused_and_leaves_no_certificate(
    site: EdgeSite, node: EdgeConfig, tmp_path: Path
) -> None:
    config = node.model_copy(update={"node": "thief", "state_dir": tmp_path})
    with pytest.raises(IdentityError, match="refused this node"):
        enroll(config, "not-a-token")
    assert not (tmp_path / "identity" / "node.crt").exists()


def test_a_gateway_of_another_project_gets_no_token(
    site: EdgeSite, node: EdgeConfig, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "pki")
    other.init()
    config = node.model_copy(
        update={"ca": tmp_path / "pki" / "ca.crt", "state_dir": tmp_path / "node"}
    )
    with pytest.raises(IdentityError, match="not issued by the project CA"):
        enroll(config, "token")


def test_a_gateway_whose_certificate_is_not_valid_yet_may_be_the_clocks_fault(
    tmp_path: Path,
) -> None:
    site = EdgeSite(tmp_path)
    site.clock = lambda: datetime.now(UTC) + timedelta(days=2)
    site.start()
    try:
        with pytest.raises(ClockError, match="not valid yet; check the clocks"):
            enroll(site.node_config("early"), site.allow("early"))
    finally:
        site.stop()


def test_an_absent_enrolment_port_is_a_link_error(
    node: EdgeConfig, tmp_path: Path
) -> None:
    config = node.model_copy(
        update={"enroll": "127.0.0.1:1", "state_dir": tmp_path, "deadline_s": 0.5}
    )
    with pytest.raises(LinkError, match="connection refused"):
        enroll(config, "token")


def test_a_config_survives_being_written_and_read(
    node: EdgeConfig, tmp_path: Path
) -> None:
    path = tmp_path / "edge.toml"
    save_edge_config(node, path)
    assert load_edge_config(path) == node


def test_a_tilde_in_edge_toml_is_the_home_folder_of_who_reads_it(
    node: EdgeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "edge.toml"
    written = {"ca": Path("~/ca.crt"), "state_dir": Path("~/state")}
    save_edge_config(node.model_copy(update=written), path)
    monkeypatch.setenv("HOME", "/home/node")
    read = load_edge_config(path)
    assert read.ca == Path("/home/node/ca.crt")
    assert read.state_dir == Path("/home/node/state")


def test_a_state_folder_that_is_left_out_is_the_configs(
    node: EdgeConfig, tmp_path: Path
) -> None:
    path = tmp_path / "edge.toml"
    save_edge_config(node.model_copy(update={"state_dir": Path()}), path)
    assert "state_dir" not in path.read_text()
    with contextlib.chdir("/"):
        assert load_edge_config(path).state_dir == tmp_path


def test_relative_paths_count_from_the_configs_folder(
    node: EdgeConfig, tmp_path: Path
) -> None:
    path = tmp_path / "edge.toml"
    save_edge_config(node.model_copy(update={"state_dir": Path("here")}), path)
    with contextlib.chdir("/"):
        assert load_edge_config(path).state_dir == tmp_path / "here"


@pytest.mark.parametrize("refuses", [True, False])
def test_a_hostile_gateways_words_do_not_steer_a_terminal(
    site: EdgeSite, refuses: bool
) -> None:
    config = site.join("victim" if refuses else "victim2")
    authority, text = Authority(site.storage.pki), "\x1b]0;owned\x07\u202e"

    def answer(request: pb.EnrollRequest, context: Any) -> pb.EnrollResponse:
        if refuses:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        return pb.EnrollResponse(
            certificate_pem=authority.sign(request.csr_pem, request.node),
            ca_pem=authority.ca_pem(),
            root_json=site.repository.root_json(),
            channel=text,
        )

    method = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=pb.EnrollRequest.FromString,
        response_serializer=pb.EnrollResponse.SerializeToString,
    )
    found = authority.server_credentials()
    credentials = grpc.ssl_server_credentials([(found.key, found.certificate)])
    service = {"Enroll": method}
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("takt.v1.FleetService", service),)
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        hostile = config.model_copy(update={"enroll": f"127.0.0.1:{port}"})
        with pytest.raises(TaktError) as caught:
            enroll(hostile, "token")
    finally:
        server.stop(None).wait()
    assert r"\x1b]0;owned\x07" in str(caught.value)
    assert str(caught.value).isprintable()
    assert (config.state_dir / "identity" / "channel").read_text() == "digits"
