"""Draw the state diagrams of the documentation as SVG while its site is built, so that a page loads nothing.

States are columns and each change is an arrow in a row of its own, so nothing ever overlaps. A page holds the diagram
as Mermaid, which code forges draw by themselves.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

ARROW = re.compile(r"^\s*(\S+) --> ([^\s:]+)(?:: (.*))?$")
COLUMN, ROW, TOP, SIDE = 172, 34, 46, 90


def arrows(diagram: str) -> list[tuple[str, str, str]]:
    """Read `A --> B: why` line by line; a line of another kind than that or the title is refused."""
    title, *lines = diagram.strip().splitlines()
    if title != "stateDiagram-v2":
        raise ValueError(f"only stateDiagram-v2 is drawn, not {title!r}; write a table, or teach scripts/drawing.py")
    found = [ARROW.match(line) for line in lines]
    for line, match in zip(lines, found, strict=True):
        if match is None:
            raise ValueError(f"{line!r} is not of the form 'A --> B: why'")
    return [(each[1], each[2], each[3] or "") for each in found if each]


def draw(diagram: str) -> str:
    """Draw a diagram."""
    edges = arrows(diagram)
    states = list(dict.fromkeys(name for start, end, _ in edges for name in (start, end)))
    x = {name: SIDE + n * COLUMN for n, name in enumerate(states)}
    width, height = 2 * SIDE + (len(states) - 1) * COLUMN, TOP + len(edges) * ROW + 20
    size = f'viewBox="0 0 {width} {height}" style="min-width: {len(states) * 6}rem"'
    parts = [f'<svg {size} role="img" xmlns="http://www.w3.org/2000/svg">']
    for name in states:
        shown = escape(name.replace("[*]", "●"))
        parts.append(f'<line class="life" x1="{x[name]}" y1="{TOP - 14}" x2="{x[name]}" y2="{height - 4}"/>')
        parts.append(f'<rect x="{x[name] - 80}" y="4" width="160" height="28" rx="6"/>')
        parts.append(f'<text class="state" x="{x[name]}" y="23">{shown}</text>')
    for n, (start, end, why) in enumerate(edges):
        y, left, right = TOP + n * ROW + 22, x[start], x[end]
        side = 1 if right > left else -1
        tip = right - side
        parts.append(f'<line class="arrow" x1="{left}" y1="{y}" x2="{tip}" y2="{y}"/>')
        parts.append(f'<path class="tip" d="M{tip} {y} l{-9 * side} -4 v8 z"/>')
        parts.append(f'<text class="why" x="{(left + right) / 2}" y="{y - 6}">{escape(why)}</text>')
    return "".join([*parts, "</svg>"])


def fence(source: str, language: str, css_class: str, options: object, md: object, **_: Any) -> str:
    """Stand in a page for a fenced block, as pymdownx.superfences asks."""
    return f'<div class="{css_class}">{draw(source)}</div>'
