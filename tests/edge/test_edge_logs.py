"""The daemon's log: one line a record, in the format that the config names."""

import io
import json
import logging
import re
import shlex
from collections.abc import Iterator

import pytest

from common.logs import LogFormat, log_to


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(log_format: LogFormat, message: str, *arguments: object) -> str:
    stream = io.StringIO()
    log_to(stream, log_format, node="porch")
    logging.getLogger("edge.daemon.status").info(message, *arguments)
    return stream.getvalue()


def test_json_lines_are_read_back() -> None:
    record = json.loads(logged("json", "idle %s\n%d", 'a "b"', 3))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z", record.pop("time"))
    assert record == {
        "level": "info",
        "node": "porch",
        "logger": "edge.daemon.status",
        "message": 'idle a "b"\n3',
    }


def test_logfmt_lines_are_read_back() -> None:
    line = logged("logfmt", 'cannot write "x": a=b')
    fields = dict(word.split("=", 1) for word in shlex.split(line))
    assert fields["level"] == "info"
    assert fields["node"] == "porch"
    assert fields["message"] == 'cannot write "x": a=b'


@pytest.mark.parametrize("log_format", ["text", "logfmt", "json"])
def test_a_record_is_one_line_whatever_is_in_it(log_format: LogFormat) -> None:
    line = logged(log_format, "two\nlines \x1b[31m\r\u2028and more")
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_a_traceback_is_a_field_of_its_record(log_format: LogFormat) -> None:
    stream = io.StringIO()
    log_to(stream, log_format, node="porch")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("edge").exception("failed")
    assert "ValueError: broken" in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 1


def test_text_is_for_people() -> None:
    assert logged("text", "idle").endswith("INFO edge.daemon.status: idle\n")


def test_a_traceback_for_people_has_lines_and_steers_no_terminal() -> None:
    stream = io.StringIO()
    log_to(stream, "text", node="porch")
    try:
        raise ValueError("\x1b[2Jbroken\x9b1m")
    except ValueError:
        logging.getLogger("edge").exception("failed")
    assert "ValueError: \\x1b[2Jbroken\\x9b1m" in stream.getvalue()
    assert all(line.isprintable() for line in stream.getvalue().splitlines())
