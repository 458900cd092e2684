"""The local sandbox with real processes: how they start, what they leave, and that they end."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC222 - waits for real processes and files, each for a moment

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from tests.sandboxes.conftest import alive, until

import kode.core.sandbox.background
import kode.core.sandbox.running
from kode.core.errors import SandboxError
from kode.core.sandbox.local import LocalSandbox
from kode.core.sandbox.orphans import marked
from kode.core.testing.conformance.sandbox.case import first_output, refused


def seen(pid: int, what: str) -> bytes:
    return Path(f"/proc/{pid}/{what}").read_bytes()


def cmdline(pid: int) -> bytes:
    return seen(pid, "cmdline")


SRC = str(Path(__file__).parents[2] / "packages/kode-core/src")
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
async def sandbox(tmp_path: Path, anyio_backend: str) -> AsyncIterator[LocalSandbox]:
    one = LocalSandbox(tmp_path / "root", grace_s=0.3)
    yield one
    await one.close()
    assert marked(one.ref) == []


async def test_a_command_that_is_too_long_is_one_clear_error(either: LocalSandbox) -> None:
    with pytest.raises(SandboxError, match="could not be started"):
        await either.exec("true " + "x" * 3_000_000)


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


@linux
async def test_a_commands_variables_steer_nothing_outside(either: LocalSandbox) -> None:
    """Supervisor and bubblewrap would load what LD_PRELOAD names, and in a command line everybody can read them."""
    process = await either.spawn("echo $LD_PRELOAD; exec sleep 60", env={"LD_PRELOAD": "/none.so", "TOKEN": "s3cret"})
    with anyio.fail_after(10):
        while b"/none.so\n" not in (await process.logs()).data:
            await anyio.sleep(0.01)
    pids = marked(either.ref)
    ours = [pid for pid in pids if b"supervisor.py" in cmdline(pid) or b"bwrap" in cmdline(pid)]
    assert len(ours) >= (2 if b"bwrap" in b"".join(map(cmdline, pids)) else 1)
    for pid in ours:
        names = [line.partition(b"=")[0] for line in seen(pid, "environ").split(b"\0")[:-1]]
        assert sorted(names) == [b"KODE_SANDBOX_COMMAND", b"KODE_SANDBOX_REF"]
        assert b"none.so" not in seen(pid, "maps")
    assert b"s3cret" not in b"".join(map(cmdline, pids))
    await process.kill()


async def test_many_large_variables(either: LocalSandbox) -> None:
    """More than a pipe or a socket takes at once; odd names and bytes too."""
    env = {f"V{n}": "x" * 100_000 for n in range(8)} | {"E": "", "ODD": "\udcff=\n"}
    result = await either.exec('printf \'%s\' "$V7$E$ODD" | wc -c; [ -n "${E+set}" ] && echo set', env=env)
    assert result.stdout.split() == [b"100003", b"set"]
    for bad in ({"": "x"}, {"A=B": "x"}, {"A": "x\0"}, {"A": "\ud800"}, {"\ud800": "x"}):
        assert await refused(either.exec("true", env=bad)) == "bad_command"


@linux
async def test_a_stopped_supervisor_holds_nothing_up(sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is woken to do its work; one that is stopped again and again is killed."""
    started = time.monotonic()
    result = await sandbox.exec("kill -STOP $PPID; sleep 60", timeout_s=0.2)
    assert (result.timed_out, result.code) == (True, 128 + signal.SIGTERM)
    monkeypatch.setattr(kode.core.sandbox.running, "KILL_S", 0.5)
    result = await sandbox.exec("trap '' TERM; while :; do kill -STOP $PPID; done", timeout_s=0.2)
    assert result.timed_out
    assert time.monotonic() - started < 30
    assert until(lambda: marked(sandbox.ref) == [])


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
    assert time.monotonic() - started < 30
    assert not alive(int(await sandbox.read("pid")))


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


