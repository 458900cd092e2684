"""What a drive keeps while it goes on: nothing of the effects that are done, and no ring is lost or told twice."""

from __future__ import annotations

import gc
from typing import Any

import anyio

from kode.core.kernel.inputs import Delivered
from kode.core.provider.script import call, say
from kode.core.runtime.effects.worker import Worker
from kode.core.runtime.mailbox import Mailbox
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool


async def test_a_drive_forgets_the_effects_that_are_done(lab: Any) -> None:
    held: list[int] = []

    @tool
    async def look(context: ToolContext) -> str:
        """Look who is there."""
        workers = [one for one in gc.get_objects() if type(one) is Worker and one.resident.agent_id == "spare"]
        held.append(max(len(worker._scopes) for worker in workers))
        return "seen"

    script = [*[call("look", {}, id=f"c{n}") for n in range(4)], say("done")]
    agent = await lab.agent(script, look, id="spare")
    assert (await agent.run("go")).text == "done"
    assert held == [1, 1, 1, 1]


async def test_a_mailbox_wakes_its_reader_once_for_what_came_together_and_after_a_wait_that_was_given_up() -> None:
    box = Mailbox()
    box.post(Delivered("1.1.0"))
    box.wake()
    await box.wait()
    with anyio.move_on_after(0.01) as given_up:
        await box.wait()
    assert given_up.cancelled_caught
    box.ring()
    with anyio.fail_after(10):
        await box.wait()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(box.wait)
        await anyio.wait_all_tasks_blocked()
        box.stop()
    assert (box.look, box.stopping, len(box.take())) == (True, True, 1)
