"""Images and starting weights of a release: what comes back, and what is refused."""

import hashlib
import json
import lzma
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from release_drafts import draft

from common.catalog import ImageContent
from common.data.datasets import Split
from common.errors import TrustError
from common.records import Evaluation
from common.release import (
    MAX_IMAGES_BYTES,
    MAX_SHARD_BYTES,
    MAX_WEIGHTS_BYTES,
    Manifest,
    ShardInfo,
    WeightsInfo,
    decode_manifest,
    decode_shard,
    encode_manifest,
    encode_shard,
    image_arrays,
    release_images,
    samples_per_shard,
)
from common.release.pixels import pack_pixels, unpack_pixels

SHAPE = (1, 8, 8)
PIXELS = 64
Images = NDArray[np.uint8]
Edit = Callable[[dict[str, Any]], None]


def pixels(num_images: int, seed: int = 0) -> Images:
    random = np.random.RandomState(seed)
    return random.randint(0, 256, (num_images, *SHAPE)).astype(np.uint8)


def info(content: str, data: bytes, *, first: int = 0, n: int) -> ShardInfo:
    return ShardInfo(
        path=f"digits/1/{content}-{first}.safetensors",
        content=content,
        first=first,
        num_samples=n,
        num_bytes=max(1, len(data)),
        sha256=hashlib.sha256(data).hexdigest(),
    )


class Shipped:
    """A release of six images in two shards, and of two validation images."""

    def __init__(self, seed: int = 0) -> None:
        """Draw the images."""
        self.images, self.val = pixels(6, seed), pixels(2, seed + 1)
        self.labels = np.array([0, 1, 2, 3, 4, 9])
        self.files: dict[str, bytes] = {}
        shards = [
            self._shard("images", self.images[3:], self.labels[3:], first=3),
            self._shard("images", self.images[:3], self.labels[:3]),
            self._shard("val_images", self.val, np.array([7, 8])),
        ]
        self.manifest = draft(
            images="transfer",
            num_samples=6,
            num_val=2,
            fingerprint=Split(self.images, self.labels).fingerprint(),
            shards=tuple(shards),
        )

    def _shard(
        self, content: str, images: Images, labels: NDArray[Any], first: int = 0
    ) -> ShardInfo:
        data = encode_shard(image_arrays(images, labels, 10))
        shard = info(content, data, first=first, n=len(images))
        self.files[shard.path] = data
        return shard

    def read(self, shard: ShardInfo) -> bytes:
        return self.files[shard.path]


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    return Shipped()


@given(
    hnp.arrays(
        np.uint8,
        st.tuples(
            st.integers(1, 5), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)
        ),
    )
)
def test_pixels_come_back_as_they_went_in(images: Images) -> None:
    found = unpack_pixels(pack_pixels(images), images.shape)
    assert found.dtype == np.uint8 and np.array_equal(found, images)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_slopes_along_any_axis_pack_into_next_to_nothing(axis: int) -> None:
    shape = (64, 3, 16, 16)
    start = np.random.RandomState(0).randint(0, 256, (64, 3, 16, 16))
    ramp = np.moveaxis(np.arange(shape[axis]) * 37 + np.zeros((1, 1, 1, 1)), 3, axis)
    images = (start.take([0], axis=axis) + ramp).astype(np.uint8)
    images = np.broadcast_to(images, shape)
    plain = lzma.compress(images.tobytes())
    assert len(pack_pixels(images)) < 0.7 * len(plain)
    assert np.array_equal(unpack_pixels(pack_pixels(images), shape), images)


def test_images_lie_on_their_side_where_that_is_shorter() -> None:
    # Rows of noise that repeat: downwards nothing is new, if one goes downwards.
    row = np.random.RandomState(0).randint(0, 256, (40, 1, 1, 96))
    images = np.broadcast_to(row, (40, 1, 5, 96)).astype(np.uint8)
    for upright in (images, images.swapaxes(2, 3)):
        packed = pack_pixels(upright)
        assert np.array_equal(unpack_pixels(packed, upright.shape), upright)
    upright, lying = (pack_pixels(i)[0] for i in (images, images.swapaxes(2, 3)))
    assert upright ^ lying == 8