async def test_no_descriptor_and_no_zombie_is_left(either: LocalSandbox) -> None:
    await either.exec("true")
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        await either.exec("true", stdin=b"x")
        await either.exec("sleep 5", timeout_s=0.01)
    assert len(os.listdir("/dev/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@linux
async def test_a_killed_supervisor_takes_the_command_with_it(sandbox: LocalSandbox) -> None:
    result = await sandbox.exec("(setsid sleep 65 &) ; kill -9 $PPID; sleep 66")
    assert result.code == 128 + signal.SIGKILL
    assert until(lambda: marked(sandbox.ref) == [])


@linux
async def test_what_runs_in_the_background_dies_with_its_supervisor(
    either: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the parent-death signal alone, from one to the next."""
    monkeypatch.setattr(kode.core.sandbox.background, "kill_marked", lambda *_: 0)
    process = await either.spawn("echo up; exec sleep 67")
    await first_output(process)
    (supervisor,) = [pid for pid in marked(either.ref) if b"supervisor.py" in cmdline(pid)]
    os.kill(supervisor, signal.SIGKILL)
    assert (await process.wait()).code == 128 + signal.SIGKILL
    assert until(lambda: marked(either.ref) == [])


@linux
async def test_a_swarm_of_daemons_is_ended(either: LocalSandbox) -> None:
    """Nothing bounds their number; they all end."""
    swarm = "for i in $(seq 60); do (setsid sh -c 'while :; do sleep 1; done' &) ; done; echo up; sleep 68"
    process = await either.spawn(swarm)
    await first_output(process)
    assert len(marked(either.ref)) > 60
    await process.kill()
    assert marked(either.ref) == []


TREE = """
import os, signal
from kode.core.sandbox import supervisor
supervisor.load_prctl()(supervisor.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
reader, writer = os.pipe()
signal.alarm(10)
for _ in range(3):
    if os.fork() != 0:
        break
    os.setsid()
    signal.alarm(10)
else:
    os.write(writer, b"x")
if os.getppid() == int(os.environ["OWNER"]):
    os.read(reader, 1)
    supervisor.kill_orphans()
    print(*(os.WTERMSIG(os.wait()[1]) for _ in range(3)))
else:
    signal.pause()
"""


@linux
def test_who_is_killed_takes_its_children_along() -> None:
    """At once: a swarm that grows again while it is killed one by one would never end."""
    env = {"PYTHONPATH": SRC, "OWNER": str(os.getpid())}
    said = subprocess.run([sys.executable, "-c", TREE], env=env, stdout=subprocess.PIPE, check=True, timeout=20).stdout
    assert said.split() == [b"9"] * 3


SUPERVISOR = """
import os, resource, sys, time
from kode.core.sandbox import supervisor
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.01)
    os._exit(0)
os.setgid(61234)
os.setuid(61234)
print(supervisor.kill_orphans(), flush=True)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
supervisor.main()
"""


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_a_supervisor_without_rights_and_without_processes_says_so() -> None:
    """Another user's process is left alone, and that no more can be started is no command's crash."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = [sys.executable, "-c", SUPERVISOR, str(theirs.fileno()), str(os.getpid()), "0", "true"]
        ours.sendall(bytes(8))
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(theirs.fileno(),), env={"PYTHONPATH": SRC}
        )
        try:
            said, error = process.stdout.readline(), process.stderr.readline()  # type: ignore[union-attr]
            assert (said, error) == (b"False\n", b"true: Resource temporarily unavailable\n")
            assert ours.recv(16) == b"126\n"
        finally:
            process.kill()
            process.communicate()


async def test_without_a_thread_nothing_runs_in_the_background(
    sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    await sandbox.exec("true")  # there is a worker thread
    with monkeypatch.context() as patch:
        patch.setattr(kode.core.sandbox.background.threading.Thread, "start", none)
        assert await refused(sandbox.spawn("sleep 69")) == "not_started"
    assert (sandbox.processes(), marked(sandbox.ref)) == ((), [])


@linux
async def test_the_command_dies_with_its_supervisor_by_itself(
    sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent-death signal, with the search for marked processes out of the way."""
    monkeypatch.setattr(kode.core.sandbox.running, "kill_marked", lambda *_: 0)
    await sandbox.exec("kill -9 $PPID; exec sleep 67")
    assert until(lambda: marked(sandbox.ref) == [])


# ---- the owner's death -------------------------------------------------------------------------------------

OWNER = """
import anyio, sys
from kode.core.sandbox.local import LocalSandbox
from functools import partial
async def main():
    root, _, ref, isolation, *commands = sys.argv[1:]
    sandbox = LocalSandbox(root, ref="local:" + ref, isolation=isolation)
    await sandbox.spawn("sleep 71")
    async with anyio.create_task_group() as group:
        for number, command in enumerate(commands):
            await sandbox.mkdir(str(number))
            group.start_soon(partial(sandbox.exec, command, cwd=str(number)))
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
@pytest.mark.parametrize(("isolation", "backend"), [("none", "asyncio"), ("none", "trio"), ("bwrap", "trio")])
def test_processes_end_when_their_owner_is_killed(
    request: pytest.FixtureRequest, tmp_path: Path, isolation: str, backend: str
) -> None:
    if isolation == "bwrap":
        request.getfixturevalue("isolated")
    ref = os.urandom(8).hex()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), backend, ref, isolation, *COMMANDS.values()],
        env={**os.environ, "PYTHONPATH": SRC},
        start_new_session=True,
    )
    try:
        ups = [tmp_path / str(number) / "up" for number in range(len(COMMANDS))]
        assert until(lambda: all(up.exists() for up in ups), 20)
        before = marked(f"local:{ref}")
        assert len(before) >= 2 * (1 + len(COMMANDS))  # a supervisor and a command each, and the background process
        wiped = subprocess.run(["pgrep", "-f", "^/bin/sleep 7272$"], capture_output=True, text=True, check=False)
    finally:
        owner.kill()
        owner.wait()
    pids = [*before, *map(int, wiped.stdout.split())]
    assert until(lambda: not any(map(alive, pids)) and marked(f"local:{ref}") == [])
    assert [name for name, up in zip(COMMANDS, ups, strict=True) if up.read_text()] == []


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
async def test_a_new_process_ends_what_owner_and_supervisor_left(either: LocalSandbox) -> None:
    """Both are killed at once, as an out-of-memory killer may do."""
    sandbox = either
    process = await sandbox.spawn("sleep 74 & (setsid sleep 75 &) ; echo up; wait")
    with anyio.fail_after(20):
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


async def test_killing_a_background_process_kills_it(sandbox: LocalSandbox) -> None:
    process = await sandbox.spawn("trap '' TERM; echo $$; sleep 81 & while :; do sleep 1; done")
    with anyio.fail_after(20):
        while not (logs := await process.logs()).data:
            await anyio.sleep(0.01)
    result = await process.kill()
    assert result.code == 128 + signal.SIGKILL
    assert not alive(int(logs.data))
    assert marked(sandbox.ref) == []
