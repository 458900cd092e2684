"""What scripts/release runs: make the next version of one wheel, on this machine only.

    scripts/release WHEEL VERSION|major|minor|patch [--dry-run]
    scripts/release WHEEL check

Writes version and changelog, builds, tries the wheel in an empty environment, commits and tags. It never pushes.
`check` judges the version that the source names by the public names of the one before; the workflow asks it of a tag.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("major", "minor", "patch")
NAMES = "tests/architecture/public_api.txt"

Version = tuple[int, int, int]


class RefusedError(Exception):
    """Why there is no release."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command; what it printed. Its failure is ours."""
    ran = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RefusedError(f"{' '.join(map(str, command))} failed:\n{ran.stdout}{ran.stderr}")
    return ran.stdout


# ---- versions ---------------------------------------------------------------------------------------------------


def read_version(text: str) -> Version:
    """Read `1.2.3`."""
    if not re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", text):
        raise RefusedError(f"{text!r} is no version; write it as 1.2.3, or say one of {', '.join(PARTS)}")
    major, minor, patch = map(int, text.split("."))
    return major, minor, patch


def written(version: Version) -> str:
    """Write it."""
    return ".".join(map(str, version))


def next_version(now: Version, wanted: str, *, released: bool) -> Version:
    """The version that is asked for. The first release may be the one that the source already names."""
    if wanted in PARTS:
        place = PARTS.index(wanted)
        major, minor, patch, *_ = [*now[:place], now[place] + 1, 0, 0]
        return major, minor, patch
    new = read_version(wanted)
    if new < now or (new == now and released):
        raise RefusedError(f"{wanted} is not above {written(now)}")
    return new


# ---- public names -----------------------------------------------------------------------------------------------


def public_names(text: str, packages: tuple[str, ...]) -> dict[str, list[str]]:
    """Read the list of public names: for each of the packages' names, the lines that describe it."""
    found: dict[str, list[str]] = {}
    module = name = ""
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if depth == 0:
            module = line
        elif depth == 2:
            name = re.sub(r"^(async def|def|class) ", "", line.strip())
            name = f"{module}.{re.split(r'[(:= ]', name, maxsplit=1)[0]}"
        if depth and any(module == each or module.startswith(f"{each}.") for each in packages):
            found.setdefault(name, []).append(line.strip())
    return found


