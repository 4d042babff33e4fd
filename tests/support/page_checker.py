"""What an HTML page of takt consists of: tags, links, pictures, texts."""

import html.parser

VOID = {"meta", "br", "path", "circle", "img"}


class PageChecker(html.parser.HTMLParser):
    """Collects what a page consists of and insists on matched tags."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []  # drawings
        self.photos: list[dict[str, str | None]] = []  # of pixels
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.attributes |= set(found)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "svg" and "aria-hidden" not in found:
            self.images.append(found)
        if tag == "img":
            self.photos.append(found)
        for name in ("href", "src"):
            if found.get(name):
                self.links.append(str(found[name]))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        """All texts, each gap a single space."""
        return " ".join(" ".join(self.text).split())


def checked(page: str) -> PageChecker:
    """Parse a page, and insist that every tag is closed."""
    checker = PageChecker()
    checker.feed(page)
    assert checker.open == []
    return checker
