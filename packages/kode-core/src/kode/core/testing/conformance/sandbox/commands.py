"""The contract of `exec`."""

from __future__ import annotations

import signal
from functools import partial

import anyio
import pytest

from kode.core.sandbox.base import Command, Sandbox
from kode.core.testing.conformance.sandbox.case import BEATS, SandboxCase, nothing_beats, refused

__all__ = ["CommandContract", "EndingContract"]


class CommandContract(SandboxCase):
    """What goes into a command, and what comes back."""

    async def test_it_says_what_it_is(self, sandbox: Sandbox) -> None:
        """It has the protocol's members, a kind, an absolute root, and a ref that begins with the kind."""
        assert isinstance(sandbox, Sandbox)
        assert sandbox.kind
        assert sandbox.root.startswith("/")
        assert sandbox.ref is None or sandbox.ref.startswith(f"{sandbox.kind}:")
        ref = sandbox.ref
        await sandbox.open()
        assert sandbox.ref == ref

    async def test_both_streams_and_the_code_come_back(self, sandbox: Sandbox) -> None:
        """Streams are apart, or merged in the order of writing."""
        result = await sandbox.exec("echo out; echo err >&2; exit 3")
        assert (result.code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
        assert (result.timed_out, result.truncated) == (False, False)
        merged = await sandbox.exec("echo a; echo b >&2; echo c", merge_stderr=True)
        assert (merged.stdout, merged.stderr) == (b"a\nb\nc\n", b"")

    async def test_arguments_need_no_quoting(self, sandbox: Sandbox) -> None:
        """A sequence reaches the program byte for byte."""
        odd = ["$HOME", "a b", "'", "\n", "-n", "é", "\udcff", ""]
        result = await sandbox.exec(["printf", "%s|", *odd, "."])
        assert result.stdout == "|".join([*odd, ".", ""]).encode("utf-8", "surrogateescape")

    async def test_a_program_that_is_not_there_is_a_code(self, sandbox: Sandbox) -> None:
        """127 for none, 126 for what cannot be run."""
        result = await sandbox.exec(["no-such-program"])
        assert result.code == 127
        assert b"no-such-program" in result.stderr
        assert (await sandbox.exec(["/"])).code == 126

    @pytest.mark.parametrize("command", ["", [], [""], "a\0b", ["a", "b\0"]], ids=repr)
    async def test_a_bad_command_is_refused(self, sandbox: Sandbox, command: Command) -> None:
        """Nothing to run, or a zero byte, is `bad_command`."""
        assert await refused(sandbox.exec(command)) == "bad_command"
        assert await refused(sandbox.spawn(command)) == "bad_command"

    @pytest.mark.parametrize("name", ["SEGV", "KILL", "TERM", "PIPE"])
    async def test_a_signal_is_told_in_the_code(self, sandbox: Sandbox, name: str) -> None:
        """128 + n; and no signal is ignored from the start."""
        assert (await sandbox.exec(f"kill -{name} $$; echo no")).code == 128 + signal.Signals[f"SIG{name}"]

    async def test_the_working_folder_lies_below_the_root(self, sandbox: Sandbox) -> None:
        """The root by default; what leads out is refused."""
        await sandbox.mkdir("a/b")
        assert (await sandbox.exec("pwd", cwd="a/b")).stdout.decode() == f"{sandbox.root}/a/b\n"
        assert (await sandbox.exec("pwd")).stdout.decode() == f"{sandbox.root}\n"
        for bad, code in (("..", "outside_root"), ("/usr", "outside_root"), ("none", "file_not_found")):
            assert await refused(sandbox.exec("pwd", cwd=bad)) == code

    async def test_commands_and_file_methods_see_the_same(self, sandbox: Sandbox) -> None:
        """What one writes the other reads."""
        await sandbox.write("from here", b"1")
        result = await sandbox.exec("cat 'from here'; printf 2 > there")
        assert result.stdout == b"1"
        assert await sandbox.read("there") == b"2"

    async def test_the_hosts_variables_do_not_leak(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither into the command, nor into what it can see of its parents; given ones arrive."""
        monkeypatch.setenv("KODE_CANARY", "s3cret")
        result = await sandbox.exec(
            "env; cat /proc/$PPID/environ /proc/1/environ 2>/dev/null; true", env={"GIVEN": "x"}
        )
        assert "s3cret" not in result.output
        assert "GIVEN=x" in result.output.splitlines()

    async def test_input_is_fed_and_nothing_is_waited_for_without(self, sandbox: Sandbox) -> None:
        """All of `stdin` can be read, and need not be."""
        data = bytes(range(256)) * 4_000
        assert (await sandbox.exec("cat", stdin=data)).stdout == data
        assert (await sandbox.exec("cat")).stdout == b""
        assert (await sandbox.exec("exit 4", stdin=data)).code == 4

    async def test_output_is_told_as_it_comes(self, sandbox: Sandbox) -> None:
        """`on_output` hears of it while the command runs."""
        seen: list[tuple[str, bytes]] = []

        async def told(stream: str, piece: bytes) -> None:
            seen.append((stream, piece))
            if len(seen) == 1:
                await sandbox.write("go", b"")  # the command waits for this: it still runs

        command = "echo one; while ! [ -e go ]; do sleep 0.01; done; echo two >&2"
        result = await sandbox.exec(command, on_output=told, timeout_s=30)
        assert seen == [("stdout", b"one\n"), ("stderr", b"two\n")]
        assert result.code == 0

    async def test_a_slow_listener_holds_the_command_back(self, sandbox: Sandbox) -> None:
        """What was not taken is not read on: memory is bounded however slow the listener is."""
        at_end: list[bool] = []

        async def told(_: str, piece: bytes) -> None:
            if not at_end:
                at_end.append((await sandbox.exec("sleep 0.3; [ -e end ]")).code == 0)

        result = await sandbox.exec("head -c 20000000 /dev/zero; touch end", on_output=told, max_output=1_000)
        assert at_end == [False]
        assert result.cut_bytes >= 20_000_000 - 1_000
        assert (await sandbox.stat("end")).size == 0

    async def test_a_slow_listener_loses_nothing(self, sandbox: Sandbox) -> None:
        """However long it takes after the command's end, it is told all, and all is in the result."""
        told: list[bytes] = []

        async def tell(_: str, piece: bytes) -> None:
            await anyio.sleep(0.7)
            told.append(piece)

        result = await sandbox.exec("head -c 100000 /dev/zero; echo END", on_output=tell)
        assert (len(result.stdout), result.stdout[-4:], result.cut_bytes) == (100_004, b"END\n", 0)
        assert b"".join(told) == result.stdout

    async def test_a_listener_that_hangs_is_no_way_around_the_time_limit(self, sandbox: Sandbox) -> None:
        """What was written is in the result all the same."""

        async def hang(_: str, piece: bytes) -> None:
            await anyio.sleep_forever()

        with anyio.fail_after(30):
            result = await sandbox.exec("echo one; sleep 0.1; echo two; sleep 60", timeout_s=0.4, on_output=hang)
            assert (result.timed_out, result.stdout) == (True, b"one\ntwo\n")
            result = await sandbox.exec("echo one; exit 3", timeout_s=0.4, on_output=hang)
            assert (result.timed_out, result.code, result.stdout) == (False, 3, b"one\n")

    async def test_an_error_of_the_listener_ends_the_command(self, sandbox: Sandbox) -> None:
        """It is raised as it is."""

        async def told(stream: str, _: bytes) -> None:
            raise KeyError(stream)

        with pytest.raises(KeyError):
            await sandbox.exec("echo a; sleep 60", on_output=told)

    async def test_a_flood_is_kept_in_bounded_memory(self, sandbox: Sandbox) -> None:
        """Head and tail survive, with a line between them that says how much is gone."""
        command = "echo first; head -c 10000000 /dev/zero; echo; echo last"
        result = await sandbox.exec(command, max_output=10_000, merge_stderr=True)
        assert result.code == 0
        assert len(result.stdout) < 10_100
        assert result.stdout.startswith(b"first\n")
        assert result.stdout.endswith(b"\nlast\n")
        assert result.cut_bytes == 10_000_000 + len(b"first\n\nlast\n") - 10_000
        assert f"{result.cut_bytes:,} bytes cut" in result.output

    async def test_many_at_once(self, sandbox: Sandbox) -> None:
        """Each gets its own answer."""
        codes: dict[int, int] = {}

        async def one(n: int) -> None:
            codes[n] = (await sandbox.exec(f"exit {n}")).code

        async with anyio.create_task_group() as group:
            for n in range(8):
                group.start_soon(one, n)
        assert codes == {n: n for n in range(8)}


LEAVES = f"""
({BEATS}) &
(setsid sh -c '{BEATS}' &)
(trap '' TERM HUP; {BEATS}) &
(exec env -i /bin/sh -c '{BEATS}') > /dev/null 2>&1 &
"""


class EndingContract(SandboxCase):
    """However a command ends, nothing of it is left."""

    async def test_what_it_left_behind_is_ended(self, sandbox: Sandbox) -> None:
        """Background jobs, daemons in sessions of their own, ignorers of signals; nobody waits for them."""
        with anyio.fail_after(30):
            result = await sandbox.exec(LEAVES)
        assert result.code == 0
        await nothing_beats(sandbox)

    async def test_a_time_out_ends_all_of_it(self, sandbox: Sandbox) -> None:
        """`timed_out` is set, and what was written is kept."""
        told: list[bytes] = []

        async def tell(_: str, piece: bytes) -> None:
            told.append(piece)

        result = await sandbox.exec(f"echo before; {LEAVES}\nsleep 61 | sleep 62", timeout_s=0.3, on_output=tell)
        # Politely; by force if it was not up yet, for then there was nobody to be told.
        assert result.code in (128 + signal.SIGTERM, 128 + signal.SIGKILL)
        assert (result.timed_out, result.stdout) == (True, b"".join(told))
        await nothing_beats(sandbox)

    async def test_one_that_ignores_sigterm_is_killed(self, sandbox: Sandbox) -> None:
        """Politely first, then by force."""
        result = await sandbox.exec("trap '' TERM; while :; do sleep 1; done", timeout_s=0.1)
        assert (result.timed_out, result.code) == (True, 128 + signal.SIGKILL)

    async def test_one_that_tidies_up_on_sigterm_may(self, sandbox: Sandbox) -> None:
        """SIGTERM reaches it, and it is given time."""
        tidy = "trap 'echo tidy > tidied; exit 5' TERM; echo up; exec > /dev/null 2>&1; while :; do sleep 0.01; done"
        async with anyio.create_task_group() as group:

            async def told(_: str, piece: bytes) -> None:
                group.cancel_scope.cancel()

            group.start_soon(partial(sandbox.exec, tidy, on_output=told))
        assert await sandbox.read("tidied") == b"tidy\n"

    async def test_cancelling_ends_the_command_before_it_returns(self, sandbox: Sandbox) -> None:
        """A cancelled call has left nothing."""
        async with anyio.create_task_group() as group:

            async def told(_: str, piece: bytes) -> None:
                group.cancel_scope.cancel()

            group.start_soon(partial(sandbox.exec, f"{LEAVES}\necho up; sleep 64", on_output=told))
        await nothing_beats(sandbox)

    async def test_cancelling_a_flood(self, sandbox: Sandbox) -> None:
        """One that ignores all it may and writes without end."""
        with anyio.move_on_after(0.3) as scope:
            await sandbox.exec("trap '' TERM PIPE; while :; do echo x; done")
        assert scope.cancelled_caught
        assert (await sandbox.exec("true")).code == 0

    async def test_closing_ends_all_and_refuses_more(self, sandbox: Sandbox) -> None:
        """Also a command on its way; a sandbox can be opened again."""
        process = await sandbox.spawn(f"{LEAVES}\nsleep 82")
        async with anyio.create_task_group() as group:
            up = anyio.Event()

            async def told(_: str, piece: bytes) -> None:
                up.set()

            group.start_soon(partial(sandbox.exec, "echo up; sleep 83", on_output=told))
            await up.wait()
            await sandbox.close()
        assert await refused(sandbox.exec("true")) == "closed"
        assert await refused(sandbox.spawn("true")) == "closed"
        await sandbox.close()
        await sandbox.open()
        assert sandbox.processes() == ()
        with pytest.raises(Exception, match=process.id):
            sandbox.process(process.id)
        await nothing_beats(sandbox)
