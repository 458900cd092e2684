"""The command `kode` finds its commands by entry point and imports only the one that is called."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from kode.cli import main


def greet(name: str) -> None:
    """Greet one person."""
    typer.echo(f"hello {name}")


group = typer.Typer()


@group.command()
def first() -> None:
    typer.echo("first of two")


@group.command()
def second() -> None:
    typer.echo("second of two")


def kode(*arguments: str) -> Result:
    return CliRunner().invoke(main.build(arguments), arguments)


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """The registered commands; tests append to it."""
    registered: list[EntryPoint] = []
    monkeypatch.setattr(main, "entry_points", lambda group: EntryPoints(registered).select(group=group))
    monkeypatch.setitem(sys.modules, "commands_of_this_test", sys.modules[__name__])
    return registered


def point(name: str, attribute: str) -> EntryPoint:
    return EntryPoint(name, f"commands_of_this_test:{attribute}", main.GROUP)


def test_version_names_both_wheels() -> None:
    result = kode("--version")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == ["kode-cli", "kode-core"]


def test_a_function_is_a_command(points: list[EntryPoint]) -> None:
    points.append(point("greet", "greet"))
    assert kode("greet", "you").output == "hello you\n"
    assert "Greet one person." in kode("greet", "--help").output


def test_a_typer_is_a_group_of_commands(points: list[EntryPoint]) -> None:
    points.append(point("group", "group"))
    assert kode("group", "second").output == "second of two\n"


def test_help_lists_commands_without_importing_them(points: list[EntryPoint]) -> None:
    points.append(EntryPoint("broken", "no_such_module_anywhere:command", main.GROUP))
    result = kode("--help")
    assert result.exit_code == 0
    assert "broken" in result.output


def test_a_broken_command_breaks_only_itself(points: list[EntryPoint]) -> None:
    points.append(EntryPoint("broken", "no_such_module_anywhere:command", main.GROUP))
    points.append(point("greet", "greet"))
    assert kode("greet", "you").output == "hello you\n"
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        kode("broken")


def test_an_unknown_command_is_a_usage_error(points: list[EntryPoint]) -> None:
    result = kode("nope")
    assert result.exit_code == 2
    assert "nope" in result.output


def test_two_wheels_that_claim_a_name_are_both_named(
    points: list[EntryPoint], capsys: pytest.CaptureFixture[str]
) -> None:
    points.extend([point("greet", "greet"), point("greet", "group")])
    with pytest.raises(SystemExit, match="2"):
        main.build(["greet"])
    said = capsys.readouterr().err
    assert "commands_of_this_test:greet and commands_of_this_test:group" in said


def test_help_imports_neither_the_runtime_nor_rich() -> None:
    """What makes `kode --help` slow is what it imports, so that is what is held, not a time."""
    program = (
        "import sys; from kode.cli.main import build\n"
        "try: build([])(['--help'], prog_name='kode')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('rich', 'anyio', 'pydantic', 'httpx', 'kode.core') if name in sys.modules])"
    )
    ran: Any = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_our_own_commands_say_what_they_do() -> None:
    """The table cannot rot: it says what the commands themselves say first."""
    ours = {point.name: point for point in entry_points(group=main.GROUP) if point.value.startswith("kode.cli.")}
    assert set(ours) == set(main.SUMMARIES)
    for name, point in ours.items():
        if name != "demo":
            assert main.SUMMARIES[name] == (point.load().__doc__ or "").splitlines()[0], name
        assert main.SUMMARIES[name] in kode("--help").output


def test_a_command_of_another_wheel_borrows_no_help(points: list[EntryPoint]) -> None:
    points.append(point("run", "greet"))
    assert "From commands_of_this_test:greet." in kode("--help").output


@pytest.mark.integration
def test_an_installed_wheel_brings_a_command(tmp_path: Path) -> None:
    """A real distribution on the path, as an installer leaves it."""
    info = tmp_path / "dummy_wheel-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dummy-wheel\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kode.command]\nhello = dummy_wheel:hello\n")
    (tmp_path / "dummy_wheel.py").write_text("def hello(name: str) -> None:\n    print('hello', name)\n")
    for arguments, said in ((["hello", "you"], "hello you\n"), (["--help"], "From dummy-wheel.")):
        ran = subprocess.run(
            [sys.executable, "-m", "kode.cli", *arguments],
            env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert said in ran.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc to hide")
def test_keys_of_the_environment_are_hidden_from_commands() -> None:
    """A process that the kernel calls dumpable shows its environment to whatever runs as the same user."""
    asks = "import ctypes, sys; from kode.cli import main; sys.argv = ['kode', '--version']\n"
    asks += "try: main.main()\nexcept SystemExit: print('dumpable:', ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    ran = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("dumpable: 0\n")


@pytest.mark.parametrize("group", [("store",), ("store", "schema"), ()])
def test_no_summary_is_cut(group: tuple[str, ...]) -> None:
    said = CliRunner().invoke(main.build([*group, "--help"]), [*group, "--help"]).output
    assert "Commands:" in said
    assert not [line for line in said.splitlines() if line.startswith("  ") and line.endswith("...")]


def test_brackets_of_arguments_are_not_doubled() -> None:
    for arguments in (
        ["agents"],
        ["demo"],
        ["limits"],
        ["store", "check"],
        ["store", "stats"],
        ["store", "schema", "sql"],
    ):
        usage = CliRunner().invoke(main.build(arguments), [*arguments, "--help"]).output.splitlines()[0]
        assert "[[" not in usage + usage.replace("{", "[")