@given(
    num=st.integers(1, 9),
    classes=st.sampled_from([2, 10, 256, 257, 1000]),
    seed=st.integers(0, 99),
    content=st.sampled_from(["images", "val_images"]),
)
def test_an_image_shard_comes_back_as_it_went_in(
    num: int, classes: int, seed: int, content: str
) -> None:
    images = pixels(num, seed)
    labels = np.random.RandomState(seed).randint(0, classes, num)
    data = encode_shard(image_arrays(images, labels, classes))
    manifest = draft(class_names=tuple(map(str, range(classes))))
    found = decode_shard(data, info(content, data, n=num), manifest)
    assert np.array_equal(found["images"], images)
    assert np.array_equal(found["labels"], labels)


def test_a_release_gives_its_images_in_the_order_of_its_samples(
    shipped: Shipped,
) -> None:
    manifest = decode_manifest(encode_manifest(shipped.manifest))
    assert manifest == shipped.manifest
    images, labels = release_images(manifest, "images", shipped.read)
    assert np.array_equal(images, shipped.images)
    assert np.array_equal(labels, shipped.labels) and labels.dtype == np.int64
    images, labels = release_images(manifest, "val_images", shipped.read)
    assert np.array_equal(images, shipped.val) and labels.tolist() == [7, 8]


def test_a_release_of_the_nodes_own_images_ships_none(shipped: Shipped) -> None:
    same = draft()
    for content in ("images", "val_images"):
        kind: ImageContent = "images" if content == "images" else "val_images"
        images, labels = release_images(same, kind, shipped.read)
        assert images.shape == (0, *SHAPE) and len(labels) == 0


def test_images_that_are_not_those_of_the_fingerprint_are_refused(
    shipped: Shipped,
) -> None:
    other = shipped.manifest.model_copy(update={"fingerprint": "e" * 64})
    with pytest.raises(TrustError, match=r"fingerprint \w{12}, expected eeeeeeeeeeee"):
        release_images(other, "images", shipped.read)


def test_images_pass_for_no_other_order_of_their_shards(shipped: Shipped) -> None:
    one, two, val = shipped.manifest.shards
    swapped = (
        one.model_copy(update={"first": 0}),
        two.model_copy(update={"first": 3}),
        val,
    )
    manifest = shipped.manifest.model_copy(update={"shards": swapped})
    with pytest.raises(TrustError, match="have fingerprint"):
        release_images(manifest, "images", shipped.read)


def packed_shard(packed: NDArray[Any], labels: NDArray[Any]) -> bytes:
    return encode_shard({"packed": packed, "labels": labels})


