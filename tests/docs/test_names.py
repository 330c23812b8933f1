"""What the documents name is there: linked files, and tests and benchmarks that hold a promise."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
NAME = re.compile(r"`((?:tests|bench|src|images)/[\w./]+?)(?:::(\w+))?`")


def _missing(page: Path) -> Iterator[str]:
    text = page.read_text()
    for target in LINK.findall(text):
        if not (page.parent / target).exists():
            yield target
    for path, function in NAME.findall(text):
        file = ROOT / path
        if not file.exists():
            yield path
        elif function and f"def {function}(" not in file.read_text():
            yield f"{path}::{function}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    assert list(_missing(page)) == []
