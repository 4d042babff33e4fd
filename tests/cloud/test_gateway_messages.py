"""What a gateway takes of a message, before it parses it: its size, lists and form."""

import logging
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from gateway_site import (
    DEADLINE_S,
    member,
    status_of,
    stubs_of,
)

from cloud.gateway.live_teacher import Batch, LiveTeacher, Shapes
from cloud.gateway.messages import MAX_QUERY_BYTES, MAX_UNARY_BYTES
from cloud.gateway.server import GatewayThread
from cloud.storage import StorageDir
from common.pb import takt_pb2 as pb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
REPORT, HEARTBEAT = "/takt.v1.FleetService/Report", "/takt.v1.FleetService/Heartbeat"
QUERY, WATCH = "/takt.v1.TeacherService/Query", "/takt.v1.ReleaseService/Watch"
ENROLL = "/takt.v1.FleetService/Enroll"
SAMPLE = (3, 32, 32)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayThread]:
    """Serve a teacher that says the same of every image."""

    async def shapes() -> Shapes:
        return Shapes(SAMPLE, 10)

    async def query(x: Batch) -> Batch:
        return np.zeros((len(x), 10), dtype=np.float32)

    async def pull_back(x: Batch, cotangent: Batch) -> Batch:
        return np.zeros_like(x)

    with GatewayThread(
        storage=StorageDir(tmp_path_factory.mktemp("storage")),
        teacher=LiveTeacher(shapes, query, pull_back),
    ) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def channel(gateway: GatewayThread) -> Iterator[grpc.Channel]:
    with member(gateway).channel(gateway.address) as channel:
        yield channel


def send(channel: grpc.Channel, method: str, *messages: bytes) -> list[bytes]:
    """Make a call of bytes, whatever they are; return the answers."""
    call: Any = channel.stream_stream(method)
    return list(call(iter(messages), timeout=DEADLINE_S))


def test_a_report_of_many_empty_entries_is_refused_by_its_size(
    channel: grpc.Channel,
) -> None:
    """Two bytes an entry on the wire were some hundred each in memory."""
    empty = b"\x7a\x00" * (MAX_UNARY_BYTES // 2 + 1)  # field 15, curve
    code, message = status_of(lambda: send(channel, REPORT, empty))
    expected = f"message has {len(empty)} bytes, expected at most {MAX_UNARY_BYTES}"
    assert (code, message) == (INVALID, expected)


@pytest.mark.parametrize("field", ["curve", "notes", "robust", "release_robust"])
def test_a_long_list_in_a_small_report_is_refused(
    channel: grpc.Channel, field: str
) -> None:
    report = pb.ReportRequest()
    items = getattr(report, field)
    for _ in range(100_000):
        items.append("") if field == "notes" else items.add()
    if field in ("notes", "release_robust"):  # two bytes of tag
        del items[80_000:]
    data = report.SerializeToString()
    assert len(data) <= MAX_UNARY_BYTES
    code, message = status_of(lambda: send(channel, REPORT, data))
    assert code is INVALID
    assert f"{field} has {len(items)} entries, expected at most" in message


def test_a_query_may_be_as_large_as_the_largest_batch(channel: grpc.Channel) -> None:
    x = np.zeros((1024, *SAMPLE), dtype="<f4")
    request = pb.QueryRequest(x=x.tobytes(), shape=x.shape)
    (answer,) = send(channel, QUERY, request.SerializeToString())
    assert list(pb.QueryResponse.FromString(answer).shape) == [1024, 10]


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_query_of_many_numbers_is_refused_before_it_is_parsed(
    channel: grpc.Channel, is_packed: bool
) -> None:
    num = MAX_QUERY_BYTES // 4
    packed = pb.QueryRequest(shape=bytes(num)).SerializeToString()
    data = packed if is_packed else b"\x10\x00" * num
    expected = "field 2 of the message has" if is_packed else "more than 16 fields"
    code, message = status_of(lambda: send(channel, QUERY, data))
    assert code is INVALID
    assert expected in message


@pytest.mark.parametrize("method", [REPORT, HEARTBEAT, WATCH, QUERY])
@pytest.mark.parametrize(
    "data",
    [b"\xff", b"\x0a\x7f", b"\x0a\x02\xff\xfe", b"\x12\x80\x80"],
    ids=["no field", "cut", "no UTF-8", "no end"],
)
def test_a_broken_message_is_an_invalid_argument_and_is_logged(
    gateway: GatewayThread,
    method: str,
    data: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = member(gateway, f"sender-of-{data.hex()}")  # each is logged once a minute
    with caplog.at_level(logging.INFO), node.channel(gateway.address) as channel:
        code, _ = status_of(lambda: send(channel, method, data))
    assert code is INVALID
    assert f"{method} from ipv4:127.0.0.1:" in caplog.text


def test_a_broken_enrolment_is_an_invalid_argument(gateway: GatewayThread) -> None:
    ca_pem = gateway.running.authority.ca_pem()
    credentials = grpc.ssl_channel_credentials(ca_pem)
    with grpc.secure_channel(gateway.enroll_address, credentials) as channel:
        code, _ = status_of(lambda: send(channel, ENROLL, b"\xff"))
    assert code is INVALID


def test_a_call_without_a_message_is_an_invalid_argument(
    channel: grpc.Channel,
) -> None:
    code, message = status_of(lambda: send(channel, HEARTBEAT))
    assert code is INVALID
    assert message == "the call ended without a message, expected one"


def test_a_gateway_that_refused_broken_messages_serves_on(
    channel: grpc.Channel,
) -> None:
    status_of(lambda: send(channel, HEARTBEAT, b"\xff"))
    stubs_of(channel).beat()
