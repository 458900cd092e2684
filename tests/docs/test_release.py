"""scripts/release: what it refuses, what it would do, and that the workflow reads the tags that it makes."""

from __future__ import annotations

import re
import runpy
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RELEASE: dict[str, Any] = runpy.run_path(str(ROOT / "scripts/release.py"))
FRAGMENT = re.compile(r"\+[a-z0-9.-]+\.(added|changed|fixed|removed)\.md")
NAMES = """\
kode.core.clock
  class Clock() ()
      now(self) -> int
  def sleep(s: float) -> None
kode.core.clocks
  def tick() -> None
kode.cli.main
  def main() -> None
"""


@pytest.mark.parametrize(
    ("now", "wanted", "released", "new"),
    [
        ((0, 1, 0), "0.1.0", False, (0, 1, 0)),
        ((0, 1, 0), "patch", True, (0, 1, 1)),
        ((0, 1, 9), "minor", True, (0, 2, 0)),
        ((1, 2, 3), "major", True, (2, 0, 0)),
        ((0, 9, 0), "0.10.0", True, (0, 10, 0)),
    ],
)
def test_the_next_version(now: Any, wanted: str, released: bool, new: Any) -> None:
    assert RELEASE["next_version"](now, wanted, released=released) == new


@pytest.mark.parametrize(("wanted", "why"), [("0.1.0", "not above"), ("0.0.9", "not above"), ("v1", "no version")])
def test_a_version_that_is_none(wanted: str, why: str) -> None:
    with pytest.raises(RELEASE["RefusedError"], match=why):
        RELEASE["next_version"]((0, 1, 0), wanted, released=True)


def compared(old: str, new: str) -> Any:
    names = RELEASE["public_names"]
    return RELEASE["compare"](names(old, ("kode.core",)), names(new, ("kode.core",)))


def test_what_became_of_the_public_names() -> None:
    assert list(RELEASE["public_names"](NAMES, ("kode.core.clock",))) == [
        "kode.core.clock.Clock",
        "kode.core.clock.sleep",
    ]
    assert compared(NAMES, NAMES) == ([], [])
    assert compared(NAMES, NAMES.replace("def main", "def other")) == ([], [])  # another wheel's
    more = NAMES.replace("      now", "      later(self) -> int\n      now")
    assert compared(NAMES, more) == (["+ kode.core.clock.Clock: later(self) -> int"], [])
    assert compared(more, NAMES) == ([], ["- kode.core.clock.Clock: later(self) -> int"])
    assert compared(NAMES, NAMES.replace("tick", "tack")) == (["+ kode.core.clocks.tack"], ["- kode.core.clocks.tick"])
    assert compared(NAMES, NAMES.replace("s: float", "s: int"))[1] == [
        "- kode.core.clock.sleep: def sleep(s: float) -> None"
    ]


@pytest.mark.parametrize(
    ("now", "new", "allowed"),
    [
        ((0, 1, 0), (0, 1, 1), False),
        ((0, 1, 0), (0, 2, 0), True),
        ((0, 9, 0), (1, 0, 0), True),
        ((1, 1, 0), (1, 2, 0), False),
        ((1, 1, 0), (2, 0, 0), True),
    ],
)
def test_what_is_broken_takes_its_version(now: Any, new: Any, allowed: bool) -> None:
    RELEASE["judge"](now, new, [])
    if allowed:
        RELEASE["judge"](now, new, ["- x"])
    else:
        with pytest.raises(RELEASE["RefusedError"], match="gone or changed"):
            RELEASE["judge"](now, new, ["- x"])


@pytest.mark.parametrize("folder", sorted((ROOT / "packages").iterdir()), ids=lambda folder: folder.name)
def test_each_wheel_can_be_released(folder: Path) -> None:
    wheel = RELEASE["Wheel"](folder.name)
    assert wheel.source == folder / "src" / wheel.package.replace(".", "/")
    assert (wheel.source / "py.typed").exists()
    # There is none right after a release; what another name says towncrier leaves out without a word.
    assert [path.name for path in wheel.fragments() if not FRAGMENT.fullmatch(path.name)] == []
    tag = wheel.tag(wheel.version)
    read = subprocess.run([ROOT / "scripts/release-tag", tag], capture_output=True, text=True, check=True).stdout
    assert read == f"wheel={folder.name}\nversion={RELEASE['written'](wheel.version)}\n"


