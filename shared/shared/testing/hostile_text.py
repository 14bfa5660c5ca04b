"""Text from data that would be code in a page, and the check that a report shows it as text: for every package's tests.

work = shutil.copytree(prepared, tmp_path / EVIL_NAME)
finished(command, work)
assert_only_text(run / "report.html", EVIL_NAME)
"""

from html.parser import HTMLParser
from pathlib import Path

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' onload=x &amp; $\\x$"  # $...$: also no formula
EVIL_NAME = "<script>alert(1)<b>\"'&amp;$\\x$"  # the same as a file name


class Page(HTMLParser):
    """A page's elements as (tag, attributes), and its visible text."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def assert_only_text(file: Path, *texts: str) -> None:
    """The report holds each text as text, runs nothing, and fetches nothing."""
    page = Page(file.read_text(encoding="utf-8"))
    assert not {"script", "b", "iframe", "object", "link"} & {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in page.of("img"))
    shown = "".join(page.texts)
    for text in texts:
        assert text in shown, f"{file} does not show {text!r}"
