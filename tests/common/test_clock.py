"""One owner of the wall clock."""

import ast
from datetime import timedelta
from pathlib import Path

from common.clock import utc_now

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cloud", "common", "deploy", "edge")


def test_the_time_comes_with_its_zone() -> None:
    assert utc_now().utcoffset() == timedelta(0)


def test_no_other_module_asks_for_the_date() -> None:
    asking = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in ("now", "utcnow")
        and ast.unparse(node.value) == "datetime"
    ]
    assert asking == ["common/clock.py"]
