"""The local sandbox with real processes: how they start, what they leave, and that they end."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC222 - waits for real processes and files, each for a moment

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import anyio
import pytest

import kode.core.sandbox.local
from kode.core.errors import SandboxError
from kode.core.sandbox.base import Sandbox
from kode.core.sandbox.local import LocalSandbox
from kode.core.sandbox.orphans import marked

SRC = str(Path(__file__).parents[2] / "packages/kode-core/src")
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Wait for a condition, bounded; a dead process is seen by asking, not by hoping."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False
    return True


@pytest.fixture
async def sandbox(tmp_path: Path, anyio_backend: str) -> AsyncIterator[LocalSandbox]:
    one = LocalSandbox(tmp_path / "root", grace_s=0.3)
    yield one
    await one.close()
    assert marked(one.ref) == []


def test_it_is_a_sandbox(tmp_path: Path) -> None:
    assert isinstance(LocalSandbox(tmp_path), Sandbox)


async def test_both_streams_and_the_code_come_back(sandbox: LocalSandbox) -> None:
    result = await sandbox.exec("echo out; echo err >&2; exit 3")
    assert (result.code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert not result.timed_out
    assert not result.truncated
    merged = await sandbox.exec("echo a; echo b >&2; echo c", merge_stderr=True)
    assert (merged.stdout, merged.stderr) == (b"a\nb\nc\n", b"")


async def test_arguments_need_no_quoting(sandbox: LocalSandbox) -> None:
    odd = ["$HOME", "a b", "'", "\n", "-n", "é", "\udcff"]
    result = await sandbox.exec(["printf", "%s|", *odd])
    assert result.stdout == "|".join([*odd, ""]).encode("utf-8", "surrogateescape")


async def test_a_program_that_is_not_there_is_a_code(sandbox: LocalSandbox) -> None:
    result = await sandbox.exec(["no-such-program"])
    assert result.code == 127
    assert b"no-such-program" in result.stderr
    assert (await sandbox.exec(["/"])).code == 126


@pytest.mark.parametrize("command", ["", [], [""], "a\0b", ["a", "\0"], [1]])
async def test_a_bad_command_is_refused(sandbox: LocalSandbox, command: str) -> None:
    with pytest.raises(SandboxError) as caught:
        await sandbox.exec(command)
    assert caught.value.code == "bad_command"


async def test_a_command_that_is_too_long_is_one_clear_error(sandbox: LocalSandbox) -> None:
    with pytest.raises(SandboxError, match="could not be started"):
        await sandbox.exec("true " + "x" * 3_000_000)


async def test_a_signal_is_told_in_the_code(sandbox: LocalSandbox) -> None:
    assert (await sandbox.exec("kill -SEGV $$")).code == 128 + signal.SIGSEGV
    assert (await sandbox.exec("kill -9 $$")).code == 128 + signal.SIGKILL
    assert (await sandbox.exec("kill -9 0")).code == 128 + signal.SIGKILL


async def test_signals_are_not_left_ignored(sandbox: LocalSandbox) -> None:
    """A supervisor ignores some, and what is ignored would be inherited."""
    assert (await sandbox.exec("kill -TERM $$; echo no")).code == 128 + signal.SIGTERM
    assert (await sandbox.exec("kill -PIPE $$; echo no")).code == 128 + signal.SIGPIPE


async def test_the_working_folder_lies_below_the_root(sandbox: LocalSandbox) -> None:
    await sandbox.mkdir("a/b")
    assert (await sandbox.exec("pwd", cwd="a/b")).stdout.decode() == f"{sandbox.root}/a/b\n"
    assert (await sandbox.exec("pwd")).stdout.decode() == f"{sandbox.root}\n"
    for bad, code in (("..", "outside_root"), ("/tmp", "outside_root"), ("none", "file_not_found")):
        with pytest.raises(SandboxError) as caught:
            await sandbox.exec("pwd", cwd=bad)
        assert caught.value.code == code


async def test_secrets_of_the_host_do_not_leak(
    sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_TOKEN", "LD_PRELOAD_X", "PYTHONPATH"):
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("WANTED", "yes")
    out = (await sandbox.exec("env; cat /proc/$PPID/environ 2>/dev/null")).output
    assert "s3cret" not in out
    assert "LC_TIME=C" in out
    assert "WANTED" not in out
    other = LocalSandbox(tmp_path, env_allow=["WANTED"], env={"A": "1", "B": "1"})
    out = (await other.exec("env", env={"B": "2"})).output
    assert {"WANTED=yes", "A=1", "B=2"} <= set(out.splitlines())


async def test_input_is_fed_and_nothing_is_waited_for_without(sandbox: LocalSandbox) -> None:
    data = bytes(range(256)) * 8_000
    result = await sandbox.exec("cat", stdin=data, max_output=10_000_000)
    assert result.stdout == data
    assert (await sandbox.exec("cat")).stdout == b""
    assert (await sandbox.exec("exit 4", stdin=data)).code == 4


async def test_output_is_told_as_it_comes(sandbox: LocalSandbox) -> None:
    seen: list[tuple[str, bytes]] = []
    first = anyio.Event()

    async def told(stream: str, piece: bytes) -> None:
        seen.append((stream, piece))
        if not first.is_set():
            first.set()
            await sandbox.write("go", b"")  # the command waits for this: it still runs

    result = await sandbox.exec(
        "echo one; while ! [ -e go ]; do sleep 0.01; done; echo two >&2", on_output=told, timeout_s=10
    )
    assert seen == [("stdout", b"one\n"), ("stderr", b"two\n")]
    assert result.code == 0


async def test_an_error_of_the_listener_ends_the_command(sandbox: LocalSandbox) -> None:
    async def told(stream: str, piece: bytes) -> None:
        raise KeyError(stream)

    with pytest.raises(KeyError):
        await sandbox.exec("echo a; sleep 60", on_output=told)


async def test_a_flood_is_kept_in_bounded_memory(sandbox: LocalSandbox) -> None:
    result = await sandbox.exec(
        "echo first; head -c 50000000 /dev/zero; echo; echo last", max_output=10_000, merge_stderr=True
    )
    assert result.code == 0
    assert len(result.stdout) < 10_100
    assert result.stdout.startswith(b"first\n")
    assert result.stdout.endswith(b"\nlast\n")
    assert result.cut_bytes == 50_000_000 + len(b"first\n\nlast\n") - 10_000
    assert f"{result.cut_bytes:,} bytes cut" in result.output


async def test_a_time_out_ends_the_whole_group(sandbox: LocalSandbox) -> None:
    result = await sandbox.exec("echo before; sleep 61 | sleep 62", timeout_s=0.2)
    assert result.timed_out
    assert result.code == 128 + signal.SIGTERM
    assert result.stdout == b"before\n"
    assert marked(sandbox.ref) == []


async def test_one_that_ignores_sigterm_is_killed(sandbox: LocalSandbox) -> None:
    started = time.monotonic()
    result = await sandbox.exec("trap '' TERM; while :; do sleep 1; done", timeout_s=0.1)
    assert result.timed_out
    assert result.code == 128 + signal.SIGKILL
    assert time.monotonic() - started < 5


async def test_one_that_tidies_up_on_sigterm_may(sandbox: LocalSandbox) -> None:
    result = await sandbox.exec("trap 'echo tidy; exit 5' TERM; while :; do sleep 0.01; done", timeout_s=0.2)
    assert (result.timed_out, result.code, result.stdout) == (True, 5, b"tidy\n")


@linux
async def test_a_daemon_neither_holds_the_call_nor_survives_it(sandbox: LocalSandbox) -> None:
    daemon = textwrap.dedent("""
        import os, signal, time
        if os.fork(): os._exit(0)
        os.setsid()
        if os.fork(): os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.environ.clear()
        os.write(1, b"%d\\n" % os.getpid())
        open("pid", "w").write(str(os.getpid()))
        time.sleep(60)
    """)
    started = time.monotonic()
    command = [sys.executable, "-c", daemon]
    result = await sandbox.exec(["/bin/sh", "-c", '"$@"; while ! [ -s pid ]; do sleep 0.01; done', "sh", *command])
    assert result.code == 0
    assert time.monotonic() - started < 5
    assert not alive(int(await sandbox.read("pid")))


async def test_what_a_command_leaves_in_the_background_is_ended(sandbox: LocalSandbox) -> None:
    result = await sandbox.exec("sleep 63 & echo $!")
    assert not alive(int(result.stdout))


async def test_cancelling_ends_the_command_before_it_returns(sandbox: LocalSandbox) -> None:
    pids: list[int] = []
    async with anyio.create_task_group() as group:

        async def told(_: str, piece: bytes) -> None:
            pids.extend(map(int, piece.split()))
            group.cancel_scope.cancel()

        group.start_soon(partial(sandbox.exec, "sleep 64 & echo $$ $!; wait", on_output=told))
    assert len(pids) == 2
    assert not any(map(alive, pids))
    assert marked(sandbox.ref) == []


async def test_cancelling_a_flood_and_a_sigterm_ignorer(sandbox: LocalSandbox) -> None:
    with anyio.move_on_after(0.3):
        await sandbox.exec("trap '' TERM PIPE; while :; do echo x; done")
    assert marked(sandbox.ref) == []


async def test_no_descriptor_and_no_zombie_is_left(sandbox: LocalSandbox) -> None:
    await sandbox.exec("true")
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        await sandbox.exec("true", stdin=b"x")
        await sandbox.exec("sleep 5", timeout_s=0.01)
    assert len(os.listdir("/dev/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


async def test_many_at_once(sandbox: LocalSandbox) -> None:
    codes: dict[int, int] = {}

    async def one(n: int) -> None:
        codes[n] = (await sandbox.exec(f"exit {n}")).code

    async with anyio.create_task_group() as group:
        for n in range(20):
            group.start_soon(one, n)
    assert codes == {n: n for n in range(20)}


@linux
async def test_a_killed_supervisor_takes_the_command_with_it(sandbox: LocalSandbox) -> None:
    result = await sandbox.exec("(setsid sleep 65 &) ; kill -9 $PPID; sleep 66")
    assert result.code == 128 + signal.SIGKILL
    assert until(lambda: marked(sandbox.ref) == [])


@linux
async def test_the_command_dies_with_its_supervisor_by_itself(
    sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent-death signal, with the search for marked processes out of the way."""
    monkeypatch.setattr(kode.core.sandbox.local, "kill_marked", lambda *_: 0)
    await sandbox.exec("kill -9 $PPID; exec sleep 67")
    assert until(lambda: marked(sandbox.ref) == [])


