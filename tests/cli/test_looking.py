"""`kode agents`, `show`, `events`, `send`, `interrupt`: looking at agents and steering them, without a key."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys

import anyio
import pytest
from tests.cli.conftest import Kode, Ran
from tests.servers.chat import ChatServer, call, say

from kode.core import open_store

pytestmark = pytest.mark.integration


@pytest.fixture
def done(wired: Kode, chat_server: ChatServer) -> Ran:
    """An agent with one run, after which the model is gone and so is the key."""
    chat_server.reply(call("fs_glob", {"pattern": "*.txt"}, text="I look."), "Nothing there.")
    ran = wired("run", "Any texts?", "--agent", "team/one")
    assert ran.code == 0
    wired.env = {}
    return ran


def test_show_draws_runs_steps_and_what_happened(wired: Kode, done: Ran) -> None:
    shown = wired("show", "team/one")
    assert shown.code == 0
    assert [line.strip("│├└─ ") for line in shown.out.splitlines()] == [
        "team/one  coder@1  READY  30 tokens",
        "● created from coder@1",
        "● run 1",
        "› Any texts?",
        "· step 1",
        "» I look.",
        "▸ fs_glob pattern=*.txt",
        "✓ count=0",
        "· step 2",
        "» Nothing there.",
        "✓ run 1 ended (end_turn) · 2 steps · 30 tokens",
    ]


def test_show_of_the_last_runs_only(wired: Kode, chat_server: ChatServer, done: Ran) -> None:
    wired.env = {"OPENAI_BASE_URL": chat_server.url}
    chat_server.reply("Still nothing.")
    wired("run", "And now?", "--agent", "team/one")
    shown = wired("show", "team/one", "--last", "1").out
    assert "● run 2" in shown
    assert "● run 1" not in shown
    assert "1 earlier runs" in shown
    assert [run["number"] for run in json.loads(wired("show", "team/one", "--last", "1", "--json").out)["runs"]] == [2]


def test_show_for_programs(wired: Kode, done: Ran) -> None:
    told = json.loads(wired("show", "team/one", "--json").out)
    (run,) = told["runs"]
    assert (told["agent_id"], told["status"], told["pending"]) == ("team/one", "READY", [])
    assert (run["number"], run["status"], run["stop_reason"], run["steps"]) == (1, "ok", "end_turn", 2)
    assert [(one["id"], one["tool"], one["status"]) for one in run["calls"]] == [("1.1.1", "fs_glob", "COMPLETED")]


def test_events_by_place_channel_and_type(wired: Kode, done: Ran) -> None:
    lines = wired("events", "team/one", "--json").out.splitlines()
    told = [json.loads(line) for line in lines]
    assert [one["cursor"] for one in told] == list(range(1, len(told) + 1))
    assert told[0]["type"] == "agent_created"
    assert set(told[0]) == {
        "agent_id", "cursor", "type", "channel", "at", "run", "step", "call", "ref", "preview", "data",
    }  # fmt: skip
    half = len(told) // 2
    rest = [json.loads(line) for line in wired("events", "team/one", "--json", "--since", str(half)).out.splitlines()]
    assert rest == told[half:]
    some = [
        json.loads(line) for line in wired("events", "team/one", "--json", "--channel", "progress").out.splitlines()
    ]
    assert some == [one for one in told if one["channel"] == "progress"]
    (end,) = wired("events", "team/one", "--type", "done").out.splitlines()
    assert "reason=end_turn" in end
    assert wired("events", "team/one", "--since", str(len(told))).out == ""
    assert "types are" in wired("events", "team/one", "--type", "nope").err


def test_events_are_followed_from_another_process(wired: Kode, done: Ran) -> None:
    process = wired.start("events", "team/one", "--follow", "--json", "--type", "done", "--type", "message_received")
    assert process.stdout is not None
    assert process.stderr is not None
    assert [json.loads(process.stdout.readline())["type"] for _ in range(2)] == ["message_received", "done"]
    process.stdout.close()  # as `| head` does; the next event finds no reader
    wired("send", "team/one", "More.")
    wired("interrupt", "team/one")
    process.terminate()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()


def test_a_closed_pipe_is_no_error(wired: Kode, done: Ran) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        ran = subprocess.run(
            [sys.executable, "-m", "kode.cli", "events", "team/one", "--json"],
            cwd=wired.folder, stdout=pipe, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert ran.stderr == b""


def test_agents_are_listed_by_prefix_and_page(wired: Kode, chat_server: ChatServer, done: Ran) -> None:
    wired.env = {"OPENAI_BASE_URL": chat_server.url, "KODE_MODEL": "openai:test"}
    chat_server.reply(call("bash_run", {"cmd": "true"}), "b", "c")
    for name in ("team/two", "team/three", "other"):
        wired("run", "x", "--agent", name)
    wired.env = {}
    table = wired("agents").out
    assert "team/two    PAUSED AWAITING_APPROVAL  coder@1" in table
    assert "    waits for a decision: 1.1.1 bash_run true\n" in table
    told = json.loads(wired("agents", "team/", "--limit", "2", "--json").out)
    assert ([one["agent_id"] for one in told["agents"]], told["next"]) == (["team/one", "team/three"], "team/three")
    told = json.loads(wired("agents", "team/", "--limit", "2", "--json", "--after", told["next"]).out)
    assert ([one["agent_id"] for one in told["agents"]], told["next"]) == (["team/two"], None)
    assert wired("agents", "nobody").err == "No agents match.\n"


def test_messages_and_interrupts_wait_in_the_inbox(wired: Kode, chat_server: ChatServer, done: Ran) -> None:
    sent = wired("send", "team/one", "-", stdin="And now?\n")
    assert sent.code == 0
    assert "kode resume team/one" in sent.err
    wired.env = {"OPENAI_BASE_URL": chat_server.url}
    chat_server.reply(call("bash_run", {"cmd": "true"}))
    ran = wired("resume", "team/one")
    assert ran.code == 3
    assert "messages wait in its inbox" in ran.err
    assert json.loads(wired("interrupt", "team/one", "--json").out)["driven"] is False
    ran = wired("resume", "team/one")
    assert ran.code == 1
    assert "interrupted" in ran.err


def test_a_store_that_fails_in_mid_run_says_how_to_go_on(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(call("bash_run", {"cmd": "printf x > ../store/agents/a/journal"}))
    ran = wired("run", "x", "--agent", "a", "--mode", "auto", "--store", "json:../store")
    assert ran.code == 1
    assert "from a backup" in ran.err
    assert ran.err.splitlines()[-1].strip() == "kode resume --store json:../store a"


def test_an_agent_whose_processes_died_again_and_again_is_resumed_by_hand(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(say("Slow.").but(fault="stall"))
    assert wired("run", "x", "--agent", "a", "--timeout", "0.5").code == 4

    async def die_again_and_again() -> None:
        async with open_store(f"sqlite:///{wired.folder}/.kode/agents.db") as store:
            for _ in range(6):
                await store.release(await store.acquire("a", "somebody", 60.0), failed=True)

    anyio.run(die_again_and_again)
    ran = wired("resume", "a")
    assert ran.code == 1
    assert ran.err.splitlines()[-1].strip() == "kode resume a"
    chat_server.reply("Done.")
    assert wired("resume", "a").out == "Done.\n"


def test_one_agent_that_cannot_be_read_hides_no_other(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply("One.", "Two.")
    for name in ("a", "b"):
        assert wired("run", "x", "--agent", name).code == 0
    with contextlib.closing(sqlite3.connect(wired.folder / ".kode" / "agents.db")) as database, database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in tables:
            if {"agent_id", "body"} <= {column[1] for column in database.execute(f"PRAGMA table_info('{name}')")}:
                database.execute(f"UPDATE '{name}' SET body = x'01ff' WHERE agent_id = 'a'")
    told = json.loads(wired("agents", "--json").out)["agents"]
    assert [(one["agent_id"], one["at"]) for one in told] == [("a", "UNREADABLE"), ("b", "READY")]
    ran = wired("agents")
    assert ran.code == 0
    assert "waits for somebody who mends it" in ran.out


def test_what_somebody_elses_hand_wrote_is_one_clear_sentence(wired: Kode, done: Ran) -> None:
    """A time that no calendar holds is shown as it is; a body of another type is a damaged record, not a traceback."""
    with contextlib.closing(sqlite3.connect(wired.folder / ".kode" / "agents.db")) as database, database:
        database.execute("UPDATE events SET at = 9223372036854775807")
    ran = wired("events", "team/one")
    assert ran.code == 0
    assert "9223372036854775807" in wired("events", "team/one", "--json").out
    with contextlib.closing(sqlite3.connect(wired.folder / ".kode" / "agents.db")) as database, database:
        database.execute("UPDATE events SET body = 7")
    ran = wired("show", "team/one")
    assert ran.code == 1
    assert "its body is no bytes" in ran.err
    assert "Traceback" not in ran.err
