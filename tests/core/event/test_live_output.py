"""Live output of a tool that floods: bounded for those who do not read, complete for those who do."""

from __future__ import annotations

from kode.core.clock import RealClock
from kode.core.event.base import Envelope
from kode.core.event.hub import MIN_LIVE, Hub
from kode.core.event.subscription import Subscription
from kode.core.kernel.events import Event
from kode.core.store.memory import MemoryStore

PIECE = 50_000


def flooding(keep_live: int) -> tuple[Hub, Subscription]:
    hub = Hub("a")
    hub.keep_live = keep_live
    hub.begin(0, lambda: None)
    return hub, Subscription(hub, MemoryStore(), RealClock(), since=None, start=0)


def show(hub: Hub, n: int) -> None:
    text = f"{n:06}".ljust(PIECE, "x")
    hub.publish_live(Envelope("a", Event("tool_progress", call="1.1.1"), 0, delta=text))


async def test_who_keeps_up_sees_every_piece_once() -> None:
    hub, reader = flooding(100_000)
    for n in range(100):
        show(hub, n)
        assert (await anext(reader)).delta.startswith(f"{n:06}")
        assert sum(len(envelope.delta) for envelope in hub.log) <= 2 * MIN_LIVE + PIECE


async def test_who_falls_behind_goes_on_with_what_is_kept() -> None:
    hub, reader = flooding(1_000_000)
    for n in range(100):
        show(hub, n)
    kept = [envelope.delta[:6] for envelope in hub.log]
    assert 1_000_000 - PIECE <= len(kept) * PIECE <= 2_000_000
    assert kept[-1] == "000099"
    assert [(await anext(reader)).delta[:6] for _ in kept] == kept


async def test_a_little_is_kept_for_who_reads_whatever_the_setting_says() -> None:
    hub, reader = flooding(0)
    for n in range(2 * MIN_LIVE // PIECE + 1):
        show(hub, n)
    kept = [envelope.delta[:6] for envelope in hub.log]
    assert MIN_LIVE - PIECE <= len(kept) * PIECE <= MIN_LIVE
    assert [(await anext(reader)).delta[:6] for _ in kept] == kept
