"""The gateway under Ray Serve: it answers, and it comes back where it was."""

import hashlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from gateway_site import DEADLINE_S, Identity, Stubs, signed_by
from small_runs import small_card
from waiting import until

from cloud.cluster.local import local_cluster
from cloud.gateway.addresses import Addresses
from cloud.pki.authority import Authority
from cloud.storage import StorageDir
from common.config import GatewayConfig
from common.errors import AddressError, StorageError
from common.models.files import load_model, save_model
from common.pb import takt_pb2 as pb

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a storage folder with an untrained teacher."""
    from common.models.zoo import build_model

    folder = tmp_path_factory.mktemp("storage")
    torch.manual_seed(0)
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    card = small_card()
    save_model(folder / "teacher.safetensors", model, card)
    return folder


@pytest.fixture(scope="module")
def addresses(storage: Path) -> Iterator[Addresses]:
    """Start Ray, and the gateway with a live teacher on it."""
    with local_cluster(num_cpus=2):
        from cloud.gateway.ray_serve import start_gateway, stop_gateway

        yield start_gateway(
            GatewayConfig(), StorageDir(storage), channel="digits", live_teacher=True
        )
        stop_gateway()


@pytest.fixture(scope="module")
def sensor(storage: Path, addresses: Addresses) -> Identity:
    return signed_by(Authority(StorageDir(storage).pki), "sensor")


def answers(identity: Identity, address: str) -> bool:
    with identity.open(address) as stubs:
        try:
            stubs.beat()
        except grpc.RpcError as e:
            assert e.code() is grpc.StatusCode.UNAVAILABLE, e
            return False
    return True


def query(stubs: Stubs, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    request = pb.QueryRequest(x=x.tobytes(), shape=x.shape)
    (answer,) = stubs.teacher.Query(iter([request]), timeout=DEADLINE_S)
    return answer.logits


def test_a_node_calls_the_gateway_that_serve_runs(
    addresses: Addresses, sensor: Identity, storage: Path
) -> None:
    assert Addresses.load(StorageDir(storage)) == addresses
    with sensor.open(addresses.address) as stubs:
        (message,) = stubs.fetch("metadata/timestamp.json")
    assert (storage / "repository/metadata/timestamp.json").read_bytes() == message.data


def test_the_live_teacher_answers_as_the_saved_one(
    addresses: Addresses, sensor: Identity, storage: Path
) -> None:
    model, _ = load_model(storage / "teacher.safetensors")
    x = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x)).numpy()
    with sensor.open(addresses.address) as stubs:
        found = np.frombuffer(query(stubs, x), "<f4").reshape(5, 10)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_answer_about_a_nodes_own_images_names_the_file_of_its_teacher(
    addresses: Addresses, sensor: Identity, storage: Path
) -> None:
    pixels = np.full((5, 1, 8, 8), 51, np.uint8)
    request = pb.QueryRequest(pixels=pixels.tobytes(), shape=pixels.shape)
    with sensor.open(addresses.address) as stubs:
        (answer,) = stubs.teacher.Query(iter([request]), timeout=DEADLINE_S)
        as_floats = query(stubs, np.divide(pixels, 255, dtype=np.float32))
    file = (storage / "teacher.safetensors").read_bytes()
    assert answer.teacher_sha256 == hashlib.sha256(file).hexdigest()
    assert answer.logits == as_floats


def test_a_killed_gateway_comes_back_at_the_same_address(
    addresses: Addresses, sensor: Identity, storage: Path
) -> None:
    assert answers(sensor, addresses.address)
    pid = json.loads((storage / "gateway.json").read_bytes())["pid"]
    os.kill(pid, signal.SIGKILL)
    until(  # about 2 s on an idle machine
        "a new gateway",
        lambda: json.loads((storage / "gateway.json").read_bytes())["pid"] != pid,
    )
    assert answers(sensor, addresses.address)
    assert Addresses.load(StorageDir(storage)) == addresses


def test_a_taken_port_is_reported_before_anything_starts(
    addresses: Addresses, tmp_path: Path
) -> None:
    from cloud.gateway.ray_serve import start_gateway

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"port {port} on 127.0.0.1 is in use"):
            start_gateway(
                GatewayConfig(port=port), StorageDir(tmp_path), channel="digits"
            )


def test_a_storage_that_cannot_be_made_is_reported_before_anything_starts() -> None:
    from cloud.gateway.ray_serve import start_gateway

    with pytest.raises(StorageError, match="cannot make folder /proc/takt"):
        start_gateway(GatewayConfig(), StorageDir(Path("/proc/takt")), channel="digits")
