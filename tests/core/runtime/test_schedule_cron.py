"""Cron lines: what they mean where clocks change, what is refused, and what a process does that cannot read them."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from kode.core.errors import NotBoundError, UsageError
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import call, last_text, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.cron import EPOCH, first_time, next_time
from kode.core.runtime.pool import AgentPool
from kode.core.testing.crash import crash_at, until_crash
from kode.core.testing.wrapped import WrappedStore
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool

pytest.importorskip("cronsim")
BERLIN = ZoneInfo("Europe/Berlin")


@tool(needs_approval=True)
async def risky(context: ToolContext) -> str:
    """Needs a person."""
    return "done"


def echo(request: ModelRequest) -> str:
    return f"re {last_text(request)}"


async def wake(lab: Any, deps: Any) -> None:
    """What a worker does: drive who is due, once."""
    for due in await lab.store.due(await lab.store.now(), 100, None):
        await (await Agent.open(due.agent_id, deps)).complete()


async def fired(lab: Any) -> list[Any]:
    return [e for e in await lab.events() if e.type == "scheduler_triggered"]


def times(line: str, start: str, n: int, zone: str = "Europe/Berlin") -> list[str]:
    """The next times of a line after one in UTC, in UTC."""
    at = (datetime.fromisoformat(start).replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    found = []
    for _ in range(n):
        at = next_time(f"{line} {zone}", at) or 0
        found.append((EPOCH + timedelta(microseconds=at)).strftime("%d %H:%M"))
    return found


def test_all_five_fields_count() -> None:
    assert times("30 9 * * MON-FRI", "2026-01-02T00:00", 3) == ["02 08:30", "05 08:30", "06 08:30"]
    assert times("0 0 1,15 2 *", "2026-01-01T00:00", 3, "UTC") == ["01 00:00", "15 00:00", "01 00:00"]
    assert times("0 0 13 * FRI", "2026-01-01T00:00", 3, "UTC") == ["02 00:00", "09 00:00", "13 00:00"]
    assert times("*/20 22-23 * * *", "2026-01-01T22:30:30", 4, "UTC") == [
        "01 22:40",
        "01 23:00",
        "01 23:20",
        "01 23:40",
    ]
    assert times("0 0 29 2 *", "2025-03-01T00:00", 1, "UTC") == ["29 00:00"]


def test_the_hour_that_does_not_come() -> None:
    """29 March 2026: 02:00 is 03:00 in Berlin, at 01:00 UTC."""
    assert times("30 2 * * *", "2026-03-28T00:00", 3) == ["28 01:30", "29 01:00", "30 00:30"], "right after the gap"
    assert times("0,30 2 * * *", "2026-03-28T12:00", 3) == ["29 01:00", "30 00:00", "30 00:30"], "once, not twice"
    assert times("*/30 * * * *", "2026-03-29T00:10", 3) == ["29 00:30", "29 01:00", "29 01:30"], "time that passes"
    assert times("30 * * * *", "2026-03-29T00:10", 3) == ["29 00:30", "29 01:30", "29 02:30"]


def test_the_hour_that_comes_twice() -> None:
    """25 October 2026: 03:00 is 02:00 in Berlin, at 01:00 UTC."""
    assert times("30 2 * * *", "2026-10-24T12:00", 2) == ["25 00:30", "26 01:30"], "the first time"
    assert times("30 2 * * *", "2026-10-25T00:45", 1) == ["26 01:30"], "nobody drove at 00:30: it is not made up for"
    assert times("30 2 * * *", "2026-10-25T01:10", 1) == ["26 01:30"], "never one that is over"
    assert times("30 * * * *", "2026-10-25T00:00", 3) == ["25 00:30", "25 01:30", "25 02:30"], "both times"


@pytest.mark.parametrize(
    ("line", "tz", "code", "match"),
    [
        ("0 0 31 2 *", "UTC", "bad_cron", "Bad day-of-month, or such a date never comes"),
        ("0 0 * 2 SUN#6", "UTC", "bad_cron", "Bad day-of-week"),
        ("0 0 */20 * 1L", "UTC", "bad_cron", "does not come in the next 50 years"),
        ("61 * * * *", "UTC", "bad_cron", "Bad minute"),
        ("* * * *", "UTC", "bad_cron", "needs five fields"),
        ("0 * * * * *", "UTC", "bad_cron", "needs five fields"),
        ("@daily", "UTC", "bad_cron", "needs five fields"),
        ("", "UTC", "bad_cron", "needs five fields"),
        (5, "UTC", "bad_cron", "needs five fields"),
        (",".join("0" for _ in range(200)) + " * * * *", "UTC", "bad_cron", "more than 256 characters"),
        ("0 9 * * *", "Europe/Nowhere", "bad_timezone", "no time zone 'Europe/Nowhere'"),
        ("0 9 * * *", "Europe", "bad_timezone", "no time zone"),
        ("0 9 * * *", "../../etc/passwd", "bad_timezone", "no time zone"),
        ("0 9 * * *", "", "bad_timezone", "no time zone"),
        ("0 9 * * *", None, "bad_timezone", "no time zone"),
    ],
)
async def test_what_is_no_cron_line_is_refused_where_it_is_said(
    lab: Any, line: Any, tz: Any, code: str, match: str
) -> None:
    agent = await lab.agent(())
    with pytest.raises(UsageError, match=match) as caught:
        await agent.schedule.cron(line, "Go.", tz=tz)
    assert caught.value.code == code
    assert await agent.schedule.list() == ()


async def test_a_year_of_mornings(lab: Any) -> None:
    """At nine on the wall, whatever the clocks do; a fortnight without anybody is one signal."""
    agent = await lab.agent(())
    await agent.schedule.cron("0 9 * * *", tz="Europe/Berlin", kind="signal")
    deps = lab.deps(echo)
    await wake(lab, deps)
    for day in range(365):
        await lab.clock.advance(86_400)
        if not 100 <= day < 114:
            await wake(lab, deps)
    told = await fired(lab)
    assert len(told) == 365 - 14
    local = [(EPOCH + timedelta(microseconds=e.data["due_at"])).astimezone(BERLIN) for e in told]
    assert {(t.hour, t.minute) for t in local} == {(9, 0)}
    assert all(a.data["next_at"] == b.data["due_at"] for a, b in pairwise(told))
    days = [(b.date() - a.date()).days for a, b in pairwise(local)]
    assert (set(days), days.count(15)) == ({1, 15}, 1)


async def test_one_that_nobody_took_for_days_still_comes(lab: Any) -> None:
    """It was due before any driver had heard of it."""
    agent = await lab.agent(echo)
    await agent.schedule.cron("0 9 * * *", "Good morning.", id="am")
    await lab.clock.advance(5 * 86_400)
    await agent.complete()
    assert len(await fired(lab)) == 1
    (timer,) = await agent.schedule.list()
    assert lab.clock.now() < (timer.due_at or 0) <= lab.clock.now() + 86_400_000_000


# ---- without the library ----------------------------------------------------------------------------------------


async def test_without_the_extra_it_says_what_to_install(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    agent = await lab.agent(())
    with pytest.raises(NotBoundError, match=r"pip install 'kode-core\[cron\]'") as caught:
        await agent.schedule.cron("0 9 * * *", "Go.")
    assert caught.value.code == "no_cron"


async def test_a_pool_that_cannot_read_it_leaves_it_to_one_that_can(
    lab: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is neither lost nor parked, and the pool that cannot does not spin."""
    agent = await lab.agent(())
    await agent.schedule.cron("*/10 * * * *", "Go.", id="c")
    await wake(lab, lab.deps(echo))
    before = await lab.store.read_state("a")
    with monkeypatch.context() as gone, caplog.at_level(logging.WARNING):
        gone.setitem(sys.modules, "cronsim", None)
        async with AgentPool(lab.deps(echo, store=WrappedStore(lab.store))):
            await lab.clock.advance(1_800)
    assert await lab.store.read_state("a") == before
    assert len([record for record in caplog.records if "kode-core[cron]" in record.getMessage()]) == 1
    async with AgentPool(lab.deps(echo)):
        await lab.clock.advance(2)
    assert await lab.texts() == ["user: Go.", "assistant: re Go."]


