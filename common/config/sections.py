"""What the tables of a config file have in common, and the values that several hold.

Not here: the tables themselves, and reading them (run.py).
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from common.address import parse_address, parse_certificate_host, parse_host
from common.catalog import METHODS, check_name
from common.errors import ConfigError
from common.model_names import check_model, check_student_model
from common.names import PATTERN


def _fraction(value: object) -> object:
    """Turn ``"8/255"`` into a float; leave everything else to pydantic."""
    if isinstance(value, str):
        try:
            return float(Fraction(value))
        except (ValueError, ZeroDivisionError, OverflowError):
            return value
    return value


def _known(check: Callable[[str], str]) -> Callable[[str], str]:
    """Make a validator that refuses names which are not known."""

    def checked(name: str) -> str:
        try:
            return check(name)
        except ConfigError as e:
            raise ValueError(str(e)) from e

    return checked


def _written_as(parse: Callable[[str], object]) -> AfterValidator:
    """Make a validator that puts an address or host into its one written form."""

    def checked(text: str) -> str:
        try:
            return str(parse(text))
        except ValueError as e:  # this kind of error is shown with the value
            raise PydanticCustomError("address", "{why}", {"why": str(e)}) from e

    return AfterValidator(checked)


check_architecture = _known(check_model)
check_student_architecture = _known(check_student_model)

# Not checked: a node reads the recipes of releases that a later takt has made.
AnyArchitecture = Annotated[str, Field(json_schema_extra={"unit": "model"})]
Architecture = Annotated[AnyArchitecture, AfterValidator(check_architecture)]
Method = Annotated[
    str,
    AfterValidator(_known(lambda name: check_name("method", name, METHODS))),
    Field(json_schema_extra={"enum": [*METHODS]}),
]
Pixels = Annotated[
    float,
    BeforeValidator(_fraction),
    Field(gt=0, le=1, json_schema_extra={"unit": "pixel scale"}),
]
Address = Annotated[
    str, _written_as(parse_address), Field(json_schema_extra={"unit": "host:port"})
]
ProxyAddress = Annotated[
    str,
    _written_as(lambda text: text if text == "none" else parse_address(text)),
    Field(json_schema_extra={"unit": "proxy"}),
]
BoundHost = Annotated[str, _written_as(lambda text: text and parse_host(text))]
CertificateHost = Annotated[str, _written_as(parse_certificate_host)]


def _from_its_file(path: Path, info: ValidationInfo) -> Path:
    """Expand ~ and count from the file's folder, where a file is being read."""
    if "\0" in str(path):
        raise ValueError("a path holds no NUL character; remove it")
    if info.context is None:
        return path
    try:
        return Path(info.context["folder"], path.expanduser())
    except RuntimeError as e:
        raise ValueError(
            f"cannot tell whose home {path} begins with; write the whole path"
        ) from e


# A path key of a config file; `toml_file` says in which folder the file lies.
FilePath = Annotated[Path, AfterValidator(_from_its_file)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what every generator of ours takes
Name = Annotated[str, Field(pattern=f"^{PATTERN}$")]


class Section(BaseModel):
    """One table of the config file: frozen, strict, and no unknown keys.

    The docstring under a field is its description, which the documentation prints.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
