"""The contract of `ref`: how another process finds a sandbox, and what `kill_ref` and `dispose` leave."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from kode.core.sandbox.base import Sandbox
from kode.core.testing.conformance.sandbox.case import BEATS, SandboxCase, first_output, nothing_beats, refused

__all__ = ["RefContract"]


class RefContract(SandboxCase):
    """What one sandbox is to those who hold its ref."""

    lives_on = False
    """Whether `open` makes something outside this process, which `dispose` destroys: a container, a machine."""

    @pytest.fixture
    def again(self) -> Callable[[str | None], Sandbox]:
        """Make another one of the same options and a ref (None: a new one), not open yet."""
        raise NotImplementedError("give a fixture `again`")

    async def things(self) -> frozenset[str]:
        """Names of what sandboxes of this kind have made outside this process. Override it where `lives_on`."""
        return frozenset()

    async def test_a_second_one_of_the_same_ref(self, sandbox: Sandbox, again: Callable[[str | None], Sandbox]) -> None:
        """Finds the files of the first, under the same ref; letting go of it leaves the first as it was."""
        if sandbox.ref is None:
            pytest.skip("it has no ref")
        assert len(sandbox.ref) <= 500
        await sandbox.write("f", b"text")
        process = await sandbox.spawn("echo up; sleep 60")
        await first_output(process)
        before = await self.things()
        second = again(sandbox.ref)
        await second.open()
        assert (second.ref, second.root) == (sandbox.ref, sandbox.root)
        assert (await second.exec("cat f")).stdout == b"text"
        assert await self.things() == before
        await second.close()
        assert (await process.logs()).running
        assert await sandbox.read("f") == b"text"

    async def test_a_killed_ref_has_no_processes(
        self, sandbox: Sandbox, again: Callable[[str | None], Sandbox]
    ) -> None:
        """Whoever started them, daemons included; again is harmless, and the ref can be opened after it."""
        if sandbox.ref is None:
            pytest.skip("it has no ref")
        process = await sandbox.spawn(f"(setsid sh -c '{BEATS}' &); echo up; sleep 60")
        await first_output(process)
        assert await type(sandbox).kill_ref(sandbox.ref) >= 1
        assert await type(sandbox).kill_ref(sandbox.ref) == 0
        with anyio.fail_after(30):
            assert (await process.wait()).code != 0
        second = again(sandbox.ref)
        await second.open()
        await nothing_beats(second)
        await second.close()

    @pytest.mark.parametrize("ref", ["", "no-ref", "another-kind:1"])
    async def test_what_is_no_ref_is_refused(self, sandbox: Sandbox, ref: str) -> None:
        """`bad_ref`."""
        assert await refused(type(sandbox).kill_ref(ref)) == "bad_ref"

    async def test_a_cancelled_open_leaves_nothing(
        self, sandbox: Sandbox, again: Callable[[str | None], Sandbox]
    ) -> None:
        """Whenever it is cancelled; it can be opened after that."""
        before = await self.things()
        one = again(None)
        for after_s in (0, 0.001, 0.01, 0.1):
            with anyio.move_on_after(after_s) as scope:
                await one.open()
            if not scope.cancelled_caught:
                break
            assert await self.things() == before
            if one.ref is not None:
                assert await type(one).kill_ref(one.ref) == 0
        await one.open()
        assert (await one.exec("echo up")).stdout == b"up\n"
        await one.dispose()
        assert await self.things() == before

    async def test_one_that_was_disposed_of(self, sandbox: Sandbox, again: Callable[[str | None], Sandbox]) -> None:
        """Has left no process and takes no command; what lived outside is `sandbox_gone`. Again is harmless."""
        before = await self.things()
        one = again(None)
        await one.open()
        ref = one.ref
        await first_output(await one.spawn("echo up; sleep 60"))
        await one.dispose()
        await one.dispose()
        assert await self.things() == before
        assert await refused(one.exec("true")) == "closed"
        if ref is None:
            return
        assert await type(one).kill_ref(ref) == 0
        second = again(ref)
        if self.lives_on:
            assert await refused(second.open()) == "sandbox_gone"
            assert await self.things() == before
        else:
            await second.open()
            await second.close()