# ---- the owner's death -------------------------------------------------------------------------------------

OWNER = """
import anyio, sys
from kode.core.sandbox.local import LocalSandbox
async def main():
    sandbox = LocalSandbox(sys.argv[1], ref="local:" + sys.argv[3])
    await sandbox.spawn("sleep 71")
    await sandbox.exec(sys.argv[4])
anyio.run(main, backend=sys.argv[2])
"""
COMMANDS = {
    "plain": "touch up; sleep 72; echo survived > up",
    "ignores signals": "trap '' TERM HUP INT PIPE; touch up; sleep 72; sleep 73; echo survived > up",
    "pipeline": "(sleep 72; echo survived > up) | (touch up; cat)",
    "new session": "setsid sh -c 'touch up; sleep 72; echo survived > up' & wait",
    "daemon": "(setsid sh -c 'touch up; exec env -i /bin/sleep 7272' &) ; sleep 72",
}


@pytest.mark.integration
@linux
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_processes_end_when_their_owner_is_killed(tmp_path: Path, backend: str, command: str) -> None:
    ref = os.urandom(8).hex()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), backend, ref, command],
        env={**os.environ, "PYTHONPATH": SRC},
        start_new_session=True,
    )
    try:
        assert until((tmp_path / "up").exists, 10)
        before = marked(f"local:{ref}")
        assert len(before) >= 3  # a supervisor and a command at least, and the background process
        wiped = subprocess.run(["pgrep", "-f", "^/bin/sleep 7272$"], capture_output=True, text=True, check=False)
    finally:
        owner.kill()
        owner.wait()
    pids = [*before, *map(int, wiped.stdout.split())]
    assert until(lambda: not any(map(alive, pids)) and marked(f"local:{ref}") == [])
    assert (tmp_path / "up").read_text() == ""


