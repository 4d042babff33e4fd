"""The documentation: its made parts are up to date, its links lead somewhere."""

import re
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


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.replace(" ", "-") for title in plain}


def broken_links(page: Path) -> list[str]:
    """Relative links of a page whose file or anchor does not exist."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_relative_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_link_to_a_missing_file_or_heading_is_found(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(
        "# A `takt` page, here\n[a](#a-takt-page-here) [b](README.md) "
        "[c](https://example.org/x) [d](gone.md) [e](#gone) [f](README.md#gone)\n"
    )
    assert broken_links(page) == ["gone.md", "#gone", "README.md#gone"]


def test_the_first_page_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


def test_the_first_pages_release_is_as_large_as_in_the_run_that_it_shows() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    said = re.search(r"signed \*release\*, (\d+) KiB below", text)
    shown = re.search(r"publish done in \S+ s: digits v1: ([\d.]+) KiB", text)
    assert said
    assert shown
    assert int(said[1]) == round(float(shown[1]))
