"""What the site is made of: pages drawn from the code are current, links lead somewhere, every page is told of."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("packages/*/*.md"))]


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(SCRIPTS / name))


@pytest.fixture(scope="module")
def draw() -> dict[str, Any]:
    return script("draw_docs.py")


@pytest.fixture(scope="module")
def site() -> dict[str, Any]:
    return script("build_site.py")


def test_what_is_drawn_is_current(draw: dict[str, Any]) -> None:
    stale = [page for page in draw["pages"]() if draw["drawn"](page.read_text()) != page.read_text()]
    assert stale == [], "run scripts/draw-docs"


def test_everything_that_can_be_drawn_is_shown(draw: dict[str, Any]) -> None:
    shown = {name for page in draw["pages"]() for _, name, _ in draw["PIECE"].findall(page.read_text())}
    assert shown == set(draw["DRAWN"])
    # A piece whose end is missing would never be compared.
    for page in PAGES:
        text = page.read_text()
        assert text.count("<!-- drawn: ") == len(draw["PIECE"].findall(text)), page


def test_a_change_in_the_code_would_be_seen(draw: dict[str, Any]) -> None:
    page = ROOT / "docs/concepts/agents.md"
    text = page.read_text().replace("`AWAITING_APPROVAL`", "`ASKING`")
    assert text != page.read_text()
    assert draw["drawn"](text) == page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in target or (page.parent / target).exists(), target


def test_every_page_is_told_of(site: dict[str, Any]) -> None:
    navigation = site["navigation"](["kode.core", "kode.core.store", "kode.core.store.base"])
    assert [next(iter(section)) for section in navigation][:3] == ["KODE", "Begin", "Concepts"]
    assert navigation[-1] == {
        "Reference": [
            {"kode.core": "reference/kode.core.md"},
            {
                "kode.core.store": [
                    {"kode.core.store": "reference/kode.core.store.md"},
                    {"kode.core.store.base": "reference/kode.core.store.base.md"},
                ]
            },
        ]
    }


def test_links_move_along(site: dict[str, Any], tmp_path: Path) -> None:
    pages = site["Pages"](tmp_path)
    page = ROOT / "docs/guides/tools.md"
    said = (
        "[a](../../README.md) [b](models.md#keys) [c](https://example.org/x) [d](#here) "
        "[e](../../packages/kode-core/src/kode/core/errors.py) [f](../../tests) ![g](../pictures/demo.svg)\n"
    )
    moved = (
        "[a](../index.md) [b](models.md#keys) [c](https://example.org/x) [d](#here) "
        "[e](../files/packages/kode-core/src/kode/core/errors.py.txt) f ![g](../docs/pictures/demo.svg)\n"
    )
    assert pages._moved(said, page) == moved
    assert (tmp_path / "docs/pictures/demo.svg").exists()
    assert (tmp_path / "files/packages/kode-core/src/kode/core/errors.py.txt").exists()


def test_a_diagram_shows_every_arrow() -> None:
    sys.path.insert(0, str(SCRIPTS))
    try:
        drawing = script("drawing.py")
    finally:
        sys.path.remove(str(SCRIPTS))
    picture = drawing["draw"]("stateDiagram-v2\n    [*] --> A\n    A --> B: a < b\n    B --> A: back\n")
    assert picture.count('class="arrow"') == picture.count('class="tip"') == 3
    assert picture.count('class="state"') == 3
    assert "a &lt; b" in picture
    with pytest.raises(ValueError, match="is not of the form"):
        drawing["draw"]("stateDiagram-v2\n    A -> B\n")
    with pytest.raises(ValueError, match="only stateDiagram-v2"):
        drawing["draw"]("flowchart TD\n    A --> B\n")
