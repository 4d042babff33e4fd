"""Records and their messages: what crosses the wire comes back as it was."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import ProfileConfig
from common.pb import takt_pb2 as pb
from common.records import (
    Cap,
    CpuSeconds,
    CurvePoint,
    Evaluation,
    Profile,
    Record,
    from_wire,
    to_wire,
)

MESSAGES = {
    kind.__name__: getattr(pb, kind.__name__)
    for kind in (Cap, CpuSeconds, CurvePoint, Evaluation, Profile)
}
FRACTIONS = st.floats(0, 1)
SECONDS = st.floats(0, 1e9)
UINT32 = st.integers(0, 2**32 - 1)
RECORDS = st.one_of(
    st.builds(Cap, method=st.text(), hard=st.booleans()),
    st.builds(CpuSeconds, distil=SECONDS, attack=SECONDS, evaluate=SECONDS),
    st.builds(
        CurvePoint,
        epoch=UINT32,
        cpu_s=SECONDS,
        clean_accuracy=st.none() | FRACTIONS,
        robust_accuracy=st.none() | FRACTIONS,
    ),
    st.builds(
        Evaluation,
        attack=st.text(),
        version=st.text(),
        norm=st.text(),
        eps=FRACTIONS,
        num_images=UINT32,
        accuracy=FRACTIONS,
        seed=st.integers(-(2**63), 2**63 - 1),
        flags=st.lists(st.text()).map(tuple),
    ),
    st.builds(
        Profile,
        cpus=st.floats(0, 1e5),
        memory_mib=UINT32,
        bandwidth_kib_s=UINT32,
    ),
)


@given(RECORDS)
def test_a_record_comes_back_from_the_wire_as_it_was(record: Record) -> None:
    kind = type(record)
    message = MESSAGES[kind.__name__]()
    to_wire(record, message)
    received = type(message).FromString(message.SerializeToString())
    assert from_wire(kind, received) == record


@given(RECORDS)
def test_a_record_comes_back_from_a_file_as_it_was(record: Record) -> None:
    kind = type(record)
    assert kind.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("kind", [Cap, CpuSeconds, CurvePoint, Evaluation, Profile])
def test_a_record_has_the_fields_of_its_message(kind: type[Record]) -> None:
    fields = {field.name for field in MESSAGES[kind.__name__].DESCRIPTOR.fields}
    assert set(kind.model_fields) == fields


def test_the_bytes_of_a_message_are_those_of_its_fields() -> None:
    message = pb.CurvePoint()
    to_wire(CurvePoint(epoch=2, cpu_s=0.5, robust_accuracy=0.0), message)
    same = pb.CurvePoint(epoch=2, cpu_s=0.5, robust_accuracy=0.0)
    assert message.SerializeToString() == same.SerializeToString()


def test_what_was_not_measured_is_not_zero() -> None:
    point = from_wire(CurvePoint, pb.CurvePoint(epoch=1, clean_accuracy=0.0))
    assert (point.clean_accuracy, point.robust_accuracy) == (0.0, None)


def test_a_model_with_more_fields_sends_those_of_the_message() -> None:
    config = ProfileConfig(cpus=0.5, memory_mib=500, bandwidth_kib_s=64, delay_ms=9)
    message = pb.Profile()
    to_wire(config, message)
    assert message == pb.Profile(cpus=0.5, memory_mib=500, bandwidth_kib_s=64)


def test_fields_of_a_later_takt_are_left_out() -> None:
    tree = {"method": "cgroup v2", "hard": True, "swap": 0}
    assert Cap.model_validate_json(json.dumps(tree)) == Cap(
        method="cgroup v2", hard=True
    )
