"""The release format: what comes back from the codec, and what it refuses."""

import hashlib
import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from release_drafts import draft

from common.catalog import Content, contents_for
from common.config import AttackConfig, StudentConfig
from common.errors import TrustError
from common.records import Evaluation
from common.release import (
    MAX_SHARD_BYTES,
    Arrays,
    Manifest,
    ShardInfo,
    TeacherCard,
    WeightsInfo,
    decode_manifest,
    decode_shard,
    encode_manifest,
    encode_shard,
    samples_per_shard,
    shard_layout,
    student_card,
)

SHAPE = (1, 3, 5)  # not a multiple of eight pixels, on purpose
NUM_SAMPLES = 6
CLASSES = 4
CONTENTS: tuple[Content, ...] = get_args(Content)


def _evaluation() -> Evaluation:
    return Evaluation(
        attack="autoattack",
        version="standard",
        norm="Linf",
        eps=0.1,
        num_images=200,
        accuracy=0.5,
        seed=0,
    )


def _info(content: str, data: bytes, first: int = 0, n: int = 6) -> ShardInfo:
    return ShardInfo(
        path=f"digits/3/{content}-{first}.safetensors",
        content=content,
        first=first,
        num_samples=n,
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _manifest(*shards: ShardInfo) -> Manifest:
    attack = AttackConfig(step_size=0.05)
    return draft(
        version=3,
        fingerprint="f" * 64,
        num_samples=NUM_SAMPLES,
        sample_shape=SHAPE,
        class_names=tuple("abcd"),
        eps=0.1,
        teacher=TeacherCard(
            architecture="cnn_large",
            num_parameters=10,
            weights_sha256="0" * 64,
            clean_accuracy=0.9,
            robust=(_evaluation(),),
        ),
        students={"small": StudentConfig(model="cnn_small", epochs=1, attack=attack)},
        node_attack_steps=10,
        node_attack_step_size=0.05,
        shards=shards,
    )


def _arrays(content: Content, n: int = NUM_SAMPLES) -> dict[str, NDArray[Any]]:
    """Draw valid tensors of one shard."""
    random = np.random.RandomState(0)
    arrays: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in shard_layout(content, n, SHAPE, CLASSES).items():
        low, high = (-128, 128) if dtype == np.int8 else (0, CLASSES)
        if name == "delta_signs":
            high = 256
        arrays[name] = random.randint(low, high, shape).astype(dtype)
    return arrays


def _decode(
    content: Content, arrays: Arrays, n: int = NUM_SAMPLES
) -> Arrays:  # as a node does: the digest is that of the bytes
    data = encode_shard(arrays)
    return decode_shard(data, _info(content, data, n=n), _manifest())


@given(st.data(), st.sampled_from(CONTENTS), st.integers(1, 9))
def test_a_shard_comes_back_as_it_went_in(
    data: st.DataObject, content: Content, n: int
) -> None:
    arrays = {}
    for name, (dtype, shape) in shard_layout(content, n, SHAPE, CLASSES).items():
        elements: Any = None
        if dtype == np.float16:
            low = 0.0 if name.endswith("scale") else -65_504.0
            elements = st.floats(low, 65_504.0, width=16)
        arrays[name] = data.draw(hnp.arrays(dtype, shape, elements=elements))
    found = _decode(content, arrays, n)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 256, 256)])
def test_a_full_shard_stays_below_four_mebibytes(
    content: Content, shape: tuple[int, int, int]
) -> None:
    n = samples_per_shard(content, shape, 10)
    assert n >= 1
    layout = shard_layout(content, n, shape, 10)
    arrays = {name: np.zeros(s, dtype) for name, (dtype, s) in layout.items()}
    assert 0.9 * MAX_SHARD_BYTES < len(encode_shard(arrays)) <= MAX_SHARD_BYTES


@pytest.mark.parametrize("flipped", range(8))
def test_a_flipped_bit_of_a_shard_is_refused_by_its_digest(flipped: int) -> None:
    data = bytearray(encode_shard(_arrays("deltas")))
    info = _info("deltas", bytes(data))
    data[-1] ^= 1 << flipped
    with pytest.raises(TrustError, match=r"deltas-0\.safetensors has digest"):
        decode_shard(bytes(data), info, _manifest())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04}q\x00.",  # a pickle
        b"\xff" * 64,
        (2**62).to_bytes(8, "little") + b"{}",
        b"\x02" + b"\0" * 7 + b"{}" + b"left over",
        # a declared shape whose product overflows: refused before anything is made
        (lambda h: len(h).to_bytes(8, "little") + h)(
            b'{"logits":{"dtype":"I8","shape":[4611686018427387904,16],'
            b'"data_offsets":[0,0]}}'
        ),
        (lambda h: len(h).to_bytes(8, "little") + h + b"\0\0")(
            b'{"logits":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
        ),
    ],
)
def test_bytes_that_are_no_shard_are_refused_even_when_signed(data: bytes) -> None:
    with pytest.raises(TrustError) as error:
        decode_shard(data, _info("soft_labels", data or b"x"), _manifest())
    assert "\n" not in str(error.value)


