"""`kode run` and `kode resume` against a real server on loopback, without a terminal."""

from __future__ import annotations

import json
import os
import shlex
import time
from pathlib import Path

import pytest
from tests.cli.conftest import KEY, PATIENCE_S, Kode
from tests.servers.chat import ChatServer, Said, call, calls, fail, html, say

from kode.cli import opening
from kode.cli.opening import store_option

pytestmark = pytest.mark.integration


def test_the_answer_goes_to_stdout_and_all_else_to_stderr(wired: Kode, chat_server: ChatServer) -> None:
    (wired.folder / "a.txt").write_text("hello\n")
    chat_server.reply(call("fs_read", {"path": "a.txt"}, text="I look."), "It says hello.")
    ran = wired("run", "What is in a.txt?")
    assert (ran.code, ran.out) == (0, "It says hello.\n")
    for shown in (
        "› What is in a.txt?",
        "I look.",
        "▸ fs_read a.txt",
        "content=hello",
        "run 1 ended (end_turn) · 2 steps",
    ):
        assert shown in ran.err
    seen = chat_server.requests[-1]
    assert seen.messages[0]["content"].startswith("You are a careful software engineer")
    assert "hello" in seen.messages[-1]["content"]
    assert (wired.folder / ".kode" / ".gitignore").read_text() == "*\n"


