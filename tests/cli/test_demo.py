"""`kode demo`: its planner decides from the history alone, its count holds, and its checks can fail."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from typer.testing import CliRunner, Result

from kode.cli import main
from kode.cli.demo.count import Counted, command, read_count
from kode.cli.demo.planner import Planner
from kode.cli.demo.report import Hits, Survey, read_tables, write_report
from kode.cli.demo.settings import FILES, LEDGER, Settings
from kode.cli.demo.verify import count_files, verify
from kode.cli.demo.watch import MOMENTS, Moment, Process, Watcher
from kode.cli.demo.workspace import copy_files, default_source, make_work, remove_files
from kode.core import SqliteStore
from kode.core.jsontext import dump
from kode.core.kernel.message import Message, TextBlock, ToolResultBlock, ToolUseBlock
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn

SEALED = "The process that ran this tool ended. Its outcome is unknown."


def kode(*arguments: str) -> Result:
    return CliRunner().invoke(main.build(arguments), arguments)


def settings(work: Path, speed: float = 100.0) -> Settings:
    return Settings(work, "somewhere", speed)


# ---- the planner


def asked(turn: Turn) -> list[tuple[str, dict[str, object]]]:
    return [(b.name, json.loads(b.input)) for b in turn.blocks if isinstance(b, ToolUseBlock)]


def said(turn: Turn) -> str:
    return "\n".join(b.text for b in turn.blocks if isinstance(b, TextBlock))


class Talk:
    """Plays an agent's history: each round answers the calls of the planner's last turn."""

    def __init__(self, work: Path) -> None:
        self.messages: list[Message] = [Message(0, "user", (TextBlock("Survey."),), 0)]
        self.work = work

    def turn(self) -> Turn:
        """Ask a planner that has seen nothing before."""
        request = ModelRequest(model="scripted-1", messages=tuple(self.messages))
        turn = Planner(settings(self.work))(request)
        again = Planner(settings(self.work))(request)
        assert asked(turn) == asked(again)
        return turn

    def answer(self, turn: Turn, results: dict[str, object]) -> None:
        uses = [b for b in turn.blocks if isinstance(b, ToolUseBlock)]
        blocks = []
        for use in uses:
            value = results[use.name]
            text = value if isinstance(value, str) else dump(value)
            blocks.append(ToolResultBlock(use.id, (TextBlock(text),), is_error=value == SEALED, call="1.1.1"))
        seq = len(self.messages)
        self.messages += [Message(seq, "assistant", turn.blocks, 0), Message(seq + 1, "user", tuple(blocks), 0)]


def up_to_the_count(work: Path) -> tuple[Talk, Turn]:
    talk = Talk(work)
    talk.answer(talk.turn(), {"fs_glob": {"count": 1, "matches": ["files/a.py"], "truncated": False}})
    talk.answer(talk.turn(), {"fs_grep": {"matches": [], "truncated": False}})
    return talk, talk.turn()


def test_it_searches_for_what_the_files_suggest(tmp_path: Path) -> None:
    talk = Talk(tmp_path)
    talk.answer(talk.turn(), {"fs_glob": {"count": 1, "matches": ["files/x.html"], "truncated": False}})
    assert [input["pattern"] for _, input in asked(talk.turn())] == ["TODO", "<script", "<a "]


def test_a_sealed_count_is_looked_at_and_announced_before_it_runs_again(tmp_path: Path) -> None:
    talk, count = up_to_the_count(tmp_path)
    assert [name for name, _ in asked(count)] == ["bash_run", "file_follow", "fs_read"]
    talk.answer(count, {"bash_run": SEALED, "file_follow": {"ended": False}, "fs_read": {"content": "x"}})

    look = talk.turn()
    assert [input["path"] for _, input in asked(look)] == ["count-1.txt", LEDGER]
    talk.answer(look, {"fs_read": {"content": "begin: 1 files\ntick"}})

    again = talk.turn()
    assert "try 2" in said(again)
    assert "count-2.txt" in str(asked(again)[0][1]["cmd"])


def test_a_sealed_count_that_had_ended_does_not_run_again(tmp_path: Path) -> None:
    talk, count = up_to_the_count(tmp_path)
    talk.answer(count, {"bash_run": SEALED, "file_follow": {"ended": True}, "fs_read": {"content": "x"}})
    talk.answer(talk.turn(), {"fs_read": {"content": "total 1 0 2 3 4\nbig 4 files/b.bin\nend"}})
    (write,) = asked(talk.turn())
    assert write[0] == "fs_write"
    assert "did not have to run again" in str(write[1]["content"])


def test_a_count_that_fails_is_told(tmp_path: Path) -> None:
    talk, count = up_to_the_count(tmp_path)
    failed = {"code": 1, "output": "no room"}
    talk.answer(count, {"bash_run": failed, "file_follow": {"ended": False}, "fs_read": {"content": "x"}})
    last = talk.turn()
    assert asked(last) == []
    assert "no room" in said(last)


# ---- counting


ODD = ["a b", "new\nline", "-rf", "it's", 'a"b', "*", "$HOME", "total", "x | y", "ünï", " lead", "tab\t", "\\n"]


def test_the_script_and_the_check_count_the_same_whatever_the_names(tmp_path: Path) -> None:
    work = tmp_path / "work"
    files = work / FILES
    (files / "in ner").mkdir(parents=True)
    for number, name in enumerate(ODD):
        (files / "in ner" / name).write_bytes(b"one two\xff\0three\n" * number + b"last")
    with open(os.fsencode(files) + b"/\xff.bin", "wb") as file:
        file.write(bytes(range(256)) * 50)
    (files / "link").symlink_to("in ner")
    ran = subprocess.run(["sh", "-c", command(settings(work), 1)], cwd=work, capture_output=True, check=True)
    counted = read_count(ran.stdout.decode(errors="replace"))
    truth = count_files(files, []).numbers
    assert counted is not None
    assert [counted.files, counted.unreadable, counted.lines, counted.words, counted.size] == [
        truth["files"],
        truth["not readable"],
        truth["lines"],
        truth["words"],
        truth["bytes"],
    ]
    assert counted.biggest[0] == (12_800, "\ufffd.bin")
    assert read_count((work / "count-1.txt").read_text(errors="replace")) == counted


def test_a_count_without_its_end_is_no_count() -> None:
    assert read_count("begin: 3 files\ntick\npart 1 0 2 3 4\n") is None
    assert read_count("") is None


def test_the_report_is_read_back_as_written() -> None:
    counted = Counted(3, 1, 20, 30, 400, ((300, "a | b"), (100, "new\nline")))
    text = write_report(Survey(counted, 4, True, (Hits("def ", 7, 2, False),), {"a": "x"}, 1, 2))
    counts, biggest, hits = read_tables(text)
    assert ["lines", "20"] in counts
    assert ["paths listed", "4+"] in counts
    assert biggest == [["a | b", "300"], ["new\\x0aline", "100"]]
    assert hits == [["`def `", "7", "2"]]


# ---- the work folder


def test_the_copy_is_like_the_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / ".git").mkdir(parents=True)
    (source / ".git" / "HEAD").write_text("ref")
    (source / "sub").mkdir()
    (source / "sub" / "a.txt").write_text("a\n")
    (source / "link").symlink_to("/nowhere")
    os.mkfifo(source / "pipe")
    work = make_work(source / "work")  # inside what is copied
    copied = copy_files(source, settings(work))
    assert (copied.files, copied.special, copied.left_out) == (1, 1, {".git"})
    assert sorted(path.name for path in (work / FILES).iterdir()) == ["link", "sub"]
    remove_files(settings(work))
    assert not (work / FILES).exists()


def test_the_default_is_our_own_source() -> None:
    assert (default_source() / "packages" / "kode-core").is_dir()


def test_moments_repeat_with_their_seed() -> None:
    first = [Moment.choose("random", random.Random(5)) for _ in range(3)]
    assert first == [Moment.choose("random", random.Random(5)) for _ in range(3)]
    assert {Moment.choose("random", random.Random(n)).stage for n in range(50)} == set(MOMENTS)


# ---- the command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{tmp}/missing"], "does not exist"),
        (["{tmp}/file"], "is a file"),
        (["{tmp}", "--kill-at", "noon"], "noon"),
        (["{tmp}", "--kill-at", "-1"], "-1"),
        (["{tmp}", "--work", "{tmp}/full"], "not empty"),
        (["{tmp}", "--work", "{tmp}/file/below"], "not a directory"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("x")
    result = kode("demo", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


def demo(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-m", "kode.cli", "demo", "--speed", "30", *arguments]
    whole = {**os.environ, **(env or {})}
    return subprocess.run(command_line, capture_output=True, text=True, check=False, timeout=60, env=whole)


@pytest.mark.integration
def test_an_empty_folder_and_plain_output(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = demo(str(tmp_path / "empty"), "--work", str(tmp_path / "w"), env={"NO_COLOR": "1", "COLUMNS": "80"})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "\x1b" not in ran.stdout
    assert "SEALED" in ran.stdout
    assert "All checks passed" in ran.stdout
    assert max(len(line) for line in ran.stdout.splitlines() if str(tmp_path) not in line) <= 80
    assert demo("--work", str(tmp_path / "w")).returncode == 2  # finished: nothing to go on with


@pytest.mark.integration
def test_ctrl_c_leaves_an_agent_that_goes_on(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a.txt").write_text("one\n")
    work = tmp_path / "w"
    command_line = [sys.executable, "-m", "kode.cli", "demo", str(tmp_path / "some"), "--work", str(work)]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ran:
        until = time.monotonic() + 30
        while not (work / LEDGER).exists() and time.monotonic() < until:
            time.sleep(0.02)
        ran.send_signal(signal.SIGINT)
        output, _ = ran.communicate(timeout=20)
    assert ran.returncode == 130, output
    assert "kode demo --work" in output
    assert "Traceback" not in output
    stopped = Settings.load(work)
    assert stopped is not None
    replace(stopped, speed=30.0).save()
    ended = demo("--work", str(work), "--json")
    assert ended.returncode == 0, ended.stdout
    assert json.loads(ended.stdout)["ok"]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("file", "old", "new", "check"),
    [
        ("REPORT.md", "| lines | 1 |", "| lines | 2 |", "report: counts"),
        ("REPORT.md", "| a.txt | 4 |", "| a.txt | 5 |", "report: biggest files"),
        ("REPORT.md", "| `TODO` | 0 | 0 |", "| `TODO` | 1 | 0 |", "report: hits"),
        (LEDGER, "count try=1 ", "count try=2 pid=1\ncount try=2 ", "nothing ran twice unannounced"),
    ],
)
async def test_a_check_fails_when_something_is_wrong(
    finished: Path, tmp_path: Path, file: str, old: str, new: str, check: str
) -> None:
    work = Path(copytree(finished, tmp_path / "copy"))
    stored = Settings.load(work)
    assert stored is not None

    async def verdicts() -> dict[str, bool]:
        async with SqliteStore(stored.database) as store:
            watcher = Watcher(stored, store, lambda _: None, lambda _: None, lambda _: None)
            watcher.processes.append(Process(1, 2**22, 0.0))
            return {one.name: one.ok for one in await verify(stored, store, watcher)}

    assert all((await verdicts()).values())
    text = (work / file).read_text()
    assert old in text
    (work / file).write_text(text.replace(old, new))
    assert [name for name, ok in (await verdicts()).items() if not ok] == [check]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo that went well."""
    top = tmp_path_factory.mktemp("demo")
    (top / "some").mkdir()
    (top / "some" / "a.txt").write_text("one\n")
    ran = demo(str(top / "some"), "--work", str(top / "w"), "--keep")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return top / "w"