def test_a_pickle_in_the_place_of_a_shard_is_never_loaded(tmp_path: Path) -> None:
    class Traitor:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return Path.touch, (tmp_path / "loaded",)

    data = pickle.dumps(Traitor())
    with pytest.raises(TrustError, match="malformed"):
        decode_shard(data, _info("soft_labels", data), _manifest())
    assert not (tmp_path / "loaded").exists()


@given(st.binary(max_size=200), st.integers(0, 150))
def test_no_signed_garbage_escapes_as_another_error(tail: bytes, keep: int) -> None:
    data = encode_shard(_arrays("soft_labels"))[:keep] + tail
    if data:
        with pytest.raises(TrustError):
            decode_shard(data, _info("soft_labels", data), _manifest())


def _change(content: Content, **changes: Any) -> dict[str, NDArray[Any]]:
    arrays = _arrays(content)
    for name, value in changes.items():
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value
    return arrays


@pytest.mark.parametrize(
    ("content", "changes", "said"),
    [
        ("soft_labels", {"logits_scale": None}, "holds ['logits'], expected"),
        ("soft_labels", {"extra": np.zeros(6, np.int8)}, "holds ['extra', 'logits'"),
        ("soft_labels", {"logits": np.zeros((6, 4), np.uint8)}, "logits is uint8"),
        ("soft_labels", {"logits": np.zeros((6, 5), np.int8)}, "expected int8(6, 4)"),
        ("soft_labels", {"logits": np.zeros((5, 4), np.int8)}, "expected int8(6, 4)"),
        (
            "soft_labels",
            {"logits_scale": np.full(6, np.nan, np.float16)},
            "logits_scale has NaN or infinite",
        ),
        (
            "soft_labels",
            {"logits_scale": np.full(6, -1, np.float16)},
            "logits_scale goes down to -1.0",
        ),
        ("deltas", {"delta_signs": np.zeros((6, 3), np.uint8)}, "expected uint8(6, 2)"),
    ],
)
def test_a_shard_that_is_not_as_declared_is_refused(
    content: Content, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrustError) as error:
        _decode(content, _change(content, **changes))
    assert said in str(error.value)


def test_a_release_of_the_second_schema_is_read_without_what_nobody_reads() -> None:
    data = encode_shard(_arrays("deltas"))
    old = [_info("adv_labels", b"x"), _info("margins", b"y"), _info("deltas", data)]
    manifest = _manifest(*old).model_copy(update={"schema_version": 2})
    found = decode_manifest(encode_manifest(manifest))
    assert found == manifest
    (needed,) = found.shards_for(contents_for("takt", 0))
    assert set(decode_shard(data, needed, found)) == {"delta_signs"}


def test_boundary_points_are_read_without_the_class_that_was_shipped_with_them() -> (
    None
):
    arrays = _arrays("boundary_points")
    old = arrays | {"boundary_class": np.zeros(6, np.uint8)}
    assert set(_decode("boundary_points", old)) == set(arrays)


def test_a_shard_of_another_content_is_refused() -> None:
    data = encode_shard(_arrays("soft_labels"))
    with pytest.raises(TrustError, match="holds"):
        decode_shard(data, _info("deltas", data), _manifest())


def test_a_manifest_comes_back_as_it_went_in() -> None:
    shards = [_info(c, b"x", first=f, n=3) for c in CONTENTS for f in (0, 3)]
    manifest = _manifest(*shards)
    assert decode_manifest(encode_manifest(manifest)) == manifest


def test_fields_of_a_later_takt_are_passed_over() -> None:
    tree = json.loads(encode_manifest(_manifest()))
    tree["later"] = {"a": 1}
    tree["teacher"]["later"] = 2
    assert decode_manifest(json.dumps(tree).encode()) == _manifest()


