"""Records that cross the wire or that several files hold, and their one codec.

A node measures `CpuSeconds`, `CurvePoint` and `Evaluation`, reports them with its
`Profile` and `Cap`, and they end in result.json. Each of them has a message of the
same name in the wire contract; `to_wire` and `from_wire` convert between the
two by the message's own list of fields. Torch-free. Not here: the messages themselves
(common.pb), bounds on what a node may report (cloud.fleet.bounds), and records that
belong to one file alone.
"""

from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:  # the codec needs a message only, not protobuf
    from google.protobuf.message import Message


# Metadata of a node's unary calls: its machine and state folder, to tell two apart.
PLACE_METADATA = "takt-place"


class Record(BaseModel):
    """One JSON object: frozen; fields of later takts are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Evaluation(Record):
    """A robust accuracy with everything that gives it meaning (design, section 8)."""

    attack: str
    version: str
    norm: str
    eps: float
    num_images: int
    accuracy: float = Field(ge=0, le=1)
    seed: int
    flags: tuple[str, ...] = ()


class CpuSeconds(Record):
    """Where a distillation's CPU time went."""

    distil: float = Field(ge=0)  # training, attack included
    attack: float = Field(ge=0)  # of which: crafting adversarial examples
    evaluate: float = Field(ge=0)


class CurvePoint(Record):
    """A student after an epoch, on the node's validation split."""

    epoch: int = Field(ge=0)  # counted from 1
    cpu_s: float = Field(ge=0)  # of training so far, attack included
    clean_accuracy: float | None = None  # None: not measured
    robust_accuracy: float | None = None


class Profile(Record):
    """The caps that a node was given."""

    cpus: float
    memory_mib: int
    bandwidth_kib_s: int


class Cap(Record):
    """Which method holds the caps; `hard` is false for the watchdog's fallback."""

    method: str
    hard: bool


RecordT = TypeVar("RecordT", bound=Record)


def to_wire(record: BaseModel, message: "Message") -> None:
    """Set every field of a message from the record's field of that name.

    A field that is None is left out. What the record holds beyond the message's
    fields stays behind.

    Args:
        record: a record of this module, or a model that has its fields.
        message: the empty message of that name.
    """
    for field in message.DESCRIPTOR.fields:
        value = getattr(record, field.name)
        if field.is_repeated:
            getattr(message, field.name).extend(value)
        elif value is not None:
            setattr(message, field.name, value)


def from_wire(kind: type[RecordT], message: "Message") -> RecordT:
    """Make a record from a message; an optional field that is not set is None.

    Raises:
        ValidationError: a value is out of the record's bounds. Messages that the
            gateway has accepted have none.
    """
    return kind.model_validate(
        {
            field.name: getattr(message, field.name)
            for field in message.DESCRIPTOR.fields
            if not field.has_presence or message.HasField(field.name)
        }
    )
