"""Three folders that the planner has not seen, each made anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


def web(top: Path) -> Path:
    """A small web project, with what is passed by and a link."""
    for name, text in {
        "index.html": "<html><script src=app.js></script>\n<!-- TODO: a title -->\n</html>",
        "app.js": "function main() {\n  // TODO: routes\n  return 1\n}\n" * 20,
        "css/site.css": "body { color: red; margin: 0 }\n" * 50,
        "README.md": "# A site\n\nTODO write\n",
        "node_modules/left/index.js": "function left() {} // TODO\n",
        ".env": "NAME=value\n",
    }.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (top / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0" + bytes(range(256)) * 40)
    (top / "home.html").symlink_to("index.html")
    (top / "gone.html").symlink_to("nowhere.html")
    return top


def data(top: Path) -> Path:
    """Data with many lines, binaries, odd names, and what may not be read."""
    top.mkdir(parents=True)
    (top / "rows.csv").write_text("".join(f"{n},name {n},{n * 7 % 1000}\n" for n in range(200_000)))
    names = ["a b.txt", "new\nline.txt", "-rf", "quote'\".csv", "*.csv", "x | y.txt", "total", "$HOME", "ünï.txt"]
    for name in names:
        (top / name).write_text(f"error in {name!r}\nTODO, and no line feed")
    with open(os.fsencode(top) + b"/\xff\xfe.dat", "wb") as file:
        file.write(b"\xff\xfe TODO\n")
    (top / "numbers.bin").write_bytes(os.urandom(70_000) + b"\0")
    (top / "empty.csv").touch()
    (top / "secret.txt").write_text("nobody may read this\n")
    (top / "secret.txt").chmod(0)
    (top / "closed").mkdir()
    (top / "closed" / "inside.txt").write_text("nor this\n")
    (top / "closed").chmod(0)
    os.mkfifo(top / "pipe")
    return top


def deep(top: Path) -> Path:
    """A deep tree with many small files and a few large ones."""
    folder = top
    for level in range(30):
        folder = folder / f"level-{level:02}"
        folder.mkdir(parents=True)
        for number in range(15):
            (folder / f"note-{number}.py").write_text(
                f"import os\ndef f{number}():  # TODO {level}\n    return {number}\n"
            )
    (folder / "long.log").write_text("ERROR one line without an end " * 60_000)
    (top / "level-00" / "large.txt").write_text("the same line and again\n" * 90_000)
    return top


@pytest.fixture(scope="session")
def trees() -> dict[str, Callable[[Path], Path]]:
    """What makes them, by name."""
    return {"web": web, "data": data, "deep": deep}
