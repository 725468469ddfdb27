"""What the documentation build does not look at: links from the files outside docs/, and the list of decisions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name: str) -> None:
    targets = [match[1] for match in LINK.finditer((TOP / name).read_text())]
    assert [target for target in targets if not (TOP / target).exists()] == []


def test_the_readme_links_to_the_documentation() -> None:
    assert LINK.findall((TOP / "README.md").read_text())


def test_every_decision_is_in_the_list() -> None:
    folder = TOP / "docs" / "decisions"
    listed = set(LINK.findall((folder / "index.md").read_text()))
    assert {page.name for page in folder.glob("0*.md")} == listed