LEAKY = """
import anyio, os, signal, subprocess, sys
from kode.core.sandbox.local import LocalSandbox
async def main():
    sandbox = LocalSandbox(sys.argv[1], ref="local:" + sys.argv[2])
    await sandbox.spawn("sleep 77")
    for name in os.listdir("/proc/self/fd"):
        try:
            os.set_inheritable(int(name), True)
        except OSError:
            pass
    print(subprocess.Popen(["sleep", "78"], close_fds=False, start_new_session=True).pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
anyio.run(main)
"""


@pytest.mark.integration
@linux
def test_an_owners_end_that_leaked_into_a_child_keeps_nothing_alive(tmp_path: Path) -> None:
    ref = os.urandom(8).hex()
    environment = {**os.environ, "PYTHONPATH": SRC}
    command = [sys.executable, "-c", LEAKY, str(tmp_path), ref]
    # To a file: the process that is left would hold a pipe open.
    with (tmp_path / "pid").open("w") as out:
        owner = subprocess.run(command, env=environment, stdout=out, check=False)
    try:
        assert owner.returncode == -signal.SIGKILL
        assert until(lambda: marked(f"local:{ref}") == [])
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.mark.integration
@linux
async def test_a_new_process_ends_what_owner_and_supervisor_left(tmp_path: Path) -> None:
    """Both are killed at once, as an out-of-memory killer may do."""
    sandbox = LocalSandbox(tmp_path)
    process = await sandbox.spawn("sleep 74 & (setsid sleep 75 &) ; echo up; wait")
    with anyio.fail_after(5):
        while not (await process.logs()).data:
            await anyio.sleep(0.01)
    pids = marked(sandbox.ref)
    stranger = subprocess.Popen(["sleep", "30"])
    assert len(pids) >= 4
    assert await LocalSandbox.kill_ref(sandbox.ref) >= 4
    assert not any(map(alive, pids))
    assert await LocalSandbox.kill_ref(sandbox.ref) == 0
    assert alive(stranger.pid)
    stranger.kill()
    stranger.wait()
    assert (await process.wait()).code == 128 + signal.SIGKILL
    await sandbox.close()


