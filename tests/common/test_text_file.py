"""Text that a user wrote is read whoever saved it, and else it is said why not."""

from pathlib import Path

from common.text_file import read_text, reason_of


def reason(path: Path) -> str:
    try:
        return f"read: {read_text(path)}"
    except (OSError, ValueError) as e:
        return reason_of(e)


def test_a_byte_order_mark_is_none_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfgr\xc3\xbcn\n")
    assert read_text(tmp_path / "file") == "gr\u00fcn\n"


def test_a_missing_file_has_the_systems_reason_without_its_number(
    tmp_path: Path,
) -> None:
    assert reason(tmp_path / "file") == "No such file or directory"


def test_bytes_that_are_no_utf8_are_said_to_be_no_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes("gr\u00fcn".encode("latin-1"))
    assert reason(tmp_path / "file") == "not UTF-8 text"


def test_a_parsers_words_are_one_line() -> None:
    assert reason_of(ValueError("no value\n(at line 3)")) == "no value (at line 3)"