def test_the_wheels_beside_it_ask_for_its_new_version(tmp_path: Path) -> None:
    for name in ("kode-core", "kode-cli", "kode-store-postgres"):
        (tmp_path / "packages" / name / "changes").mkdir(parents=True)
        (tmp_path / "packages" / name / "pyproject.toml").write_text(
            (ROOT / "packages" / name / "pyproject.toml").read_text()
        )
    wheel = RELEASE["Wheel"]("kode-core", tmp_path)
    major, minor, patch = wheel.version
    cli = tmp_path / "packages/kode-cli"

    RELEASE["lead"](wheel, (major, minor, patch + 1))
    assert list(tmp_path.rglob("changes/*")) == []
    for new, asks, told in [
        ((major, minor + 1, 0), f">={major}.{minor + 1},<{major}.{minor + 2}", f"{major}.{minor + 1}"),
        ((major + 1, 2, 0), f">={major + 1}.2,<{major + 2}", f"{major + 1}.2"),
    ]:
        RELEASE["lead"](wheel, new)
        assert f'    "kode-core{asks}",\n' in (cli / "pyproject.toml").read_text()
        assert (cli / f"changes/+kode-core-{told}.changed.md").read_text() == f"Works with kode-core {told}.\n"
        assert FRAGMENT.fullmatch(f"+kode-core-{told}.changed.md")
        assert wheel.followers(new) == {}
    assert wheel.followers((major + 1, 9, 0)) == {}
    assert list((tmp_path / "packages/kode-core/changes").iterdir()) == []


@pytest.mark.parametrize("tag", ["kode-core-v99.0.0", "kode-nothing-v0.1.0", "v0.1.0"])
def test_a_tag_that_is_not_of_this_source(tag: str) -> None:
    assert subprocess.run([ROOT / "scripts/release-tag", tag], capture_output=True, check=False).returncode == 1


def test_a_wheel_with_what_is_not_its_own_is_seen(tmp_path: Path) -> None:
    wheel = RELEASE["Wheel"]("kode-core")
    info = f"kode_core-{RELEASE['written'](wheel.version)}.dist-info"
    good = ["kode/core/__init__.py", "kode/core/py.typed", f"{info}/METADATA", f"{info}/licenses/LICENSE"]

    def problems(*names: str) -> list[str]:
        with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
            for name in names:
                archive.writestr(name, "")
        return list(RELEASE["problems"](tmp_path / "x.whl", wheel))

    assert problems(*good) == []
    assert problems(*good[1:]) == ["kode/core/__init__.py is missing"]
    assert problems(*good, "kode/__init__.py") == ["it holds what is not its own: kode/__init__.py"]


def test_a_dry_run_shows_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def git(*words: str) -> None:
        who = (
            "-c",
            "user.name=n",
            "-c",
            "user.email=n@example.org",
            "-c",
            "commit.gpgsign=false",
            "-c",
            "tag.gpgsign=false",
        )
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    folder = tmp_path / "packages/kode-core"
    (folder / "changes").mkdir(parents=True)
    (folder / "pyproject.toml").write_text((ROOT / "packages/kode-core/pyproject.toml").read_text())
    (folder / "CHANGELOG.md").write_text("<!-- changes start here -->\n")
    (tmp_path / "tests/architecture").mkdir(parents=True)
    names = tmp_path / "tests/architecture/public_api.txt"
    names.write_text(NAMES)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "One")
    wheel = RELEASE["Wheel"]("kode-core", tmp_path)
    git("tag", wheel.tag(wheel.version))
    with pytest.raises(RELEASE["RefusedError"], match="nothing to tell"):
        RELEASE["release"](wheel, "patch", dry=True)

    (folder / "changes/+x.added.md").write_text("You can now do X.\n")
    with pytest.raises(RELEASE["RefusedError"], match="tree has changes"):
        RELEASE["release"](wheel, "minor", dry=False)
    names.write_text(NAMES.replace("tick", "tack"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    RELEASE["release"](wheel, "minor", dry=True)
    said = capsys.readouterr().out
    assert "You can now do X." in said
    assert "- kode.core.clocks.tick" in said
    with pytest.raises(RELEASE["RefusedError"], match="takes a minor version"):
        RELEASE["release"](wheel, "patch", dry=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    # The same question about a version that is tagged already: the one before it is what counts.
    major, minor, patch = now = wheel.version
    git("tag", wheel.tag((major, minor + 1, 0)))
    assert (wheel.last(), wheel.last(below=(major, minor + 1, 0))) == ((major, minor + 1, 0), now)
    assert wheel.last(below=now) is None
    RELEASE["told"](wheel, None, now)
    RELEASE["told"](wheel, now, (major, minor + 1, 0))
    with pytest.raises(RELEASE["RefusedError"], match="takes a minor version"):
        RELEASE["told"](wheel, now, (major, minor, patch + 1))
