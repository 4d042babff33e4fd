"""The doctor: each fault is found, said in one line, and answered with a fix."""

import datetime
import gzip
import os
import socket
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from PIL import Image

from common.config import (
    DatasetConfig,
    GatewayConfig,
    NodeConfig,
    OwnImagesConfig,
    ProfileConfig,
    RunConfig,
)
from common.config.toml_file import load_config
from deploy import doctor
from deploy.doctor import format_finding, print_findings, run_doctor
from edge.limits import MINIMUM_MIB

CONFIG = Path(__file__).parents[2] / "deploy" / "configs" / "digits.toml"
SUBJECTS = ["python", "torch", "cores", "procs", "memory", "caps", "ports", "clock"]
SUBJECTS += ["disk", "data", "images", "shm"]


def test_a_working_machine_gets_one_line_per_check(tmp_path: Path) -> None:
    lines: list[str] = []
    config = load_config(CONFIG, RunConfig)
    code = run_doctor(config, runs_dir=tmp_path / "runs", echo=lines.append)
    assert code == 0, lines
    assert [line.split()[1] for line in lines[:-1]] == SUBJECTS
    assert all(line.split()[0] in ("ok", "warn") for line in lines[:-1])
    assert lines[-1].startswith("takt works here")


def test_a_failed_check_gives_its_fix_and_exit_code_1() -> None:
    lines: list[str] = []
    findings = [doctor.check_python(), doctor.check_clock(0.0, None)]
    assert print_findings(findings, lines.append) == 1
    assert lines[0].startswith("ok")
    assert lines[1].startswith("fail")
    assert "timedatectl" in lines[1]
    assert lines[2].startswith("1 of 2 checks failed")


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    findings = [
        doctor.check_shared_memory(tmp_path / "nowhere"),
        doctor.check_clock(0.0, None),
        doctor.check_data(DatasetConfig(name="mnist", data_dir=tmp_path)),
        doctor.check_data(DatasetConfig(name="cifar10", data_dir=tmp_path)),
    ]
    for finding in findings:
        assert finding.level != "ok"
        assert finding.fix
        assert "\n" not in format_finding(finding)


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = doctor.check_ports(GatewayConfig(port=port))
    assert finding.level == "fail"
    assert f"port {port} on 127.0.0.1" in finding.found


@pytest.mark.parametrize("key", ["port", "enroll_port", "status_port"])
def test_the_key_of_a_port_in_use_is_named(key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = doctor.check_ports(GatewayConfig.model_validate({key: port}))
    assert finding.level == "fail"
    assert f"gateway.{key} to another port" in finding.fix


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"status_host": "127.0.0.1"}, "fail"),
        ({"status_host": "0.0.0.0"}, "fail"),
        ({"status_page": False}, "ok"),
        ({"status_host": "127.0.0.2"}, "ok"),
    ],
)
def test_a_port_that_two_keys_ask_for_is_named_with_both(
    changes: dict[str, object], level: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    values = {"port": port, "status_port": port, **changes}
    finding = doctor.check_ports(GatewayConfig.model_validate(values))
    assert finding.level == level
    if level == "fail":
        assert "gateway.port and gateway.status_port are both" in finding.found


def test_an_address_of_another_machine_is_named() -> None:
    finding = doctor.check_ports(GatewayConfig(host="192.0.2.1", port=50051))
    assert finding.level == "fail"
    assert "192.0.2.1" in finding.found


def test_a_free_port_is_ok() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert doctor.check_ports(GatewayConfig(port=port)).level == "ok"


def test_a_node_capped_below_the_minimum_is_named() -> None:
    profile = ProfileConfig(cpus=1, memory_mib=MINIMUM_MIB - 1, bandwidth_kib_s=1)
    node = NodeConfig(name="mote", student="tiny", profile=profile)
    finding = doctor.check_memory((node,))
    assert finding.level == "fail"
    assert "mote" in finding.found
    assert str(MINIMUM_MIB) in finding.fix


def write_certificate(path: Path, begins: float, ends: float) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime.fromtimestamp(begins, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(ends, datetime.UTC))
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


@pytest.mark.parametrize(
    ("begins_in_s", "ends_in_s", "level", "word"),
    [
        (-60, 3600, "ok", "UTC"),
        (3600, 7200, "fail", "begins"),
        (-7200, -3600, "fail", "ended"),
    ],
)
def test_a_certificate_that_is_not_valid_now_is_named(
    tmp_path: Path, begins_in_s: float, ends_in_s: float, level: str, word: str
) -> None:
    now = time.time()
    write_certificate(tmp_path / "node.crt", now + begins_in_s, now + ends_in_s)
    finding = doctor.check_clock(now, tmp_path)
    assert finding.level == level
    assert word in finding.found


def test_a_damaged_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"not a certificate")
    finding = doctor.check_clock(time.time(), tmp_path)
    assert finding.level == "fail"
    assert "ca.crt" in finding.found


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    finding = doctor.check_disk(tmp_path / "runs")
    tmp_path.chmod(0o700)
    assert finding.level == "fail"
    assert str(tmp_path) in finding.fix


def test_a_file_in_place_of_the_runs_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    assert doctor.check_disk(tmp_path / "runs").level == "fail"


def test_a_truncated_data_file_fails_while_a_missing_one_only_warns(
    tmp_path: Path,
) -> None:
    config = DatasetConfig(name="mnist", data_dir=tmp_path)
    assert doctor.check_data(config).level == "warn"
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1"):
        (raw / f"{part}-ubyte.gz").write_bytes(gzip.compress(b"\0\0\10\1\0\0\0\7"))
    finding = doctor.check_data(config)
    assert finding.level == "fail"
    assert str(raw) in finding.found


def test_files_that_a_run_would_pass_over_are_counted_with_what_to_do(
    tmp_path: Path,
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "train" / name / "0.png")
    config = DatasetConfig(name="folder", data_dir=tmp_path)
    assert doctor.check_data(config).level == "ok"
    (tmp_path / "train" / "cat" / "1.HEIC").write_bytes(b"")
    finding = doctor.check_data(config)
    assert finding.level == "warn"
    assert "1 .HEIC in cat/" in finding.found and "Your own images" in finding.fix


def node_with(name: str, data: OwnImagesConfig) -> NodeConfig:
    profile = ProfileConfig(cpus=1, memory_mib=1000, bandwidth_kib_s=1000)
    return NodeConfig(name=name, student="small", profile=profile, data=data)


def test_what_images_nodes_have_and_who_shares_them_is_said(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"no image")
    nodes = (
        node_with("porch", OwnImagesConfig(images=200, classes=(2, 5))),
        node_with("shed", OwnImagesConfig(folder=tmp_path, share_images=True)),
    )
    (finding,) = doctor.check_node_images(nodes)
    assert "porch: 200 images of 2 classes" in finding.found
    assert "shed: 1 image: 0 of 1 class (cat 0), 1 unreadable" in finding.found
    assert "images of shed leave the device" in finding.found


def test_a_nodes_folder_that_is_missing_fails_with_the_fix(tmp_path: Path) -> None:
    data = OwnImagesConfig(folder=tmp_path / "absent")
    (finding,) = doctor.check_node_images((node_with("porch", data),))
    assert finding.level == "fail"
    assert "absent" in finding.found and finding.fix
