"""What scripts/docs runs: lay the site's pages out in build/docs, then let mkdocs build them, strictly.

The pages are those of the repository: its README, `docs/`, what stands at its top, and the wheels' own. Links among
them are moved along; a file that is no page is laid beside them. The reference is made from the docstrings of every
public name.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# How a command is used is in its guide; how it is made is not for its users.
UNTOLD = ("kode.cli",)


def places() -> dict[Path, str]:
    """Say where each page of the repository is on the site."""
    found = {ROOT / "README.md": "index.md", ROOT / "docs/README.md": "pages.md"}
    for page in sorted((ROOT / "docs").rglob("*.md")):
        found.setdefault(page, page.relative_to(ROOT / "docs").as_posix().replace("README.md", "index.md"))
    for page in sorted(ROOT.glob("*.md")):
        found.setdefault(page, f"project/{page.name.lower()}")
    for wheel in sorted((ROOT / "packages").iterdir()):
        found[wheel / "README.md"] = f"wheels/{wheel.name}.md"
        found[wheel / "CHANGELOG.md"] = f"wheels/{wheel.name}-changes.md"
    return {page: place for page, place in found.items() if page.exists()}


class Pages:
    """Pages on their way to the site."""

    def __init__(self, target: Path) -> None:
        """Begin with nothing."""
        self.target = target
        self.places = places()

    def lay(self, page: Path) -> None:
        """Lay one out; what it links to keeps its meaning."""
        text, pieces, end = page.read_text(), [], 0
        for block in FENCE.finditer(text):
            pieces += [self._moved(text[end : block.start()], page), block[0]]
            end = block.end()
        self.write(self.places[page], "".join([*pieces, self._moved(text[end:], page)]))

    def write(self, place: str, text: str) -> None:
        """Write a page, or anything else that is text."""
        path = self.target / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _moved(self, text: str, page: Path) -> str:
        def new(link: re.Match[str]) -> str:
            mark, words, address = link.groups()
            path, hash_, anchor = address.partition("#")
            if "://" in address or not path:
                return link[0]
            there = self._there((page.parent / path).resolve())
            if there is None:
                return words
            here = PurePosixPath(self.places[page]).parent
            return f"{mark}[{words}]({os.path.relpath(there, here)}{hash_}{anchor})"

        return LINK.sub(new, text)

    def _there(self, target: Path) -> str | None:
        """Where on the site a file of the repository is; a folder without a page is nowhere."""
        if target.is_dir():
            target /= "README.md"
        if target in self.places:
            return self.places[target]
        if not target.is_file():
            return None
        name = target.relative_to(ROOT).as_posix()
        place = name if target.suffix in {".svg", ".png"} else f"files/{name}.txt"
        (self.target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(target, self.target / place)
        return place


# ---- the reference ----------------------------------------------------------------------------------------------


def modules() -> Iterator[ModuleType]:
    """The modules whose names are told of."""
    for module in runpy.run_path(str(ROOT / "tests/architecture/public_api.py"))["modules"]():
        if getattr(module, "__all__", ()) and not module.__name__.startswith(UNTOLD):
            yield module


def is_own(module: ModuleType, name: str) -> bool:
    """Whether a module defines a public name, and does not only pass it on."""
    thing = getattr(module, name)
    if not hasattr(thing, "__qualname__"):  # a value, which does not say where it is from; a package defines none
        return not hasattr(module, "__path__")
    home: str = thing.__module__
    return home == module.__name__ or not home.startswith("kode.")


def reference(module: ModuleType) -> str:
    """The page of a module: what it passes on in a table, then what it defines."""
    own = [name for name in module.__all__ if is_own(module, name)]
    lines = [f"# {module.__name__}", ""]
    if not own:
        lines += [inspect.getdoc(module) or "", ""]
    if passed := [name for name in module.__all__ if name not in own]:
        lines += ["| name | |", "|---|---|"]
        for name in passed:
            thing = getattr(module, name)
            shown, words = f"`{name}`", getattr(thing, "description", "")
            if hasattr(thing, "__qualname__"):
                shown, words = f"[{shown}][{thing.__module__}.{thing.__qualname__}]", inspect.getdoc(thing) or ""
            summary = words.partition("\n")[0].replace("|", "\\|")
            lines.append(f"| {shown} | {summary} |")
    if own:
        members = json.dumps(own)
        lines += ["", f"::: {module.__name__}", "    options:", "      show_root_heading: false"]
        lines += ["      show_root_toc_entry: false", f"      members: {members}"]
    return "\n".join([*lines, ""])


# ---- the navigation ---------------------------------------------------------------------------------------------


def navigation(names: list[str]) -> list[object]:
    """Order the pages as docs/README.md does, which must tell of each; then the reference."""
    sections: list[object] = [{"KODE": ["index.md", "pages.md"]}]
    home, there = ROOT / "docs", places()
    told = {there[home / "README.md"], "index.md"}
    for title, text in re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", (home / "README.md").read_text(), re.M | re.S):
        pages = [there[(home / link).resolve()] for link in re.findall(r"\]\((\S+?)\)", text)]
        told.update(pages)
        sections.append({title: pages})
    decisions = sorted(place for place in there.values() if place.startswith("decisions/"))
    sections.append({"Decisions": decisions})
    if untold := sorted(set(there.values()) - told - set(decisions)):
        raise SystemExit(f"docs/README.md does not tell of: {', '.join(untold)}")
    parts: dict[str, list[object]] = {}
    for name in names:
        parts.setdefault(".".join(name.split(".")[:3]), []).append({name: f"reference/{name}.md"})
    reference = [pages[0] if len(pages) == 1 else {name: pages} for name, pages in parts.items()]
    return [*sections, {"Reference": reference}]


def main() -> int:
    """Lay it out and build it."""
    target = BUILD / "docs"
    shutil.rmtree(target, ignore_errors=True)
    pages = Pages(target)
    for page in pages.places:
        pages.lay(page)
    shutil.copyfile(ROOT / "docs/site.css", target / "site.css")
    told = {module.__name__: reference(module) for module in modules()}
    for name, text in told.items():
        pages.write(f"reference/{name}.md", text)
    config = BUILD / "mkdocs.yml"
    nav = json.dumps(navigation(sorted(told)))
    config.write_text(f"INHERIT: ../docs/mkdocs.yml\nnav: {nav}\n")
    where = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")]),
        "NO_MKDOCS_2_WARNING": "1",
    }
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config)]
    return subprocess.run(command, env=where, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
