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


def test_no_part_of_cloud_or_edge_waits_by_the_wall_clock() -> None:
    asking = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("cloud", "common", "edge")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and ast.unparse(node) == "time.time")
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and "time" in {name.name for name in node.names}
        )
    ]
    assert asking == []
