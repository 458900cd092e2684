"""`kode` in a terminal: prompts, Ctrl-C, narrow and plain terminals, and a process that is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import time
from pathlib import Path

import pytest
from tests.cli.conftest import PATIENCE_S, Kode
from tests.servers.chat import ChatServer, call, calls, say

pytestmark = pytest.mark.integration
PROMPT = "leave it waiting > "


def test_a_person_decides(wired: Kode, chat_server: ChatServer) -> None:
    """Yes to one, no with a reason to another, and always to a third, in one run."""
    (wired.folder / "a.txt").write_text("hello\nworld\n")
    chat_server.reply(
        call("fs_read", {"path": "a.txt"}),  # else it may not be replaced
        calls(
            ("fs_write", {"path": "a.txt", "content": "hello\nbrave\nworld\n"}),
            ("fs_edit", {"path": "a.txt", "old_string": "world", "new_string": "moon"}),
            ("bash_run", {"cmd": "echo one >> log"}),
        ),
        calls(("bash_run", {"cmd": "echo two >> log"}), ("fs_write", {"path": "b", "content": ""})),
        say("All done.", pause_s=0.01),
    )
    terminal = wired.terminal("run", "x")
    terminal.expect(PROMPT)
    terminal.type("maybe\n")  # no answer: asked again
    terminal.expect(PROMPT)
    terminal.type("y\n")
    terminal.expect(PROMPT)
    terminal.type("n\n")
    terminal.expect("no reason) > ")
    terminal.type("keep the world\n")
    terminal.expect(PROMPT)
    terminal.type("a\n")
    terminal.expect(PROMPT)  # for another tool
    terminal.type("y\n")
    assert terminal.wait() == 0
    shown = terminal.shown
    assert "  a.txt\n  @@ -1,2 +1,3 @@\n   hello\n  +brave\n   world\n" in shown
    assert "  -world\n  +moon\n" in shown
    assert "  $ echo one >> log\n" in shown
    assert shown.count("Allow?") == 5
    assert "keep the world" in chat_server.requests[2].messages[-2]["content"]
    assert (wired.folder / "a.txt").read_text() == "hello\nbrave\nworld\n"
    assert (wired.folder / "log").read_text() == "one\ntwo\n"
    # The answer stands once: it was shown as it came, on the same terminal that stdout is.
    assert shown.count("All done.") == 1
    assert "All done.\n✓ run 1 ended" in shown


def test_what_is_asked_about_cannot_hide_anything(wired: Kode, chat_server: ChatServer) -> None:
    evil = "echo safe #\x1b[2K\r\x1b[1Arm -rf \u202ex"
    first = ("fs_write", {"path": "a", "content": ""})
    chat_server.reply(say("Look: \x1b[2J\x1b]0;title\x07").but(calls=(first, ("bash_run", {"cmd": evil}))))
    terminal = wired.terminal("run", "x", NO_COLOR="1")
    terminal.expect(PROMPT)
    terminal.type("y\n")
    terminal.expect(PROMPT)
    terminal.type("q\n")
    assert terminal.wait() == 3
    assert "$ echo safe #\\e[2K\\r\\e[1Arm -rf \\u202ex" in terminal.shown
    assert "Look: \\e[2J\\e]0;title\\x07" in terminal.shown
    for steering in (b"\x1b[2J", b"\x1b]0;", b"\x1b[1A", b"\x1b[2K", b"\x07", "\u202e".encode()):
        assert steering not in terminal.raw
    assert re.findall(rb"\x1b\[[0-9;]*3[0-9][0-9;]*m", terminal.raw) == [], "NO_COLOR was given"
    # What is left to decide, and not what was decided just now.
    assert f"kode decide {terminal.agent_id} 1.1.2 allow" in terminal.shown
    assert f"kode decide {terminal.agent_id} 1.1.1" not in terminal.shown


def test_a_long_write_can_be_seen_whole_and_edited(wired: Kode, chat_server: ChatServer) -> None:
    content = "".join(f"line {n}\n" for n in range(60))
    chat_server.reply(call("fs_write", {"path": "a", "content": content}), "ok")
    editor = wired.folder / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/line 59/changed/' \"$1\"\n")
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    terminal = wired.terminal("run", "x", EDITOR=str(editor), width=40)
    terminal.expect("waiting > ")
    assert "line 59" in terminal.shown, "head and tail are shown"
    assert "line 45" not in terminal.shown
    assert "… 21 more lines: v shows them all" in terminal.shown
    terminal.type("v\n")
    terminal.expect("+line 45")
    terminal.expect("waiting > ")
    terminal.type("e\n")
    assert terminal.wait() == 0
    assert (wired.folder / "a").read_text() == content.replace("line 59", "changed")
    lines = [line for line in terminal.shown.splitlines() if not line.startswith("Allow")]  # the terminal wraps that
    assert [line for line in lines if len(line) > 40] == []


def test_ctrl_c_in_the_editor_is_for_the_editor(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(call("bash_run", {"cmd": "echo one > out"}), "Done.")
    editor = wired.folder / "editor"
    editor.write_text(
        "#!/bin/sh\ntrap 'trapped=1' INT\necho EDITOR-UP\n"
        'while [ -z "$trapped" ]; do sleep 0.02; done\nsed -i s/one/two/ "$1"\n'
    )
    editor.chmod(0o755)
    terminal = wired.terminal("run", "x", EDITOR=str(editor))
    terminal.expect(PROMPT)
    terminal.type("e\n")
    terminal.expect("EDITOR-UP")
    terminal.type("\x03")
    assert terminal.wait() == 0
    assert (wired.folder / "out").read_text() == "two\n"


def test_half_a_line_is_no_answer(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(call("bash_run", {"cmd": "touch ran"}))
    terminal = wired.terminal("run", "x")
    terminal.expect(PROMPT)
    terminal.type("y\x04")  # Ctrl-D hands it over without Enter
    terminal.expect(PROMPT)
    terminal.type("q\n")
    assert terminal.wait() == 3
    assert not (wired.folder / "ran").exists()


def test_a_huge_difference_does_not_hold_up_the_question(wired: Kode, chat_server: ChatServer) -> None:
    (wired.folder / "big").write_text("".join(f"{n % 150}\n" for n in range(20_000)))
    chat_server.reply(call("fs_write", {"path": "big", "content": "".join(f"{n * 7 % 150}\n" for n in range(20_000))}))
    terminal = wired.terminal("run", "x")
    terminal.expect("@ line 2: replaces 19,")
    terminal.expect(PROMPT)
    terminal.type("q\n")
    assert terminal.wait() == 3


def test_somebody_else_may_decide_while_the_question_stands(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(call("fs_write", {"path": "a", "content": ""}), "Fine.")
    terminal = wired.terminal("run", "x", "--agent", "mine")
    terminal.expect(PROMPT)
    assert wired("decide", "mine", "1.1.1", "deny", "--by", "ann", "--note", "no").code == 0
    assert terminal.wait() == 0
    assert "Call 1.1.1 was decided by somebody else." in terminal.shown
    assert "denied by ann: no" in terminal.shown
    assert not (wired.folder / "a").exists()


def test_ctrl_c_leaves_an_agent_that_goes_on(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(call("bash_run", {"cmd": "echo $$ > pid; echo work''ing; exec sleep 600"}))
    terminal = wired.terminal("run", "x", "--yes")
    terminal.expect("working")  # in the status line, while the command runs
    pid = _written(wired.folder / "pid")
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert f"kode resume {terminal.agent_id}\r\n".encode() in terminal.raw
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    chat_server.reply("I know that the outcome is unknown.")
    ran = wired("resume", terminal.agent_id)
    assert (ran.code, ran.out) == (0, "I know that the outcome is unknown.\n")
    assert "it is sealed" in ran.err


def test_ctrl_c_at_a_question_and_in_mid_text(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(say("A long story about it", piece=8).but(fault="stall", at="tory abo"))
    terminal = wired.terminal("run", "x")
    terminal.expect("A long s")
    terminal.type("\x03")
    assert terminal.wait() == 130
    chat_server.reply(call("fs_write", {"path": "a", "content": ""}))
    terminal = wired.terminal("resume", terminal.agent_id)
    terminal.expect(PROMPT)
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert "kode decide" in terminal.shown
    assert json.loads(wired("show", terminal.agent_id, "--json").out)["at"] == "AWAITING_APPROVAL"


def test_a_closed_terminal_leaves_an_agent_that_goes_on(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(call("fs_write", {"path": "a", "content": ""}))
    terminal = wired.terminal("run", "x", "--agent", "mine")
    terminal.expect(PROMPT)
    # It hears of it twice, by the signal and by the end of its input; either may come first.
    assert terminal.hang_up() in (128 + signal.SIGHUP, 3)
    assert json.loads(wired("show", "mine", "--json").out)["at"] == "AWAITING_APPROVAL"


def test_killed_in_the_middle_and_resumed(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(call("bash_run", {"cmd": "echo ran >> ledger; exec sleep 600"}, text="Here goes."))
    process = wired.start("run", "x", "--yes", "--agent", "victim")
    _written(wired.folder / "ledger")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    row = json.loads(wired("agents", "--json").out)["agents"][0]
    assert (row["status"], row["at"], row["driven"]) == ("WORKING", "TOOL_EXECUTING", False)
    assert row["waits_for"] == "a process: kode resume"
    chat_server.reply("It may have run.")
    ran = wired("resume", "victim")
    assert (ran.code, ran.out) == (0, "It may have run.\n")
    assert "goes on where it was: run 1, step 1, TOOL_EXECUTING" in ran.err
    assert "was running when its process ended; it is sealed" in ran.err
    assert "taken over by a new process: 1 sealed" in ran.err
    assert (wired.folder / "ledger").read_text() == "ran\n"
    tree = wired("show", "victim").out
    for part in (
        "» Here goes.",
        "▸ bash_run",
        "sealed, its outcome is unknown",
        "taken over by a new process",
        "» It may",
    ):
        assert part in tree


def test_a_terminal_without_colour_utf8_or_cursor(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply(say("Grüße …", pause_s=0.05))
    terminal = wired.terminal(
        "run", "x", width=40, TERM="dumb", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii"
    )
    assert terminal.wait() == 0
    assert terminal.raw.isascii()
    assert b"\x1b" not in terminal.raw
    assert "Gr??e ?" in terminal.shown
    assert "+ run 1 ended (end_turn), 1 step" in terminal.shown


def test_an_answer_that_the_locale_cannot_write_is_no_error(wired: Kode, chat_server: ChatServer) -> None:
    chat_server.reply("Grüße")
    process = wired.start("run", "x", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii")
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (0, b"Gr??e\n"), err
    assert err.isascii()


def _written(path: Path) -> int:
    """Wait for a command to have written a file, and read the number in it if there is one."""
    ends = time.monotonic() + PATIENCE_S
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < ends, f"{path.name} was never written"
        time.sleep(0.01)
    text = path.read_text().strip()
    return int(text) if text.isdigit() else 0
