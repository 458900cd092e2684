"""What a person did wrong is one line on stderr and exit code 2; a bug shows where it is."""

from __future__ import annotations

import pytest
from tests.cli.conftest import Kode

from kode.cli import failing, main
from kode.core.errors import FencedError, IllegalInputError, StoreError, UsageError

MODEL = ("--model", "openai:m", "--base-url", "http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "x"), "No model is named"),
        (("run", "x", "--model", "openai:m"), "OPENAI_API_KEY"),
        (("run", "x", "--model", "nope:m"), "no provider 'nope'"),
        (("run", "  ", *MODEL), "The task is empty"),
        (("run", "x", *MODEL, "--tools", "nope"), "no tool 'nope'"),
        (("run", "x", *MODEL, "--dir", "nope"), "which is no folder"),
        (("run", "x", *MODEL, "--store", "nope://x"), "scheme 'nope'"),
        (("run", "x", *MODEL, "--isolation", "nope"), "no isolation 'nope'"),
        (("run", "x", *MODEL, "--template", "nope.toml"), "'nope.toml' cannot be read"),
        (("resume", "x"), "There is no store at"),
        (("show", "x", "--store", "sqlite:///typo.db"), "There is no store at 'typo.db'"),
        (("agents", "--store", "sqlite://"), "names no file"),
    ],
)
def test_one_line_and_exit_code_2(kode: Kode, arguments: tuple[str, ...], said: str) -> None:
    ran = kode(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.startswith("kode: ")
    assert ran.err.count("\n") == 1
    assert not any(kode.folder.rglob("typo.db"))


def test_an_agent_that_is_not_there(kode: Kode) -> None:
    kode("run", "x", *MODEL, "--tools", "nope")  # makes the store
    for arguments in (("resume", "x"), ("show", "x"), ("events", "x"), ("send", "x", "hi"), ("interrupt", "x")):
        ran = kode(*arguments)
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert "No agent 'x'" in ran.err


def test_codes_of_errors() -> None:
    codes = [failing.explain(kind("x")) for kind in (UsageError, StoreError, FencedError, PermissionError)]
    assert codes == [2, 1, 4, 1]


def test_an_error_cannot_steer_the_terminal() -> None:
    assert failing.said(UsageError("a\x1b[2Jb\nc")) == "a\\e[2Jb\\nc"
    assert failing.said(FileNotFoundError(2, "No such file", "a\x1b")) == "No such file ('a\\x1b')"


@pytest.mark.parametrize("bug", [ZeroDivisionError("bug"), IllegalInputError("bug")])
def test_a_bug_shows_where_it_is_and_asks_to_be_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bug: Exception
) -> None:
    def broken(_: object) -> None:
        secret = "sk-secret"  # noqa: F841 - local variables must not be shown
        raise bug

    monkeypatch.setattr(main, "build", broken)
    assert main.run([]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "please report" in said
    assert "sk-secret" not in said.replace('secret = "sk-secret"', "")
