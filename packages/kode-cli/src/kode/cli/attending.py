"""What `kode run` and `kode resume` share: an agent is driven while a person watches, decides, and may stop it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kode.cli.approving import Approver
from kode.cli.ending import end
from kode.cli.failing import explain
from kode.cli.following import Follower, Leg
from kode.cli.opening import Bound, command, store_option
from kode.cli.screen import Screen
from kode.cli.telling import Line, Story, called
from kode.cli.visible import inline
from kode.core import Agent
from kode.core.errors import StoreError
from kode.core.kernel.state import State
from kode.core.kernel.toolcall import CallStatus
from kode.core.store.contract import Loaded

__all__ = ["Options", "attend"]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says of watching."""

    store: str | None
    """URL, as given."""
    folder: Path | None
    """Where the store lies if no URL is given; None: here."""
    yes: bool
    timeout_s: float | None
    quiet: bool
    as_json: bool


async def attend(agent: Agent, code: Bound, leg: Leg, options: Options) -> int:
    """See an agent through and end the command; returns its exit code."""
    store = code.deps.store
    screen = Screen(quiet=options.quiet)
    approver = Approver(store, screen, code.sandbox, options.yes, screen.interactive)
    follower = Follower(agent, screen, approver)
    loaded = await store.load(agent.agent_id)
    if loaded is not None:
        follower.cursor = loaded.state.next_cursor - 1
        screen.tell([Line("agent", "agent", _opening(agent, code)), *_where(loaded, follower.story)])
    option = store_option(options.store, options.folder)
    try:
        async with agent:
            outcome = await follower.follow(leg, options.timeout_s)
    except StoreError as error:
        ended = explain(error)
        screen.say("What the store has acknowledged is kept; to go on where it was:")
        screen.command(command("resume", agent.agent_id, store=option))
        return ended
    return await end(outcome, agent, store, screen, store_option=option, as_json=options.as_json)


def _opening(agent: Agent, code: Bound) -> str:
    return " · ".join(inline(text) for text in (agent.agent_id, agent.template.model, code.sandbox.root))


_AFTER = {
    "retry": "it is run again, which is harmless",
    "seal": "it is sealed: the model is told that its outcome is unknown",
    "ask": "a person is asked whether to run it again",
}


def _where(loaded: Loaded, story: Story) -> list[Line]:
    """Say where an agent stands that has worked before, and what becomes of what its last process left open."""
    state = loaded.state
    story.goes_on(state)
    if state.run is None and not loaded.inbox:
        return []
    lines = [Line("item", "again", _stands(state))]
    if loaded.lease is not None:
        return [*lines, Line("item", "note", "another process is at work on it; following that")]
    for call in state.calls:
        if call.status is CallStatus.EXECUTING:
            text = f"{called(call)}: was running when its process ended; {_AFTER[call.plan.recovery]}"
            lines.append(Line("detail", "again", text))
    return lines


def _stands(state: State) -> str:
    if state.run is None:
        return "messages wait in its inbox"
    return f"goes on where it was: run {state.run.number}, step {state.step}, {state.breakpoint.value}"