async def test_one_that_arrives_where_it_cannot_be_read_stays_in_the_inbox(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await lab.agent(echo)
    await agent.schedule.cron("*/10 * * * *", "Go.", id="c")
    with monkeypatch.context() as gone:
        gone.setitem(sys.modules, "cronsim", None)
        with pytest.raises(NotBoundError, match="kode-core"):
            await agent.complete()
    assert len(await lab.store.read_inbox("a", agent.uid)) == 1
    await agent.complete()
    assert [t.id for t in (await lab.store.read_state("a")).timers] == ["c"]


async def test_who_cannot_read_it_does_not_wear_the_agent_out(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crashed run is taken up by who can, however often the others tried: theirs count as no crashes."""
    agent = await lab.agent(echo)
    await agent.schedule.cron("*/10 * * * *", kind="signal", id="c")
    await agent.complete()
    plan = crash_at("before model")
    deps = lab.deps(())
    deps.store, deps.providers["m"] = plan.store(lab.store), plan.provider(deps.providers["m"])
    mortal = await Agent.open("a", deps)
    await until_crash(plan, lambda: mortal.run("go"))
    await lab.clock.advance(1_200)
    with monkeypatch.context() as gone:
        gone.setitem(sys.modules, "cronsim", None)
        for _ in range(8):
            with pytest.raises(NotBoundError):
                await (await Agent.open("a", lab.deps(echo))).drive()
    drive = await (await Agent.open("a", lab.deps(echo))).drive()
    assert (drive.stop, (await lab.texts())[-1]) == ("idle", "assistant: re go")


async def test_one_that_came_due_in_a_step_fires_after_it_though_the_clock_was_set_back(lab: Any) -> None:
    agent = await lab.agent([call("risky", {}), say("end")], risky)
    await agent.schedule.cron("*/10 * * * *", "Tick.", id="c")
    (pending,) = (await agent.run("go")).pending
    await lab.clock.advance(1_000)
    await agent.schedule.after(0, kind="signal")
    await agent.complete()  # something is written at that time
    at = (await lab.store.read_state("a")).updated_at
    lab.clock.jump(-3_600)
    await agent.decide(pending, "allow")
    assert (await agent.complete()).text == "end"
    assert (await lab.texts())[2:] == ["user: [done]", "user: Tick.", "assistant: end"]
    (timer,) = await agent.schedule.list()
    assert (timer.due_at or 0) > at, "what was skipped is not made up for"


def test_the_schedule_says_its_zone() -> None:
    schedule, first = first_time(" 30  9 * * mon ", "Europe/Berlin", 0)
    assert schedule == "30 9 * * mon Europe/Berlin"
    assert EPOCH + timedelta(microseconds=first) == datetime(1970, 1, 5, 8, 30, tzinfo=UTC)