def bomb(num_bytes: int) -> NDArray[np.uint8]:
    """Pack black pixels: a thousand times as many bytes as it has itself."""
    return pack_pixels(np.zeros((num_bytes // PIXELS, *SHAPE), np.uint8))


ONES = np.zeros(3, np.uint8)


@pytest.mark.parametrize(
    ("packed", "labels", "said"),
    [
        (bomb(8 * 2**20), ONES, "unpack to more bytes, expected 192"),
        (pack_pixels(pixels(4)), ONES, "unpack to more bytes, expected 192"),
        (pack_pixels(pixels(2)), ONES, "unpack to 128 bytes, expected 192"),
        (pack_pixels(pixels(3))[:-3], ONES, "expected 192"),
        (np.append(pack_pixels(pixels(3)), np.uint8(0)), ONES, "1 bytes follow"),
        (np.append(np.uint8(16), pack_pixels(pixels(3))), ONES, "a byte of 0 to 15"),
        (np.empty(0, np.uint8), ONES, "images begin with b''"),
        (np.full(200, 255, np.uint8), ONES, "a byte of 0 to 15"),
        (np.append(np.uint8(0), np.full(99, 9, np.uint8)), ONES, "no stream of LZMA2"),
        (pack_pixels(pixels(3)).astype(np.int8), ONES, "packed is int8"),
        (pack_pixels(pixels(3))[None], ONES, "packed is uint8(1, "),
        (pack_pixels(pixels(3)), np.full(3, 10, np.uint8), "labels goes up to 10"),
        (pack_pixels(pixels(3)), np.zeros(3, np.int64), "labels is int64(3,)"),
        (pack_pixels(pixels(3)), np.zeros(2, np.uint8), "labels is uint8(2,)"),
    ],
)
def test_an_image_shard_that_is_not_as_declared_is_refused(
    packed: NDArray[Any], labels: NDArray[Any], said: str
) -> None:
    data = packed_shard(packed, labels)
    with pytest.raises(TrustError) as error:
        decode_shard(data, info("images", data, n=3), draft(num_samples=3))
    assert said in str(error.value) and "images-0.safetensors" in str(error.value)


def test_a_bomb_takes_no_more_memory_than_was_declared() -> None:
    import tracemalloc

    packed = bomb(32 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(TrustError, match="more bytes"):
            unpack_pixels(packed, (3, *SHAPE))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * 2**20  # 4 of which are the stream's dictionary, which is fixed


@given(st.binary(max_size=300))
def test_no_garbage_in_the_place_of_pixels_escapes_as_another_error(
    garbage: bytes,
) -> None:
    try:
        found = unpack_pixels(np.frombuffer(garbage, np.uint8), (3, *SHAPE))
    except TrustError:
        return
    assert found.shape == (3, *SHAPE)


def test_a_shard_of_images_may_lack_neither_pixels_nor_labels() -> None:
    for arrays in ({"labels": ONES}, {"packed": pack_pixels(pixels(3))}):
        data = encode_shard(arrays)
        with pytest.raises(TrustError, match=r"expected \['labels', 'packed'\]"):
            decode_shard(data, info("images", data, n=3), draft(num_samples=3))


def test_a_full_shard_of_noise_stays_below_four_mebibytes() -> None:
    shape = (1, 28, 28)
    n = samples_per_shard("images", shape, 10)
    assert n * np.prod(shape) > 0.9 * MAX_SHARD_BYTES
    noise = np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8)
    data = encode_shard(image_arrays(noise, np.zeros(n, np.int64), 10))
    assert len(data) <= MAX_SHARD_BYTES


def weights(**changes: Any) -> WeightsInfo:
    fields: dict[str, Any] = {
        "path": "digits/1/weights-tiny.safetensors",
        "num_bytes": 9000,
        "sha256": "a" * 64,
        "architecture": "cnn_tiny",
        "num_parameters": 4402,
        "clean_accuracy": 0.9,
        "robust": Evaluation(
            attack="pgd",
            version="10 steps",
            norm="Linf",
            eps=0.15,
            num_images=2,
            accuracy=0.5,
            seed=0,
        ),
    }
    return WeightsInfo(**{**fields, **changes})


def with_weights(manifest: Manifest, **changes: Any) -> Manifest:
    return manifest.model_copy(update={"weights": {"tiny": weights(**changes)}})


def test_a_manifest_with_images_and_weights_comes_back_as_it_went_in(
    shipped: Shipped,
) -> None:
    manifest = with_weights(shipped.manifest)
    manifest = manifest.model_copy(update={"source": "digits", "licence": "CC BY 4.0"})
    assert decode_manifest(encode_manifest(manifest)) == manifest


def set_(key: str, value: Any) -> Edit:
    def edit(tree: dict[str, Any]) -> None:
        tree[key] = value

    return edit


def drop(content: str) -> Edit:
    def edit(tree: dict[str, Any]) -> None:
        tree["shards"] = [s for s in tree["shards"] if s["content"] != content]

    return edit


def shard(index: int, key: str, value: Any) -> Edit:
    def edit(tree: dict[str, Any]) -> None:
        tree["shards"][index][key] = value

    return edit


def of_view_1(tree: dict[str, Any]) -> None:
    for part in tree["shards"][:2]:
        part["view"] = 1


def huge(tree: dict[str, Any]) -> None:
    """Declare more images than fit, in shards that are each small enough."""
    first, each = 0, MAX_SHARD_BYTES // PIXELS
    template = tree["shards"][0]
    tree["shards"] = [s for s in tree["shards"] if s["content"] == "val_images"]
    while first * PIXELS <= MAX_IMAGES_BYTES:
        part = {"first": first, "num_samples": each, "path": f"digits/1/i{first}"}
        tree["shards"].append({**template, **part})
        first += each
    tree["num_samples"] = first


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (drop("images"), 'images = "transfer" with 0 samples in images, expected 6'),
        (drop("val_images"), "with 0 samples in val_images, expected 2"),
        (set_("num_val", 3), "shards of val_images hold 2 samples, expected 3"),
        (set_("num_val", 0), "shards of val_images hold 2 samples, expected 0"),
        (set_("images", "same"), 'images = "same" with 6 samples in images'),
        (set_("images", "others"), "images"),
        (shard(0, "first", 4), "shards of images continue at sample 4, expected 3"),
        (of_view_1, "images-3.safetensors holds view 1 of images"),
        (shard(0, "num_samples", 2**30), "expected at most 4194304 bytes together"),
        (huge, f"expected at most {MAX_IMAGES_BYTES} bytes together"),
    ],
)
def test_a_manifest_whose_images_cannot_be_so_is_refused(
    shipped: Shipped, edit: Edit, said: str
) -> None:
    tree = json.loads(encode_manifest(shipped.manifest))
    edit(tree)
    if "expected at most 4194304" in said:  # else its coverage would be refused first
        tree["shards"][1]["first"] = 2**30
        tree["shards"][0]["first"] = 0
        tree["num_samples"] = 2**30 + 3
    with pytest.raises(TrustError) as error:
        decode_manifest(json.dumps(tree).encode())
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"path": "digits/1/../x"}, "weights path 'digits/1/../x', expected a file"),
        ({"path": "other/1/x"}, "weights path 'other/1/x', expected a file directly"),
        ({"path": "digits/1/IMAGES-0.safetensors"}, "occurs twice"),
        ({"architecture": "cnn_large"}, "are of cnn_large, expected cnn_tiny"),
        ({"sha256": "x"}, "weights.tiny.sha256"),
        ({"num_bytes": MAX_WEIGHTS_BYTES + 1}, "weights.tiny.num_bytes"),
        ({"clean_accuracy": "high"}, "weights.tiny.clean_accuracy"),
    ],
)
def test_starting_weights_that_cannot_be_so_are_refused(
    shipped: Shipped, changes: dict[str, Any], said: str
) -> None:
    tree = json.loads(encode_manifest(with_weights(shipped.manifest)))
    tree["weights"]["tiny"].update(changes)
    with pytest.raises(TrustError) as error:
        decode_manifest(json.dumps(tree).encode())
    assert said in str(error.value) and "\n" not in str(error.value)


def test_starting_weights_of_no_recipe_are_refused(shipped: Shipped) -> None:
    manifest = shipped.manifest.model_copy(update={"weights": {"huge": weights()}})
    with pytest.raises(TrustError, match="'huge' are of cnn_tiny, expected no such"):
        decode_manifest(encode_manifest(manifest))


def test_contents_of_another_takt_are_passed_over_whatever_they_cover(
    shipped: Shipped,
) -> None:
    later = info("later_content", b"x", n=999)
    shards = (*shipped.manifest.shards, later)
    manifest = shipped.manifest.model_copy(update={"shards": shards})
    assert decode_manifest(encode_manifest(manifest)) == manifest
