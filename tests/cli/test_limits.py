"""`kode limits`, and `--limit` of `run` and `send`."""

from __future__ import annotations

import json
import threading

import pytest
from tests.cli.conftest import Kode
from tests.servers.chat import ChatServer, Said, Seen, call

pytestmark = pytest.mark.integration
LOOK = call("fs_glob", {"pattern": "*"})


def test_a_limit_of_one_run_and_one_of_the_agent(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(*[LOOK] * 8)
    ran = wired(
        "run", "look", "--agent", "mine", "--limit", "max_steps_per_run=2", "--limit", "tool_timeout_s=9.5", "--json"
    )
    assert (ran.code, json.loads(ran.out)["steps"], json.loads(ran.out)["stop_reason"]) == (1, 2, "max_steps")
    before = json.loads(wired("limits", "mine", "--json").out)
    assert before["limits"]["max_steps_per_run"] == 200
    assert before["named"] == ["processing_timeout_s", "tool_timeout_s"]
    changed = wired("limits", "mine", "max_steps_per_run=3", "processing_timeout_s=none")
    assert (changed.code, changed.out) == (0, "")
    assert "In the inbox: max_steps_per_run=3 processing_timeout_s=none." in changed.err
    assert "kode resume mine" in changed.err
    assert json.loads(wired("run", "look", "--agent", "mine", "--json").out)["steps"] == 3
    lines = wired("limits", "mine").out.splitlines()
    assert [line.split() for line in lines if "steps" in line or "processing" in line] == [
        ["processing_timeout_s", "none"],
        ["max_steps_per_run", "3"],
    ]
    assert ["max_inbox", "1,000", "(default)"] in [line.split() for line in lines]
    assert wired("send", "mine", "look", "--limit", "max_steps_per_run=1").code == 0
    assert json.loads(wired("resume", "mine", "--json").out)["steps"] == 1


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("max_steps_per_run", "'max_steps_per_run' is no limit; give NAME=VALUE, NAME one of processing_timeout_s,"),
        ("steps=3", "'steps=3' is no limit"),
        ("max_steps_per_run=0", "Limits.max_steps_per_run is 0; give a whole number from 1"),
        ("max_steps_per_run=many", "Limits.max_steps_per_run is 'many'"),
        ("max_inbox=none", "Limits.max_inbox is None"),
        ("tool_timeout_s=NaN", "Limits.tool_timeout_s is nan"),
    ],
)
def test_what_is_no_limit(wired: Kode, chat_server: ChatServer, word: str, said: str) -> None:
    chat_server.reply("Done.")
    assert wired("run", "x", "--agent", "mine").code == 0
    commands = (("limits", "mine", word), ("send", "mine", "x", "--limit", word), ("run", "x", "--limit", word))
    for ran in (wired(*command) for command in commands):
        assert ran.code == 2
        assert said in ran.err
    assert wired("limits", "nobody").code == 2


def test_a_change_from_another_process_reaches_the_one_at_work(wired: Kode, chat_server: ChatServer) -> None:
    """It is taken up with the next commit: the run stops in its fourth step and not in its two hundredth."""
    third, go = threading.Event(), threading.Event()

    def script(_: Seen) -> Said:
        if len(chat_server.requests) == 3:
            third.set()
            assert go.wait(20)
        return LOOK

    chat_server.script = script
    at_work = wired.start("run", "look", "--agent", "mine", "--json")
    try:
        assert third.wait(20)
        assert json.loads(wired("limits", "mine", "max_steps_per_run=4", "--json").out)["driven"] is True
    finally:
        go.set()
        out, err = at_work.communicate(timeout=60)
    assert (json.loads(out)["stop_reason"], json.loads(out)["steps"]) == ("max_steps", 4), err
    assert json.loads(wired("limits", "mine", "--json").out)["limits"]["max_steps_per_run"] == 4