def _edit(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(tree: Any) -> None:
        *parents, last = path.split(".")
        for key in parents:
            tree = tree[key]
        tree[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (_edit("schema_version", 4), "has schema 4, this takt reads 2 and 3; update"),
        (_edit("schema_version", 1), "has schema 1, this takt reads 2 and 3; update"),
        (_edit("schema_version", None), "has schema None"),
        (_edit("num_samples", 0), "num_samples"),
        (_edit("sample_shape", [1, -3, 5]), "sample_shape"),
        (_edit("sample_shape", [1, 3]), "sample_shape"),
        (_edit("class_names", ["one"]), "class_names"),
        (_edit("eps", 8), "eps"),
        (_edit("norm", "L2"), "norm"),
        (_edit("temperature", float("inf")), "temperature"),
        (_edit("teacher.clean_accuracy", float("nan")), "clean_accuracy"),
        (_edit("students.small.method", "os.system"), "method"),
        (_edit("students.small.later", 1), "later"),
        (_edit("shards", [{}]), "shards"),
    ],
)
def test_a_manifest_with_a_wrong_value_is_refused(
    edit: Callable[[dict[str, Any]], None], said: str
) -> None:
    tree = json.loads(encode_manifest(_manifest()))
    edit(tree)
    with pytest.raises(TrustError) as error:
        decode_manifest(json.dumps(tree).encode())
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a":' + b"9" * 9999]
)
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(TrustError):
        decode_manifest(data)


@pytest.mark.parametrize(
    "path",
    [
        "../digits/3/x",
        "digits/3/../x",
        "/digits/3/x",
        "digits/2/x",
        "other/3/x",
        "digits/3/",
        "digits/3/a/b",
        "digits/3/.hidden",
        "digits/3/a\0b",
        "digits/3/a\nb",
        "x",
    ],
)
def test_a_shard_outside_its_release_is_refused(path: str) -> None:
    info = _info("deltas", b"x").model_copy(update={"path": path})
    with pytest.raises(TrustError, match=r"expected a file directly in digits/3/"):
        decode_manifest(encode_manifest(_manifest(info)))


def test_two_shards_of_one_name_are_refused_also_where_only_case_differs() -> None:
    one = _info("deltas", b"x")
    folder, name = one.path.rsplit("/", 1)
    shouted = {"path": f"{folder}/{name.upper()}"}
    two = _info("boundary_points", b"x").model_copy(update=shouted)
    with pytest.raises(TrustError, match="occurs twice"):
        decode_manifest(encode_manifest(_manifest(one, two)))


@pytest.mark.parametrize(
    "ranges",
    [
        [(0, 3)],  # ends early
        [(0, 3), (4, 2)],  # a hole
        [(0, 4), (3, 3)],  # overlap
        [(0, 6), (6, 1)],  # beyond the samples
        [(1, 5)],  # starts late
    ],
)
def test_shards_must_cover_the_samples_exactly(ranges: list[tuple[int, int]]) -> None:
    shards = [_info("deltas", b"x", first=f, n=n) for f, n in ranges]
    with pytest.raises(TrustError, match="shards of deltas"):
        decode_manifest(encode_manifest(_manifest(*shards)))


def test_a_node_pulls_only_what_its_method_reads() -> None:
    assert contents_for("natural", 0) == set()
    assert contents_for("rslad", 0) == {"soft_labels"}
    assert contents_for("takt", 0) == {"soft_labels", "deltas"}
    assert contents_for("takt", 0.5) == {"soft_labels", "deltas", "boundary_points"}
    shards = [_info(content, b"x") for content in CONTENTS]
    pulled = _manifest(*shards).shards_for(contents_for("takt", 0))
    assert [s.content for s in pulled] == ["soft_labels", "deltas"]


def test_every_method_of_the_config_states_what_it_reads() -> None:
    methods = get_args(StudentConfig.model_fields["method"].annotation)
    for method, weight in itertools.product(methods, (0.0, 1.0)):
        assert contents_for(method, weight) <= set(CONTENTS)


def test_bytes_per_sample_count_headers_too() -> None:
    manifest = _manifest(
        _info("deltas", b"x" * 60, n=3), _info("deltas", b"x" * 30, first=3, n=3)
    )
    assert manifest.bytes_per_sample() == {"deltas": 15.0}


def test_bytes_count_starting_weights_too() -> None:
    robust = _evaluation()
    weights = WeightsInfo(
        path="digits/3/weights-small.safetensors",
        num_bytes=120,
        sha256="a" * 64,
        architecture="cnn_small",
        num_parameters=10,
        clean_accuracy=0.9,
        robust=robust,
    )
    manifest = _manifest(_info("deltas", b"x" * 60))
    manifest = manifest.model_copy(update={"weights": {"small": weights}})
    assert manifest.bytes_per_sample() == {"deltas": 10.0, "weights": 20.0}
    assert manifest.num_bytes == 180


@pytest.mark.parametrize("images", ["same", "transfer"])
def test_a_students_card_says_whether_its_release_ships_the_images(images: str) -> None:
    recipe = StudentConfig(
        model="cnn_tiny", attack=AttackConfig(step_size=0.1), epochs=1
    )
    manifest = _manifest().model_copy(update={"images": images, "sample_shape": SHAPE})
    card = student_card(manifest, recipe, seed=0)
    assert card.images == images
    assert ("images" in card.model_dump()) == (images == "transfer")
