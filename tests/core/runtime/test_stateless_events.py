"""`StatelessAgent.stream`: the events of one run, for a client that may leave and come back."""

from __future__ import annotations

from typing import Any

import pytest
from tests.core.runtime.requests import NEAR, PLAIN, echo, ping, using

from kode.core.errors import (
    NotBoundError,
    UsageError,
)
from kode.core.provider.script import Gate, call, say
from kode.core.runtime.stateless import StatelessAgent


async def test_a_stream_gives_the_events_of_its_run_and_the_result(lab: Any) -> None:
    deps = lab.deps([call("ping", {}), say("end")], ping, sandboxes=NEAR)
    seen = []
    async with StatelessAgent.stream("a", "go", template_id=using(ping), dependencies=deps) as events:
        seen = [envelope.type async for envelope in events]
    assert events.result is not None
    assert (events.result.status, events.result.text) == ("ok", "end")
    assert {"tool_start", "tool_end", "text_chunk", "done"} <= set(seen)
    only = []
    async with StatelessAgent.stream(
        "a", "more", kinds=["done"], dependencies=lab.deps(echo, ping, sandboxes=NEAR)
    ) as events:
        only = [envelope.type async for envelope in events]
    assert only == ["done"]


async def test_a_client_that_comes_back_misses_nothing_and_runs_nothing_twice(lab: Any) -> None:
    deps = lab.deps([call("ping", {}), say("end"), say("twice")], ping, sandboxes=NEAR)
    options = {"template_id": using(ping), "request_id": "r", "dependencies": deps}
    async with StatelessAgent.stream("a", "go", **options) as events:
        whole = [envelope.cursor async for envelope in events if not envelope.delta]
    async with StatelessAgent.stream("a", "go", since=whole[2], **options) as events:
        part = [envelope.cursor async for envelope in events if not envelope.delta]
    assert part == whole[3:]
    assert events.result is not None
    assert events.result.text == "end"
    assert len(lab.provider.requests) == 2


async def test_a_stream_left_early_cancels_the_run_and_leaves_the_agent_whole(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps([say("one", gate=gate), say("one")])
    async with StatelessAgent.stream("a", "go", template_id=PLAIN, request_id="r", dependencies=deps) as events:
        async for _ in events:
            await gate.reached()
            break
    assert events.result is None
    assert await lab.store.lease_of("a") is None
    assert (await StatelessAgent.run("a", "go", request_id="r", dependencies=deps)).text == "one"
    assert await lab.texts() == ["user: go", "assistant: one"]


async def test_a_stream_fails_as_run_does(lab: Any) -> None:
    deps = lab.deps(echo)
    with pytest.raises(UsageError):
        StatelessAgent.stream("a", "go", on_busy="never", dependencies=deps)  # type: ignore[arg-type]
    with pytest.raises(NotBoundError):
        async with StatelessAgent.stream("a", "go", template_id="nobody's", dependencies=deps):
            pass
    with pytest.raises(UsageError):
        async with StatelessAgent.stream("a", " ", template_id=PLAIN, dependencies=deps) as events:
            assert [envelope async for envelope in events] == []
