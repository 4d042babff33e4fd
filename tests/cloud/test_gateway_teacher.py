"""What the gateway answers who asks its teacher: logits, gradients, refusals."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from gateway_site import DEADLINE_S, Stubs, member, status_of

from cloud.gateway.live_teacher import Batch, LiveTeacher, Shapes
from cloud.gateway.server import GatewayThread
from cloud.storage import StorageDir
from common.models.zoo import build_model
from common.pb import takt_pb2 as pb

DIGEST = "ab" * 32
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10).eval()


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, model: torch.nn.Module
) -> Iterator[GatewayThread]:
    """Serve a real model."""

    async def query(x: Batch) -> Batch:
        if x.max() == 0:
            raise RuntimeError("a secret detail of /var/lib/takt")
        with torch.inference_mode():
            return np.asarray(model(torch.from_numpy(x)))

    async def shapes() -> Shapes:
        return Shapes((1, 8, 8), 10, DIGEST)

    async def pull_back(x: Batch, cotangent: Batch) -> Batch:
        leaf = torch.from_numpy(x).requires_grad_()
        model(leaf).backward(torch.from_numpy(cotangent))
        return np.asarray(leaf.grad)

    with GatewayThread(
        storage=StorageDir(tmp_path_factory.mktemp("storage")),
        teacher=LiveTeacher(shapes, query, pull_back),
    ) as gateway:
        yield gateway


def query(stubs: Stubs, *batches: np.ndarray[Any, Any]) -> list[pb.QueryResponse]:
    requests = [pb.QueryRequest(x=b.tobytes(), shape=b.shape) for b in batches]
    return list(stubs.teacher.Query(iter(requests), timeout=DEADLINE_S))


def test_the_teacher_answers_each_batch_with_its_logits(
    stubs: Stubs, model: torch.nn.Module
) -> None:
    rng = np.random.default_rng(0)
    batches = [rng.random((n, 1, 8, 8), dtype=np.float32) for n in (3, 1, 7)]
    for batch, answer in zip(batches, query(stubs, *batches), strict=True):
        logits = np.frombuffer(answer.logits, "<f4").reshape(answer.shape)
        with torch.inference_mode():
            expected = model(torch.from_numpy(batch)).numpy()
        np.testing.assert_allclose(logits, expected, rtol=1e-5)


def test_a_cotangent_is_answered_with_the_gradient_at_the_batch_before_it(
    stubs: Stubs, model: torch.nn.Module
) -> None:
    rng = np.random.default_rng(0)
    x = rng.random((5, 1, 8, 8), dtype=np.float32)
    cotangent = rng.standard_normal((5, 10), dtype=np.float32)
    requests = [
        pb.QueryRequest(x=x.tobytes(), shape=x.shape),
        pb.QueryRequest(cotangent=cotangent.tobytes()),
        pb.QueryRequest(x=x.tobytes(), shape=x.shape, cotangent=cotangent.tobytes()),
    ]
    answers = stubs.teacher.Query(iter(requests), timeout=DEADLINE_S)
    logits, after, with_pixels = answers
    leaf = torch.from_numpy(x).requires_grad_()
    model(leaf).backward(torch.from_numpy(cotangent))
    assert leaf.grad is not None
    found = np.frombuffer(after.gradient, "<f4").reshape(after.shape)
    np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-4, atol=1e-6)
    assert with_pixels.gradient == after.gradient
    assert (after.logits, logits.gradient) == (b"", b"")


def test_uint8_pixels_are_answered_as_their_255ths_with_the_teachers_digest(
    stubs: Stubs,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), np.uint8)
    x = np.divide(pixels, 255, dtype=np.float32)
    requests = [
        pb.QueryRequest(pixels=pixels.tobytes(), shape=pixels.shape),
        pb.QueryRequest(x=x.tobytes(), shape=x.shape),
    ]
    of_pixels, of_x = stubs.teacher.Query(iter(requests), timeout=DEADLINE_S)
    assert of_pixels.logits == of_x.logits
    assert (of_pixels.teacher_sha256, of_x.teacher_sha256) == (DIGEST, "")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"pixels": bytes(63)}, "batch of uint8 has 63 bytes, expected 64"),
        ({"pixels": bytes(256)}, "batch of uint8 has 256 bytes, expected 64"),
        ({"pixels": bytes(64), "x": bytes(256)}, "has x and pixels"),
        ({}, "batch has 0 bytes, expected 256"),
    ],
    ids=["short", "long", "both", "none"],
)
def test_uint8_pixels_that_are_no_images_are_refused(
    stubs: Stubs, fields: dict[str, bytes], why: str
) -> None:
    request = pb.QueryRequest(shape=(1, 1, 8, 8), **fields)
    ask = lambda: list(stubs.teacher.Query(iter([request]), timeout=DEADLINE_S))  # noqa: E731
    code, message = status_of(ask)
    assert code is INVALID
    assert why in message


@pytest.mark.parametrize(
    ("cotangent", "why"),
    [
        (np.zeros(9, np.float32), "36 bytes, expected 40"),
        (np.full(10, np.inf, np.float32), "not finite"),
    ],
)
def test_a_cotangent_that_fits_no_logits_is_refused(
    stubs: Stubs, cotangent: np.ndarray[Any, Any], why: str
) -> None:
    x = np.full((1, 1, 8, 8), 0.5, np.float32)
    request = pb.QueryRequest(
        x=x.tobytes(), shape=x.shape, cotangent=cotangent.tobytes()
    )
    ask = lambda: list(stubs.teacher.Query(iter([request]), timeout=DEADLINE_S))  # noqa: E731
    code, message = status_of(ask)
    assert code is INVALID
    assert why in message


def test_a_cotangent_without_any_images_is_refused(stubs: Stubs) -> None:
    request = pb.QueryRequest(cotangent=bytes(40))
    ask = lambda: list(stubs.teacher.Query(iter([request]), timeout=DEADLINE_S))  # noqa: E731
    code, message = status_of(ask)
    assert code is INVALID
    assert "without images" in message


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 1, 9, 8), np.float32),
        np.zeros((0, 1, 8, 8), np.float32),
        np.zeros((2000, 1, 8, 8), np.float32),
        np.zeros((64,), np.float32),
        np.full((1, 1, 8, 8), 1.5, np.float32),
        np.full((1, 1, 8, 8), np.nan, np.float32),
        np.zeros((1, 1, 8, 8), np.float64),
    ],
    ids=["shape", "empty", "many", "flat", "range", "nan", "dtype"],
)
def test_a_batch_that_is_no_images_is_refused(
    stubs: Stubs, batch: np.ndarray[Any, Any]
) -> None:
    assert status_of(lambda: query(stubs, batch))[0] is INVALID


def test_a_bug_becomes_internal_without_any_detail(stubs: Stubs) -> None:
    batch = np.zeros((1, 1, 8, 8), np.float32)
    code, message = status_of(lambda: query(stubs, batch))
    assert (code, message) == (grpc.StatusCode.INTERNAL, "internal error")


def test_without_a_teacher_queries_are_not_served(own: GatewayThread) -> None:
    with member(own).open(own.address) as stubs:
        code, message = status_of(lambda: query(stubs))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "no live teacher" in message
