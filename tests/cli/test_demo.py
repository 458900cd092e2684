"""`kode demo`: its planner decides from the history alone, its count holds, and its checks can fail."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from rich.console import Console
from tests.servers import chat
from tests.servers.chat import ChatServer, Said
from typer.testing import CliRunner, Result

from kode.cli import main
from kode.cli.demo import recount, workspace
from kode.cli.demo.count import Counted, command, read_count
from kode.cli.demo.deciding import Answer, LeftOpenError, Question, by_itself, open_question, person, store_answer
from kode.cli.demo.moments import STAGES, Moment
from kode.cli.demo.planner import Planner
from kode.cli.demo.processes import left_of
from kode.cli.demo.recount import count_files
from kode.cli.demo.report import Hits, Survey, read_tables, write_report
from kode.cli.demo.settings import FILES, LEDGER, Settings
from kode.cli.demo.show import Timeline
from kode.cli.demo.verify import Facts, gather, judge
from kode.cli.demo.watch import Decision, Kill, Process, Watcher
from kode.cli.demo.workspace import CannotStartError, copy_files, default_source, make_work, remove_files
from kode.core import SqliteStore
from kode.core.jsontext import dump
from kode.core.kernel.message import Message, TextBlock, ToolResultBlock, ToolUseBlock
from kode.core.kernel.toolcall import CallStatus
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn

WAITED = "the write waited for the decision"
ONCE = "nothing ran twice unannounced"
REPEATS = "repeated calls were harmless and told"
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


def test_the_script_and_the_check_count_the_same_whatever_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    files = work / FILES
    (files / "in ner").mkdir(parents=True)
    for number, name in enumerate(ODD):
        (files / "in ner" / name).write_bytes(b"one two\xff\0three\n" * number + b"last")
    with open(os.fsencode(files) + b"/\xff.bin", "wb") as file:
        file.write(bytes(range(256)) * 50)
    (files / "long.txt").write_bytes(b"word " * 300_000)  # longer than what is read at once
    (files / "link").symlink_to("in ner")
    ran = subprocess.run(["sh", "-c", command(settings(work), 1)], cwd=work, capture_output=True, check=True)
    counted = read_count(ran.stdout.decode(errors="replace"))
    truth = count_files(files, []).numbers
    monkeypatch.setattr(recount, "_SEARCHED_MAX", 1_000)
    assert count_files(files, []).numbers == truth
    assert counted is not None
    assert [counted.files, counted.unreadable, counted.lines, counted.words, counted.size] == [
        truth["files"],
        truth["not readable"],
        truth["lines"],
        truth["words"],
        truth["bytes"],
    ]
    assert counted.biggest[:2] == ((1_500_000, "long.txt"), (12_800, "\ufffd.bin"))
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


def test_a_folder_that_is_too_large_is_refused_and_nothing_is_left(
    some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (some / "b.txt").write_text("two\n")
    monkeypatch.setattr(workspace, "MAX_FILES", 1)
    work = make_work(tmp_path / "w")
    with pytest.raises(CannotStartError, match="smaller folder"):
        copy_files(some, settings(work))
    assert not work.exists()


def test_the_default_is_our_own_source() -> None:
    assert (default_source() / "packages" / "kode-core").is_dir()


def test_moments_repeat_with_their_seed() -> None:
    first = [Moment.choose("random", random.Random(5)) for _ in range(3)]
    assert first == [Moment.choose("random", random.Random(5)) for _ in range(3)]
    assert {Moment.choose("random", random.Random(n)).stage for n in range(50)} == set(STAGES)


# ---- the command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{tmp}/missing"], "does not exist"),
        (["{tmp}/file"], "is a file"),
        (["{tmp}", "--kill-at", "noon"], "noon"),
        (["{tmp}", "--kill-at", "-1"], "-1"),
        (["{tmp}", "--decide", "perhaps"], "perhaps"),
        (["{tmp}", "--decide", "ask"], "needs a terminal"),
        (["{tmp}", "--base-url", "http://127.0.0.1:9"], "--model"),
        (["{tmp}", "--model", "nobody:x", "--yes"], "nobody"),
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
    assert kode("demo", "--work", str(tmp_path / "w")).exit_code == 2  # finished: nothing to go on with


@pytest.mark.integration
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_an_agent_that_goes_on(some: Path, tmp_path: Path, end: signal.Signals) -> None:
    work = tmp_path / "my work"
    command_line = [sys.executable, "-m", "kode.cli", "demo", str(some), "--work", str(work), "--speed", "3"]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ran:
        until = time.monotonic() + 30
        while not (work / LEDGER).exists() and time.monotonic() < until:
            time.sleep(0.02)
        second = kode("demo", "--work", str(work))
        ran.send_signal(end)
        output, _ = ran.communicate(timeout=60)
    assert ran.returncode == 128 + end, output
    assert f"  kode demo --work '{work}'\n" in output
    assert "Traceback" not in output
    assert left_of(2**22, (), work) == [], "its processes are ours to end"
    assert second.exit_code == 2
    assert "Another `kode demo` is at work" in second.output
    stopped = Settings.load(work)
    assert stopped is not None
    replace(stopped, speed=30.0).save()
    ended = demo("--work", str(work), "--json")
    assert ended.returncode == 0, ended.stdout
    assert json.loads(ended.stdout)["ok"]


# ---- decisions


def at_a_terminal(
    *arguments: str, says: list[tuple[str, str | signal.Signals | Callable[[], object]]]
) -> tuple[int, str]:
    """Run the demo with a terminal, answer each prompt with a line, a signal or an act, and read what it shows."""
    ours, its = pty.openpty()
    command_line = [sys.executable, "-m", "kode.cli", "demo", "--speed", "30", *arguments]
    env = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    shown = b""
    with subprocess.Popen(command_line, stdin=its, stdout=its, stderr=its, env=env) as ran:
        os.close(its)
        while piece := read_terminal(ours):
            shown += piece
            if says and says[0][0].encode() in shown:
                answer = says.pop(0)[1]
                if isinstance(answer, signal.Signals):
                    ran.send_signal(answer)
                elif callable(answer):
                    answer()
                else:
                    os.write(ours, answer.encode())
        os.close(ours)
    assert not says
    return ran.returncode, shown.decode("utf-8", "replace")


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux says so when the other side is closed
        return b""


@pytest.mark.integration
def test_a_person_denies_and_the_agent_is_told_why(some: Path, tmp_path: Path) -> None:
    work = tmp_path / "w"
    code, shown = at_a_terminal(
        str(some), "--work", str(work), "--kill-at", "never", says=[("[Y/n]", "no\n"), ("Why not?", "too long\n")]
    )
    assert code == 0, shown
    assert "no process waits" in shown
    assert "There is no report. Denied by" in shown
    assert "too long" in shown
    assert "All checks passed" in shown
    assert not (work / "REPORT.md").exists()


@pytest.mark.integration
def test_somebody_else_may_decide_while_the_question_stands(some: Path, tmp_path: Path) -> None:
    work = tmp_path / "w"
    store = ("--store", f"sqlite:///{work}/agents.db")

    def elsewhere() -> None:
        assert kode("decide", *store, "surveyor", "1.4.1", "deny", "--note", "not today").exit_code == 0

    code, shown = at_a_terminal(str(some), "--work", str(work), "--kill-at", "never", says=[("[Y/n]", elsewhere)])
    assert code == 0, shown
    assert "decided by somebody else" in shown
    assert "not today" in shown
    assert "All checks passed" in shown


class Hasty(Watcher):
    """Sees each question answered by somebody else before it looks."""

    async def _one(self, moment: Moment | None) -> int | None:
        code = await super()._one(moment)
        if (question := await open_question(self.store)) is not None:
            await store_answer(self.settings, self.store, question, Answer("deny", "ann"))
        return code


@pytest.mark.integration
async def test_it_ends_with_the_run_and_not_with_a_process(tmp_path: Path) -> None:
    stored = settings(tmp_path / "w")
    stored.work.mkdir()
    (stored.work / FILES).mkdir()
    (stored.work / FILES / "a.txt").write_text("one\n")
    stored.save()
    async with SqliteStore(stored.database) as store:
        watcher = Hasty(stored, store, Timeline(Console(quiet=True), 0.0), by_itself("allow", "a test"))
        assert await watcher.run([]) == 0
        assert wrong(await gather(stored, store, watcher)) == []
        # Whoever answers too late is told so, and nothing is changed.
        question = Question("1.4.1", "fs_write", "REPORT.md", "", "")
        assert not await store_answer(stored, store, question, Answer("allow", "me"))


@pytest.mark.integration
def test_a_question_outlives_ctrl_c_and_is_answered_by_a_script(some: Path, tmp_path: Path) -> None:
    work = tmp_path / "w"
    code, shown = at_a_terminal(str(some), "--work", str(work), "--kill-at", "never", says=[("[Y/n]", signal.SIGINT)])
    assert code == 130, shown
    assert f"kode demo --work {work}\r\n" in shown
    ran = demo("--work", str(work), "--decide", "deny", "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = json.loads(ran.stdout)
    assert [(one["tool"], one["decision"], one["note"]) for one in told["decisions"]] == [
        ("fs_write", "deny", "--decide deny")
    ]
    assert told["report"] is None


@pytest.mark.parametrize(
    ("typed", "decision", "note"),
    [
        (["\n"], "allow", None),
        (["Y\n"], "allow", None),
        (["what?\n", "yes\n"], "allow", None),
        (["n\n", "\n"], "deny", None),
        (["N\n", " too long \n"], "deny", "too long"),
        (["y\x04", "n\n", "\n"], "deny", None),
        (["\x04"], None, None),
        (["n\n", "\x04"], None, None),
    ],
)
async def test_what_a_person_types(
    monkeypatch: pytest.MonkeyPatch, typed: list[str], decision: str | None, note: str | None
) -> None:
    ours, its = pty.openpty()
    os.write(ours, b"n\nn\n")  # typed before the question: no answer to it
    question, left = Question("1.5.1", "fs_write", "REPORT.md", "", ""), list(typed)
    with os.fdopen(its) as terminal, os.fdopen(ours, "wb", buffering=0) as keys:
        monkeypatch.setattr(sys, "stdin", terminal)

        def prompt(_: str) -> None:
            keys.write(left.pop(0).encode())

        try:
            answer = await person(prompt)(question)
        except LeftOpenError:
            assert decision is None
        else:
            assert (answer.decision, answer.note) == (decision, note)
    assert left == []


# ---- a real model


def model(request: Any) -> Said:
    """What a model would do; it decides from the conversation alone, so it may be asked again at any time."""
    results = [message["content"] for message in request.messages if message["role"] == "tool"]
    report = {"path": "REPORT.md", "content": "# One file\n"}
    if not results:
        return chat.call("bash_run", {"cmd": "wc -l files/*"})
    return chat.call("fs_write", report) if len(results) == 1 else chat.say("It is written.")


@pytest.mark.integration
def test_a_model_is_killed_and_checked_the_same_way(some: Path, tmp_path: Path, chat_server: ChatServer) -> None:
    chat_server.script = model
    wanted = ["--model", "test-1", "--base-url", chat_server.url, "--yes", "--json"]
    ran = demo(str(some), "--work", str(tmp_path / "w"), *wanted)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = json.loads(ran.stdout)
    assert [kill["open_calls"] for kill in told["kills"]] == [["1.1.1 bash_run EXECUTING"]]
    assert [one["tool"] for one in told["decisions"]] == ["bash_run", "fs_write"]
    assert not any(check["name"].startswith("report") for check in told["checks"])
    assert (tmp_path / "w" / "REPORT.md").read_text() == "# One file\n"


def test_a_model_is_not_let_loose_without_a_word(some: Path) -> None:
    result = kode("demo", str(some), "--model", "test-1", "--base-url", "http://127.0.0.1:9")
    assert result.exit_code == 2
    assert "--yes" in result.output


# ---- the verdicts


@pytest.mark.integration
@pytest.mark.parametrize(
    ("file", "old", "new", "checks"),
    [
        ("REPORT.md", "| lines | 1 |", "| lines | 2 |", ["report: counts", WAITED]),
        ("REPORT.md", "| a.txt | 4 |", "| a.txt | 5 |", ["report: biggest files", WAITED]),
        ("REPORT.md", "| `TODO` | 0 | 0 |", "| `TODO` | 1 | 0 |", ["report: hits", WAITED]),
        ("REPORT.md", "| `TODO` | 0 | 0 |\n| `the ` | 0 | 0 |\n| `and ` | 0 | 0 |\n", "", ["report: hits", WAITED]),
        ("REPORT.md", "In one go", "In two", [WAITED]),
        (LEDGER, "1.3.1 pid=", "1.3.1 pid=1\n1.3.1 pid=", [ONCE]),
        (LEDGER, "1.3.1 pid=", "1.9.1 pid=1\n1.3.1 pid=", [ONCE]),
        (LEDGER, "1.3.1 pid=", "", [ONCE]),
    ],
)
async def test_a_check_fails_when_a_file_is_wrong(
    finished: Path, tmp_path: Path, file: str, old: str, new: str, checks: list[str]
) -> None:
    work = Path(copytree(finished, tmp_path / "copy"))
    text = (work / file).read_text()
    assert old in text
    (work / file).write_text(text.replace(old, new))
    assert wrong(await facts_of(work)) == checks


def killed(facts: Facts) -> Kill:
    """A kill as it was seen when half of it all was there."""
    seen = tuple(facts.messages[:4])
    return Kill(1, Moment("command", 0.5), 1.0, None, messages=seen, events=10)


def with_kill(facts: Facts, **changes: Any) -> Facts:
    facts.watcher.kills.append(replace(killed(facts), **changes))
    return facts


def with_call(facts: Facts, tool: str, **changes: Any) -> Facts:
    return replace(facts, calls=[replace(call, **changes) if call.tool == tool else call for call in facts.calls])


def early(facts: Facts) -> Facts:
    os.utime(facts.settings.report, (0, 0))
    return facts


def seen_early(facts: Facts) -> Facts:
    question = Question("1.5.1", "fs_write", "REPORT.md", "", "")
    facts.watcher.decisions.append(Decision(question, Answer("allow", "me"), file_there=True, running=[]))
    return facts


def overtaken(facts: Facts) -> Facts:
    question = Question("1.5.1", "fs_write", "REPORT.md", "", "")
    facts.watcher.decisions.append(Decision(question, Answer("allow", "me"), file_there=False, running=[7]))
    return facts


def refused(facts: Facts) -> Facts:
    (write,) = facts.calls_of("fs_write")
    return with_call(facts, "fs_write", approvals=(replace(write.approvals[0], state="refused"),))


BROKEN: dict[str, tuple[Callable[[Facts], Facts], str]] = {
    "ended in the middle": (lambda f: replace(f, run=None), "run ended in order"),
    "a message is gone": (lambda f: replace(f, messages=f.messages[:-2] + f.messages[-1:]), "history is valid"),
    "a result is missing": (lambda f: replace(f, calls=f.calls[:1] + f.calls[2:]), "history is valid"),
    "an event is gone": (lambda f: replace(f, events=f.events[:5] + f.events[6:]), "nothing lost"),
    "an event was changed": (lambda f: replace(f, events=[*f.events[:-1], f.events[0]]), "nothing lost"),
    "what was seen is gone": (lambda f: with_kill(f, messages=(*killed(f).messages[1:],)), "nothing lost"),
    "a process is left": (lambda f: replace(f, left=[7]), "no orphan process"),
    "a process survived a kill": (lambda f: with_kill(f, left=[7]), "no orphan process"),
    "a process waited": (overtaken, "no orphan process"),
    "nobody was told of a repeat": (lambda f: with_call(f, "fs_glob", attempts=("1.1", "2.1")), REPEATS),
    "nobody was told of a seal": (lambda f: with_call(f, "bash_run", status=CallStatus.SEALED), ONCE),
    "nobody was asked": (lambda f: with_call(f, "fs_write", approvals=()), WAITED),
    "it was refused": (refused, WAITED),
    "it began too early": (lambda f: with_call(f, "fs_write", started_at=1), WAITED),
    "the file is older": (early, WAITED),
    "the file was there": (seen_early, WAITED),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", BROKEN)
async def test_a_check_fails_when_the_facts_are_wrong(finished: Path, tmp_path: Path, name: str) -> None:
    work = Path(copytree(finished, tmp_path / "copy"))
    facts = await facts_of(work)
    assert wrong(facts) == []
    breaks, check = BROKEN[name]
    assert wrong(breaks(facts)) == [check]


async def facts_of(work: Path) -> Facts:
    stored = Settings.load(work)
    assert stored is not None
    async with SqliteStore(stored.database) as store:
        view = Timeline(Console(quiet=True), 0.0)
        watcher = Watcher(stored, store, view, by_itself("allow", "a test"))
        await watcher.catch_up()
        watcher.processes.append(Process(1, 2**22, 0.0))
        return await gather(stored, store, watcher)


def wrong(facts: Facts) -> list[str]:
    return [check.name for check in judge(facts) if not check.ok]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo that went well."""
    top = tmp_path_factory.mktemp("demo")
    (top / "some").mkdir()
    (top / "some" / "a.txt").write_text("one\n")
    ran = demo(str(top / "some"), "--work", str(top / "w"), "--keep", "--kill-at", "never")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return top / "w"


@pytest.fixture
def some(tmp_path: Path) -> Path:
    """A folder with one file."""
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "a.txt").write_text("one\n")
    return folder