@pytest.mark.parametrize("ref", ["", "local:", "local:a/b", "docker:1", "local:*"])
async def test_a_bad_ref_is_refused(ref: str) -> None:
    with pytest.raises(SandboxError) as caught:
        await LocalSandbox.kill_ref(ref)
    assert caught.value.code == "bad_ref"


# ---- background processes ----------------------------------------------------------------------------------


async def test_background_output_is_seen_while_it_runs(sandbox: LocalSandbox) -> None:
    process = await sandbox.spawn("echo one; while ! [ -e go ]; do sleep 0.01; done; echo two >&2; exit 7")
    assert sandbox.processes() == (process.id,)
    assert sandbox.process(process.id) is process
    with anyio.fail_after(5):
        while not (logs := await process.logs()).data:
            await anyio.sleep(0.01)
    assert (logs.data, logs.running, logs.code) == (b"one\n", True, None)
    await sandbox.write("go", b"")
    with anyio.fail_after(5):
        assert (await process.wait()).code == 7
    later = await process.logs(after=logs.next)
    assert (later.data, later.running, later.code) == (b"two\n", False, 7)
    assert (await process.kill()).code == 7  # harmless once it has ended


async def test_killing_a_background_process_kills_it(sandbox: LocalSandbox) -> None:
    process = await sandbox.spawn("trap '' TERM; echo $$; sleep 81 & while :; do sleep 1; done")
    with anyio.fail_after(5):
        while not (logs := await process.logs()).data:
            await anyio.sleep(0.01)
    result = await process.kill()
    assert result.code == 128 + signal.SIGKILL
    assert not alive(int(logs.data))
    assert marked(sandbox.ref) == []


async def test_background_output_is_bounded(sandbox: LocalSandbox) -> None:
    process = await sandbox.spawn("head -c 5000000 /dev/zero | tr '\\0' x; echo end", max_output=1_000)
    with anyio.fail_after(10):
        result = await process.wait()
    assert result.cut_bytes == 5_000_004 - 1_000
    logs = await process.logs(after=4_999_000)
    assert logs.data.endswith(b"xxend\n")
    assert (len(logs.data), logs.cut_bytes, logs.next) == (500, 504, 5_000_004)


async def test_closing_ends_all_and_refuses_more(tmp_path: Path) -> None:
    sandbox = LocalSandbox(tmp_path, grace_s=0.3)
    await sandbox.spawn("sleep 82")
    async with anyio.create_task_group() as group:
        group.start_soon(sandbox.exec, "sleep 83")
        with anyio.fail_after(5):
            while len(marked(sandbox.ref)) < 4 and sys.platform == "linux":
                await anyio.sleep(0.01)
        await sandbox.close()
    assert marked(sandbox.ref) == []
    with pytest.raises(SandboxError, match="closed"):
        await sandbox.exec("true")
    with pytest.raises(SandboxError, match="There is no process"):
        sandbox.process("1")
    await sandbox.dispose()
    await sandbox.open()
    assert (await sandbox.exec("true")).code == 0
