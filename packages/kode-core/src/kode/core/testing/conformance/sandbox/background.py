"""The contract of background processes."""

from __future__ import annotations

import signal

import anyio
import pytest

from kode.core.errors import SandboxError
from kode.core.sandbox.base import Sandbox
from kode.core.testing.conformance.sandbox.case import BEATS, SandboxCase, first_output, nothing_beats

__all__ = ["BackgroundContract"]


class BackgroundContract(SandboxCase):
    """What `spawn` starts."""

    async def test_output_is_seen_while_it_runs(self, sandbox: Sandbox) -> None:
        """`logs` goes on from where it was; the end and its code are told."""
        process = await sandbox.spawn("echo one; while ! [ -e go ]; do sleep 0.01; done; echo two >&2; exit 7")
        assert sandbox.processes() == (process.id,)
        assert sandbox.process(process.id) is process
        logs = await first_output(process)
        assert (logs.data, logs.running, logs.code) == (b"one\n", True, None)
        await sandbox.write("go", b"")
        with anyio.fail_after(30):
            assert (await process.wait()).code == 7
        later = await process.logs(after=logs.next)
        assert (later.data, later.running, later.code) == (b"two\n", False, 7)
        assert (await process.kill()).code == 7  # harmless once it has ended
        assert sandbox.processes() == (process.id,)

    async def test_it_has_its_folder_and_variables(self, sandbox: Sandbox) -> None:
        """As `exec` gives them."""
        await sandbox.mkdir("d")
        process = await sandbox.spawn("pwd; echo $GIVEN", cwd="d", env={"GIVEN": "x"})
        assert (await process.wait()).stdout.decode() == f"{sandbox.root}/d\nx\n"

    async def test_killing_it_kills_all_it_started(self, sandbox: Sandbox) -> None:
        """Daemons and ignorers of signals included."""
        process = await sandbox.spawn(f"trap '' TERM; (setsid sh -c '{BEATS}' &); echo up; while :; do sleep 1; done")
        await first_output(process)
        assert (await process.kill()).code == 128 + signal.SIGKILL
        await nothing_beats(sandbox)

    async def test_killing_it_is_polite_first(self, sandbox: Sandbox) -> None:
        """Its own words and code come back."""
        process = await sandbox.spawn("trap 'echo tidy; exit 5' TERM; echo up; while :; do sleep 0.01; done")
        await first_output(process)
        result = await process.kill()
        assert result.code == 5
        assert result.stdout.endswith(b"tidy\n")

    async def test_a_cancelled_wait_leaves_it_running(self, sandbox: Sandbox) -> None:
        """Waiting is only looking on."""
        process = await sandbox.spawn("echo up; sleep 60")
        await first_output(process)
        with anyio.move_on_after(0.05):
            await process.wait()
        assert (await process.logs()).running
        await process.kill()

    async def test_output_is_bounded(self, sandbox: Sandbox) -> None:
        """Head and tail are kept; positions count what is gone."""
        process = await sandbox.spawn("head -c 5000000 /dev/zero | tr '\\0' x; echo end", max_output=1_000)
        with anyio.fail_after(30):
            result = await process.wait()
        assert result.cut_bytes == 5_000_004 - 1_000
        logs = await process.logs(after=4_999_000)
        assert logs.data.endswith(b"xxend\n")
        assert (len(logs.data), logs.cut_bytes, logs.next) == (500, 504, 5_000_004)

    async def test_one_that_is_not_known(self, sandbox: Sandbox) -> None:
        """`no_process`."""
        with pytest.raises(SandboxError) as caught:
            sandbox.process("none")
        assert caught.value.code == "no_process"

    async def test_closing_meets_what_is_being_started(self, sandbox: Sandbox) -> None:
        """It is ended or refused, never left running in a closed sandbox."""
        for pause in (0.0, 0.005):
            await sandbox.open()
            async with anyio.create_task_group() as group:
                group.start_soon(_started_or_refused, sandbox)
                await anyio.sleep(pause)
                await sandbox.close()
                assert sandbox.processes() == ()
        await sandbox.open()
        await nothing_beats(sandbox)


async def _started_or_refused(sandbox: Sandbox) -> None:
    with anyio.fail_after(30):
        try:
            process = await sandbox.spawn(BEATS)
        except SandboxError as error:
            assert error.code == "closed"  # noqa: PT017 - it may come or not
        else:
            await process.wait()
