"""Draw what ``scripts/bench-peers --json FILE`` measured.

One picture a row, with a bar for each peer and store; and a table of Markdown on stdout.

python scripts/benchmarks/peers/draw.py docs/benchmarks/peers.json docs/pictures
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

TITLES = {
    "ten": ("Ten rounds of model and tool", "ms", 1.0),
    "turn": ("One more turn after 5,000 messages", "ms", 1.0),
    "agents": ("{agents:,} agents at once, three rounds each, a model that takes 50 ms", "s", 1e3),
}
NAMES = {
    "kode": "KODE",
    "langgraph": "LangGraph",
    "openai-agents": "OpenAI Agents",
    "pydantic-ai": "pydantic-ai",
    "dbos": "DBOS",
}
LEFT, WIDTH, LINE, TOP = 270, 780, 22, 44
OURS, THEIRS, INK = "#2563eb", "#94a3b8", "#334155"


@dataclass(frozen=True)
class Bar:
    """One figure."""

    label: str
    value: float
    ours: bool


def bars(figures: dict[str, list[dict[str, float | str]]], row: str) -> list[Bar]:
    """The medians of a row; shortest first."""
    scale = TITLES[row][2]
    found = [
        Bar(f"{NAMES[peer]}, {line['store']}", float(line["median"]) / scale, peer == "kode")
        for peer in NAMES
        for line in figures.get(peer, ())
        if line.get("row") == row
    ]
    return sorted(found, key=lambda bar: bar.value)


def picture(row: str, shown: list[Bar], agents: int) -> str:
    """As SVG. The bars share one linear scale that begins at nothing."""
    title, unit, _ = TITLES[row]
    title = title.format(agents=agents)
    longest = max(bar.value for bar in shown)
    height = TOP + LINE * len(shown) + 12
    room = WIDTH - LEFT - 80
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15" font-weight="bold" fill="{INK}">{escape(title)}, {unit}</text>',
    ]
    for n, bar in enumerate(shown):
        y = TOP + n * LINE
        length = max(1.0, bar.value / longest * room)
        colour = OURS if bar.ours else THEIRS
        weight = ' font-weight="bold"' if bar.ours else ""
        lines += [
            f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end" fill="{INK}"{weight}>{escape(bar.label)}</text>',
            f'<rect x="{LEFT}" y="{y + 2}" width="{length:.1f}" height="{LINE - 7}" fill="{colour}"/>',
            f'<text x="{LEFT + length + 6:.1f}" y="{y + 13}" fill="{INK}"{weight}>{bar.value:,.3g}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def table(figures: dict[str, list[dict[str, float | str]]]) -> list[str]:
    """All rows as a table of Markdown: the lowest and the median of each."""
    rows = ["| | " + " | ".join(title.format(agents=1_000) + ", " + unit for title, unit, _ in TITLES.values()) + " |"]
    rows.append("|---" * (len(TITLES) + 1) + "|")
    for peer, name in NAMES.items():
        lines = [line for line in figures.get(peer, ()) if "row" in line]
        for store in dict.fromkeys(str(line["store"]) for line in lines):
            cells = []
            for row, (_, _, scale) in TITLES.items():
                found = [line for line in lines if line["row"] == row and line["store"] == store]
                told = [f"{float(line[part]) / scale:.3g}" for line in found for part in ("min", "median")]
                cells.append(" / ".join(dict.fromkeys(told)))
            rows.append(f"| {name}, {store} | " + " | ".join(cells) + " |")
    return rows


def main(source: str, folder: str) -> None:
    """Write the pictures, and the table to stdout."""
    figures = json.loads(Path(source).read_text())
    for row in TITLES:
        shown = bars(figures, row)
        if shown:
            Path(folder, f"peers-{row}.svg").write_text(picture(row, shown, figures["agents"]))
    print("\n".join(table(figures)))


if __name__ == "__main__":
    main(*sys.argv[1:])