def test_the_task_may_come_from_stdin_and_the_view_may_be_left_out(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply("Done.")
    ran = wired("run", "-", "--quiet", stdin="Do it.\nAnd this.\n")
    assert (ran.code, ran.out, ran.err) == (0, "Done.\n", "")
    assert chat_server.requests[0].messages[-1]["content"] == "Do it.\nAnd this.\n"


def test_json_for_programs(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(calls(("bash_run", {"cmd": "echo hi > made"}), ("fs_glob", {"pattern": "*"})))
    ran = wired("run", "x", "--json", "--agent", "named")
    told = json.loads(ran.out)
    assert ran.code == told["exit_code"] == 3
    assert told["agent_id"] == "named"
    assert told["status"] == "paused"
    assert told["pending"] == [{"call": "1.1.1", "tool": "bash_run", "input": {"cmd": "echo hi > made"}}]
    chat_server.reply("Made.")
    assert wired("decide", "named", "1.1.1", "allow").code == 0
    told = json.loads(wired("resume", "named", "--json", "--quiet").out)
    assert (told["status"], told["text"], told["steps"]) == ("ok", "Made.", 2)
    assert told["usage"]["input"] == 20
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "cli.md").read_text()
    assert [name for name in told if f"`{name}`" not in guide] == []
    assert (wired.folder / "made").read_text() == "hi\n"


def test_without_a_terminal_it_rests_and_says_how_to_decide(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(call("fs_write", {"path": "a", "content": "x"}))
    ran = wired("run", "x")
    assert (ran.code, ran.out) == (3, "")
    assert f"kode decide {ran.agent_id} 1.1.1 allow\n" in ran.err
    assert f"kode resume {ran.agent_id}\n" in ran.err
    assert not (wired.folder / "a").exists()
    # Denied with a reason, which the model is told; deciding again, otherwise, is refused.
    denial = ("decide", ran.agent_id, "1.1.1", "deny", "--note", "wrong place", "--by", "ann")
    assert "In the inbox" in wired(*denial).err
    assert "counts once" in wired(*denial).err
    again = wired("decide", ran.agent_id, "1.1.1", "allow")
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "was decided already" in again.err
    chat_server.reply("I see.")
    ran = wired("resume", ran.agent_id)
    assert "fs_write a: denied by ann: wrong place" in ran.err
    assert "wrong place" in chat_server.requests[-1].messages[-1]["content"]
    assert not (wired.folder / "a").exists()


def test_yes_allows_and_the_store_says_who_did(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(call("bash_run", {"cmd": "echo $((6*7)) > made"}), "Made.")
    ran = wired("run", "x", "--yes")
    assert ran.code == 0
    assert (wired.folder / "made").read_text() == "42\n"
    (asked,) = json.loads(wired("show", ran.agent_id, "--json").out)["runs"][0]["calls"][0]["approvals"]
    assert asked["state"] == "approved"
    assert asked["by"].endswith("(--yes)")
    # It was for that run only: the agent still asks.
    chat_server.reply(call("bash_run", {"cmd": "rm made"}))
    assert wired("run", "y", "--agent", ran.agent_id).code == 3
    assert (wired.folder / "made").exists()


def test_another_argument_than_the_model_gave(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(call("bash_run", {"cmd": "echo bad > made"}))
    ran = wired("run", "x")
    assert wired("decide", ran.agent_id, "1.1.1", "allow", "--input", "{no json").code == 2
    assert wired("decide", ran.agent_id, "1.1.1", "allow", "--input", '{"cmd": "echo good > made"}').code == 0
    chat_server.reply("ok")
    assert wired("resume", ran.agent_id).code == 0
    assert (wired.folder / "made").read_text() == "good\n"


def test_an_agent_that_is_there_gets_another_task_and_keeps_its_recipe(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply("One.", "Two.")
    assert wired("run", "first", "--agent", "mine").out == "One.\n"
    assert wired("run", "second", "--agent", "mine").out == "Two.\n"
    assert [m["content"] for m in chat_server.requests[-1].messages[1:]] == ["first", "One.", "second"]
    ran = wired("run", "third", "--agent", "mine", "--model", "openai:other", "--mode", "auto")
    assert ran.code == 2
    assert "leave out --model, --mode" in ran.err


def test_what_run_was_given_is_kept_but_never_a_key(kode: Kode, chat_server: ChatServer, tmp_path: Path) -> None:
    chat_server.key = KEY
    chat_server.reply(call("bash_run", {"cmd": "env"}))
    ran = kode("run", "x", "--model", "openai:test", "--base-url", chat_server.url, OPENAI_API_KEY=KEY)
    assert ran.code == 3
    assert kode("decide", ran.agent_id, "1.1.1", "allow").code == 0  # needs no key
    chat_server.reply("Fine.")
    resumed = kode("resume", ran.agent_id, OPENAI_API_KEY=KEY)  # needs nothing else
    assert (resumed.code, resumed.out) == (0, "Fine.\n")
    shown = kode("show", ran.agent_id).out + kode("events", ran.agent_id, "--json").out
    assert KEY not in ran.err + resumed.err + shown
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "agents.db" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_wrong_key_is_said_and_not_shown(kode: Kode, chat_server: ChatServer) -> None:
    chat_server.key = "another"
    ran = kode("run", "x", "--model", "openai:test", "--base-url", chat_server.url, OPENAI_API_KEY=KEY)
    assert (ran.code, ran.out) == (1, "")
    assert "401" in ran.err
    assert KEY not in ran.err
    assert f'kode run --agent {ran.agent_id} "Go on."' in ran.err


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (html(200), "no stream of events"),
        (fail(400, "The model does not exist"), "The model does not exist"),
    ],
)
def test_a_server_that_answers_nonsense_is_one_clear_line(
    wired: Kode, chat_server: ChatServer, reply: Said, said: str
) -> None:
    chat_server.reply(reply)
    ran = wired("run", "x")
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err
    assert "Traceback" not in ran.err
    chat_server.reply("Better.")
    assert wired("run", "Go on.", "--agent", ran.agent_id).out == "Better.\n"


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_half_a_tool_call_is_withdrawn_and_asked_again(wired: Kode, chat_server: ChatServer, fault: str) -> None:
    half = call("fs_read", {"path": "a.txt"}, text="I will read it. ").but(fault=fault, at="path")
    chat_server.reply(half, "Whole.")
    ran = wired("run", "x")
    assert (ran.code, ran.out) == (0, "Whole.\n")
    assert "I will" in ran.err
    (told,) = (line for line in ran.err.splitlines() if "the text above is withdrawn" in line)
    assert "asking again (attempt 2). " in told, "the reason is said at once"
    assert "a model call failed and was made again" not in ran.err, "and not a second time with the next commit"
    assert "fs_read" not in ran.err


def test_time_runs_out_and_it_goes_on_later(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(say("Slow.").but(fault="stall"))
    ran = wired("run", "x", "--timeout", "0.5")
    assert (ran.code, ran.out) == (4, "")
    assert f"kode resume {ran.agent_id}\n" in ran.err
    chat_server.reply("Now.")
    assert wired("resume", ran.agent_id).out == "Now.\n"


def test_an_agent_without_tools_is_told_of(wired: Kode, chat_server: ChatServer) -> None:
    (wired.folder / "t.toml").write_text("id = 't'\n")
    chat_server.reply("One.", "Two.", "Three.")
    assert "the agent has none; --tools names some" in wired("run", "x", "--template", "t.toml").err
    assert "--tools" not in wired("run", "x", "--template", "t.toml", "--tools", "fs_read").err
    assert "--tools" not in wired("run", "x", "--template", "t.toml", "--quiet").err


def test_steps_run_out(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(call("fs_glob", {"pattern": "*"}))
    ran = wired("run", "x", "--max-steps", "1")
    assert ran.code == 1
    assert "max_steps" in ran.err


def test_resuming_what_is_done_shows_the_answer_and_asks_no_model(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply("Done.")
    ran = wired("run", "x")
    again = wired("resume", ran.agent_id)
    assert (again.code, again.out) == (0, "Done.\n")
    assert "Nothing is open" in again.err
    assert len(chat_server.requests) == 1


def test_a_folder_and_a_store_of_ones_own(wired: Kode, chat_server: ChatServer, tmp_path: Path) -> None:
    other = tmp_path / "with space"
    other.mkdir()
    (other / "here").write_text("")
    store = f"sqlite:///{tmp_path / 'my store.db'}"
    chat_server.reply(call("fs_write", {"path": "there", "content": "x"}))
    ran = wired("run", "x", "--dir", str(other), "--store", store)
    assert ran.code == 3
    assert f"kode resume --store '{store}' {ran.agent_id}\n" in ran.err
    chat_server.reply("ok")
    assert wired("resume", ran.agent_id, "--yes", KODE_STORE=store).code == 0  # from another folder than its own
    assert (other / "there").exists()
    assert not (wired.folder / ".kode").exists()


def test_what_is_printed_can_be_typed(wired: Kode, chat_server: ChatServer, tmp_path: Path) -> None:
    """Also where the store is that of another folder, and for an id that looks like an option."""
    (tmp_path / "my other").mkdir()
    chat_server.reply(call("fs_write", {"path": "a", "content": "x"}))
    ran = wired("run", "x", "--dir", str(tmp_path / "my other"), "--agent=-odd")
    assert ran.code == 3
    chat_server.reply("Done.")
    printed = [shlex.split(line)[1:] for line in ran.err.splitlines() if line.strip().startswith("kode ")]
    assert [words[0] for words in printed] == ["decide", "resume"]
    assert [wired(*words).code for words in printed] == [0, 0]
    assert (tmp_path / "my other" / "a").read_text() == "x"
    assert store_option(None) == store_option(None, Path.cwd()) == ""
    assert store_option("pg://u:p@h/db") == " --store URL"


def test_a_key_goes_to_a_stored_url_only_if_it_is_named_again(
    kode: Kode, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_LOOPBACK", ())  # so that the server is one elsewhere
    chat_server.reply("One.", "Two.", "Three.", "Four.")
    url = ("--base-url", chat_server.url)
    keys = {"OPENAI_API_KEY": KEY}
    assert kode("run", "x", "--agent", "a", "--model", "openai:test", *url, **keys).code == 0
    assert chat_server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    ran = kode("run", "y", "--agent", "a", **keys)
    assert (ran.code, chat_server.requests[-1].headers.get("authorization")) == (0, None)
    assert f"{chat_server.url} was stored with the agent and gets no key" in ran.err
    assert KEY not in ran.err
    for said in (url, ()):
        named = {} if said else {"OPENAI_BASE_URL": chat_server.url}
        ran = kode("run", "z", "--agent", "a", *said, **keys, **named)
        assert (ran.code, "gets no key" in ran.err) == (0, False)
        assert chat_server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    ran = kode("resume", "a", "--base-url", "http://127.0.0.1:1/v1", **keys)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "keeps the URL it was made with" in ran.err


def test_a_key_goes_to_a_stored_url_on_this_machine(kode: Kode, chat_server: ChatServer) -> None:
    chat_server.reply("One.", "Two.")
    keys = {"OPENAI_API_KEY": KEY}
    kode("run", "x", "--agent", "a", "--model", "openai:test", "--base-url", chat_server.url, **keys)
    assert kode("run", "y", "--agent", "a", **keys).code == 0
    assert chat_server.requests[-1].headers["authorization"] == f"Bearer {KEY}"


def test_a_store_of_another_user_must_be_named(
    wired: Kode, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_server.reply("One.")
    wired("run", "x", "--agent", "a")
    monkeypatch.setattr(os, "getuid", lambda: (wired.folder / ".kode").stat().st_uid + 1)
    ran = wired("resume", "a")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "belongs to another user" in ran.err
    assert wired("run", "x").code == 2
    named = shlex.split(ran.err.rpartition(" --store ")[2])[0]
    assert wired("resume", "a", "--store", named).code == 0


def test_a_folder_that_is_gone_is_not_made_anew(wired: Kode, chat_server: ChatServer, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    store = ("--store", f"sqlite:///{tmp_path}/s.db")
    chat_server.reply("One.")
    assert wired("run", "x", "--agent", "a", "--dir", str(tmp_path / "project"), *store).code == 0
    (tmp_path / "project").rename(tmp_path / "moved")
    for ran in (wired("resume", "a", *store), wired("run", "y", "--agent", "a", *store)):
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert str(tmp_path / "project") in ran.err
    assert not (tmp_path / "project").exists()


PAY = """
import sys, time
from kode.cli.main import main
from kode.core import tool
from kode.core.tools.catalog import default_tools

@tool(recovery="ask")
def pay() -> str:
    "Pay."
    open("paid", "a").write("paid\\n")
    if sys.argv[1] == "run": time.sleep(60)
    return "paid"

default_tools.register(pay)
main()
"""


def test_yes_is_no_answer_to_whether_something_may_run_again(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(call("pay", {}))
    first = wired.script(PAY, "run", "x", "--agent", "a", "--tools", "pay", "--yes")
    while not ((wired.folder / "paid").exists() and (wired.folder / "paid").read_text()):
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    first.kill()
    first.communicate()
    second = wired.script(PAY, "resume", "a", "--yes")
    _, err = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 3, err
    assert b"kode decide a 1.1.1 allow" in err
    assert (wired.folder / "paid").read_text() == "paid\n"


def test_an_answer_that_cannot_be_written_is_kept(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply("Precious.")
    ran = wired.shell("run x --agent a > /dev/full")
    assert ran.returncode == 1
    assert "could not be written: No space left on device" in ran.stderr
    assert ran.stderr.endswith("  kode resume a\n"), "and no traceback behind it"
    assert wired("resume", "a").out == "Precious.\n"
    ran = wired.shell("agents > /dev/full")
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(wired: Kode, chat_server: ChatServer, closed: str) -> None:
    chat_server.reply("Fine.")
    ran = wired.shell(f"run x {closed}")
    assert (ran.returncode, "Traceback" in ran.stderr) == (0, False)
    assert ran.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "Fine.\n")


def test_a_task_that_nobody_took_waits(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(say("never").but(fault="stall", at=None))
    first = wired.start("run", "x", "--agent", "a")
    while not chat_server.requests:
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    ran = wired("run", "y", "--agent", "a", "--timeout", "0.3")
    first.kill()
    first.communicate()
    assert ran.code == 4
    assert "The task waits in the inbox; who drives the agent takes it.\n" in ran.err
