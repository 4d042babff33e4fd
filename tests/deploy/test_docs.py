"""The documentation: its made parts are up to date."""

from pathlib import Path

import pytest

from deploy.dev.docs import names_on, pages, parts_of, put, up_to_date

ROOT = Path(__file__).resolve().parents[2]
PARTS = parts_of()


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_page_is_what_its_makers_make(page: Path) -> None:
    text = page.read_text()
    assert text == up_to_date(text, PARTS), "run: python -m deploy.dev.docs"


def test_every_part_that_is_made_stands_on_one_page() -> None:
    shown = [name for page in pages() for name in names_on(page.read_text())]
    assert sorted(name for name in shown if name in PARTS) == sorted(PARTS)


def test_a_part_replaces_what_stood_between_its_marks_and_nothing_else() -> None:
    page = "before\n<!-- a -->\nold\n<!-- /a -->\nafter\n"
    assert put(page, "a", "new") == page.replace("old", "new")


def test_a_part_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="expected <!-- a --> and <!-- /a -->"):
        put("<!-- a -->\nno end\n", "a", "new")