def compare(old: dict[str, list[str]], new: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """Say what was added, and what was taken away or changed. A member more of a class is an addition."""
    added, broken = [f"+ {name}" for name in new if name not in old], []
    for name, lines in old.items():
        now = new.get(name)
        if now is None:
            broken.append(f"- {name}")
            continue
        broken += [f"- {name}: {line}" for line in lines if line not in now]
        added += [f"+ {name}: {line}" for line in now if line not in lines]
    return added, broken


def judge(now: Version, new: Version, broken: list[str]) -> None:
    """Refuse a version that promises more than it keeps."""
    if not broken:
        return
    allowed = new[0] > now[0] if now[0] else new[:2] > now[:2]
    if not allowed:
        needed = "major" if now[0] else "minor"
        raise RefusedError(f"Public names are gone or changed: that takes a {needed} version.\n" + "\n".join(broken))


# ---- a wheel ----------------------------------------------------------------------------------------------------


class Wheel:
    """A wheel of this workspace."""

    def __init__(self, name: str, root: Path = ROOT) -> None:
        """Read what it says of itself."""
        self.name, self.root = name, root
        self.folder = root / "packages" / name
        self.config = self.folder / "pyproject.toml"
        if not self.config.exists():
            wheels = ", ".join(sorted(path.parent.name for path in root.glob("packages/*/pyproject.toml")))
            raise RefusedError(f"There is no wheel {name!r}; there are {wheels}")
        said = tomllib.loads(self.config.read_text())
        self.version = read_version(said["project"]["version"])
        (place,) = said["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
        self.source = self.folder / place
        self.package = place.removeprefix("src/").replace("/", ".")
        self.extras = ",".join(said["project"].get("optional-dependencies", ()))

    def tag(self, version: Version) -> str:
        """The tag of a version."""
        return f"{self.name}-v{written(version)}"

    def last(self, below: Version | None = None) -> Version | None:
        """The newest version that has a tag; of those below one, if that is given."""
        tags = run("git", "tag", "--list", f"{self.name}-v*", cwd=self.root).split()
        versions = [read_version(tag.removeprefix(f"{self.name}-v")) for tag in tags]
        return max((version for version in versions if below is None or version < below), default=None)

    def fragments(self) -> list[Path]:
        """What there is to tell."""
        return [path for path in sorted((self.folder / "changes").glob("*.md")) if path.name != "README.md"]

    def names(self, last: Version | None) -> tuple[list[str], list[str]]:
        """What of the public names was added, and what was broken, since that version."""
        if last is None:
            return [], []
        old = run("git", "show", f"{self.tag(last)}:{NAMES}", cwd=self.root)
        new = (self.root / NAMES).read_text()
        return compare(public_names(old, (self.package,)), public_names(new, (self.package,)))

    def changelog(self, version: Version, *flags: str) -> str:
        """Let towncrier make the changelog of the fragments."""
        today = datetime.now(UTC).date().isoformat()
        command = [sys.executable, "-m", "towncrier", "build", "--version", written(version), "--date", today]
        return run(*command, "--dir", self.folder, "--config", self.config, *flags, cwd=self.root)

    def followers(self, version: Version) -> dict[Path, str]:
        """The wheels beside it that ask for another version than this one: what each would have to say."""
        major, minor, _ = version
        below = f"{major + 1}" if major else f"0.{minor + 1}"
        found = {}
        for config in sorted(self.root.glob("packages/*/pyproject.toml")):
            text = config.read_text()
            asks = rf'"{self.name}>=(\d+)\.(\d+),<(\d+)(?:\.(\d+))?"'
            for least_major, least_minor, most_major, most_minor in re.findall(asks, text):
                least, most = (int(least_major), int(least_minor)), (int(most_major), int(most_minor or 0))
                if not least <= (major, minor) < most:
                    found[config] = re.sub(asks, f'"{self.name}>={major}.{minor},<{below}"', text)
        return found

    def set_version(self, version: Version) -> None:
        """Write it where the source names it."""
        init = self.source / "__init__.py"
        for path, line in ((self.config, 'version = "{}"'), (init, '__version__ = "{}"')):
            old, new = line.format(written(self.version)), line.format(written(version))
            path.write_text(re.sub(rf"^{re.escape(old)}$", new, path.read_text(), count=1, flags=re.MULTILINE))
        self.version = version

    def build(self, target: Path) -> Path:
        """Build wheel and source distribution; the wheel's file."""
        uv = shutil.which("uv") or self.root / ".venv-tools/bin/uv"
        run(uv, "build", "--quiet", "--package", self.name, "--out-dir", target, cwd=self.root)
        (built,) = target.glob("*.whl")
        return built


def problems(built: Path, wheel: Wheel) -> Iterator[str]:
    """What is wrong with a built wheel, seen from outside."""
    inside = wheel.package.replace(".", "/")
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    info = f"{wheel.name.replace('-', '_')}-{written(wheel.version)}.dist-info"
    if strange := [name for name in names if not name.startswith((f"{inside}/", f"{info}/"))]:
        yield f"it holds what is not its own: {', '.join(strange)}"
    for needed in (f"{inside}/__init__.py", f"{inside}/py.typed", f"{info}/METADATA", f"{info}/licenses/LICENSE"):
        if needed not in names:
            yield f"{needed} is missing"


def try_wheel(built: Path, wheel: Wheel, work: Path) -> None:
    """Install it with its extras into an empty environment, its neighbours from here; import all it offers there."""
    uv = shutil.which("uv") or wheel.root / ".venv-tools/bin/uv"
    others = work / "others"
    for each in sorted(wheel.root.glob("packages/*/pyproject.toml")):
        if each.parent.name != wheel.name:
            run(uv, "build", "--quiet", "--wheel", "--package", each.parent.name, "--out-dir", others, cwd=wheel.root)
    run(uv, "venv", "--quiet", work / "venv", cwd=work)
    python = work / "venv/bin/python"
    whole = f"{built}[{wheel.extras}]"
    run(uv, "pip", "install", "--quiet", "--python", python, "--find-links", others, whole, cwd=work)
    look = (
        "import importlib, pkgutil\n"
        "from importlib.metadata import distribution\n"
        f"[point.load() for point in distribution({wheel.name!r}).entry_points]\n"
        f"root = importlib.import_module({wheel.package!r})\n"
        "for found in pkgutil.walk_packages(root.__path__, root.__name__ + '.'):\n"
        "    if not any(part.startswith('_') for part in found.name.split('.')):\n"
        "        module = importlib.import_module(found.name)\n"
        "        [getattr(module, name) for name in getattr(module, '__all__', ())]\n"
    )
    run(python, "-I", "-c", look, cwd=work)


def lead(wheel: Wheel, new: Version) -> None:
    """Have the wheels beside it ask for the new version, and tell their users with their own next release."""
    for config, text in wheel.followers(new).items():
        config.write_text(text)
        major, minor, _ = new
        fragment = config.parent / f"changes/+{wheel.name}-{major}.{minor}.changed.md"
        fragment.write_text(f"Works with {wheel.name} {major}.{minor}.\n")


def make(wheel: Wheel, new: Version) -> None:
    """Write version and changelog; build the wheel and try it."""
    wheel.set_version(new)
    lead(wheel, new)
    wheel.changelog(new, "--yes")
    with tempfile.TemporaryDirectory() as work:
        built = wheel.build(Path(work, "dist"))
        if found := list(problems(built, wheel)):
            raise RefusedError(f"{built.name}: {'; '.join(found)}")
        try_wheel(built, wheel, Path(work))


def told(wheel: Wheel, last: Version | None, new: Version) -> None:
    """Say what became of the public names since the last version, and judge the new one by it."""
    added, broken = wheel.names(last)
    print(f"Public names: {len(added)} added, {len(broken)} gone or changed", *broken, *added, sep="\n  ")
    if last is not None:
        judge(last, new, broken)


def release(wheel: Wheel, wanted: str, *, dry: bool) -> None:
    """Do it, or say what would be done."""
    if not dry and run("git", "status", "--porcelain", cwd=wheel.root):
        raise RefusedError("The tree has changes; commit them, or put them aside.")
    last, now = wheel.last(), wheel.version
    new = next_version(now, wanted, released=last is not None)
    if not wheel.fragments():
        raise RefusedError(f"There is nothing to tell: packages/{wheel.name}/changes/ has no fragment.")
    before = "none" if last is None else wheel.tag(last)
    print(f"{wheel.name} {written(now)} -> {written(new)}, tag {wheel.tag(new)}; the last one is {before}")
    told(wheel, last, new)
    for config in wheel.followers(new):
        print(f"{config.parent.name} will ask for {written(new)}; release it next")
    if dry:
        print(wheel.changelog(new, "--draft"))
        return
    try:
        make(wheel, new)
    except BaseException:
        # The tree was clean, so all that changed is ours.
        run("git", "restore", "--staged", "--worktree", "packages", cwd=wheel.root)
        run("git", "clean", "-d", "--force", "--quiet", "packages", cwd=wheel.root)
        raise
    run("git", "add", "--all", "packages", cwd=wheel.root)
    run("git", "commit", "--quiet", "-m", f"Release {wheel.name} {written(new)}", cwd=wheel.root)
    run("git", "tag", "--annotate", "-m", f"{wheel.name} {written(new)}", wheel.tag(new), cwd=wheel.root)
    print(f"Committed and tagged. To publish it: git push origin HEAD {wheel.tag(new)}")


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/release", description="Make the next version of one wheel.")
    parser.add_argument("wheel", help="its folder in packages/")
    parser.add_argument("version", help=f"1.2.3, or one of {', '.join(PARTS)}; or check")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, change nothing")
    asked = parser.parse_args()
    try:
        wheel = Wheel(asked.wheel)
        if asked.version == "check":
            told(wheel, wheel.last(below=wheel.version), wheel.version)
        else:
            release(wheel, asked.version, dry=asked.dry_run)
    except RefusedError as why:
        print(f"No release: {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
