"""What may happen to a request on its way: it is answered late, not at all, by somebody else, or is broken off."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import traceback
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest
from tests.stores.supabase.conftest import Project

from kode.core.errors import KodeError, StoreError, StoreUnavailableError, UsageError
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import item
from kode.store.supabase import SupabaseStore, rows

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

Act = tuple[str, int | str]
"""``answer`` with a status and do not pass it on; pass it on and ``lose`` the answer; ``hold`` it; ``cut`` it off."""


class Road:
    """Stands between client and project, and does to each request what is written in `plan`; then passes all on."""

    def __init__(self, url: str) -> None:
        self.port = urlsplit(url).port
        self.plan: deque[Act] = deque()
        self.headers = b""
        self.body = '{"message": "the gateway says so"}'
        self.seen: list[str] = []
        self.held = asyncio.Event()
        self.go = asyncio.Event()
        self.serving: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request = head + await reader.readexactly(_size(head))
                self.seen.append(head.split(b" ")[1].decode().rpartition("/")[2])
                if not await self._carry(request, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _carry(self, request: bytes, writer: asyncio.StreamWriter) -> bool:
        what, value = self.plan.popleft() if self.plan else ("pass", "")
        if what == "cut":
            return False
        if what == "answer":
            body = self.body.encode("utf-8", "surrogateescape")
            writer.write(b"HTTP/1.1 %d No\r\n%sContent-Length: %d\r\n\r\n%s" % (value, self.headers, len(body), body))
            return True
        if what == "hold":
            self.held.set()
            await self.go.wait()
        inner, outer = await asyncio.open_connection("127.0.0.1", self.port)
        outer.write(request)
        head = await inner.readuntil(b"\r\n\r\n")
        answer = head + await inner.readexactly(_size(head))
        outer.close()
        if what == "lose":
            return False
        if what == "broke":  # as PostgREST answers whose connection to its database broke while the statement ran
            body = b'{"code":"PGRST001","message":"Database client error","details":null,"hint":null}'
            writer.write(b"HTTP/1.1 503 No\r\nContent-Type: application/json\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            return True
        writer.write(answer)
        return True


def _size(head: bytes) -> int:
    return next(int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length"))


@asynccontextmanager
async def on_the_road(project: Project, **options: float) -> AsyncIterator[tuple[SupabaseStore, Road]]:
    road = Road(project.url)
    server = await asyncio.start_server(road.serve, "127.0.0.1")
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    store = SupabaseStore(url, project.key, schema=project.kept, **{"retry_s": 3.0, **options})
    try:
        async with store:
            yield store, road
    finally:
        road.go.set()
        server.close()
        await asyncio.gather(*filter(None, road.serving))


@pytest.fixture
async def road(project: Project) -> AsyncIterator[tuple[SupabaseStore, Road]]:
    async with on_the_road(project) as both:
        yield both
    await _empty(project)


async def _empty(project: Project) -> None:
    await project.execute(
        "".join(
            f"DELETE FROM {project.kept}.{kind};" for kind in ("header", "lease", "message", "events", "inbox", "run")
        )
    )


Pair = tuple[SupabaseStore, Road]


# ---- what is sent again --------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [("answer", 425), ("answer", 429), ("answer", 503), ("answer", 408), ("cut", 0)])
async def test_what_was_not_done_is_sent_again(road: Pair, act: Act) -> None:
    store, way = road
    author = Author(store)
    way.plan.extend([act, act])
    await author.create()
    way.plan.extend([act, act])
    await author.say("hi", events=1)
    way.plan.extend([act, act])
    assert len((await store.read_messages("agent")).items) == 1


@pytest.mark.parametrize("act", [("lose", 0), ("broke", 0), ("answer", 502), ("answer", 524)])
async def test_a_commit_and_an_item_whose_answers_are_lost_land_once(road: Pair, act: Act) -> None:
    store, way = road
    author = Author(store)
    await author.create()
    way.plan.append(act)
    committed = await author.say("hi", events=1)
    assert committed.version == author.version
    assert committed.repeated == (act[0] in ("lose", "broke"))
    way.plan.append(act)
    done = await store.enqueue("agent", item("m1"))
    assert done.duplicate == (act[0] in ("lose", "broke"))
    assert len((await store.read_messages("agent")).items) == 1
    loaded = await store.load("agent")
    assert loaded is not None
    assert [one.id for one in loaded.inbox] == ["m1"]


@pytest.mark.parametrize("what", ["lose", "broke"])
async def test_an_act_whose_answer_is_lost_is_not_repeated_below_the_commit(road: Pair, what: str) -> None:
    """Its conditions would then fail by its own doing; only who knows what was meant may repeat it."""
    store, way = road
    author = Author(store)
    await author.create()
    header, *_ = await store.agents("", "", 1)
    way.plan.append((what, 0))
    way.seen.clear()
    with pytest.raises(StoreUnavailableError) as error:
        await store.apply("agent", [], [header], [])
    assert error.value.code == "connection_lost"
    assert way.seen == ["rest_apply_v1"]


async def test_it_ends_when_the_time_is_over(project: Project) -> None:
    async with on_the_road(project, retry_s=0.3) as (store, way):
        way.plan.extend([("answer", 429)] * 100)
        with pytest.raises(StoreUnavailableError) as error:
            await store.exists("agent")
        assert error.value.code == "too_many_requests"
        assert 2 <= 100 - len(way.plan) <= 6
        way.plan.clear()
        assert not await store.exists("agent")


async def test_it_waits_as_long_as_the_answer_asks_or_says_so_at_once(road: Pair) -> None:
    store, way = road
    way.headers = b"Retry-After: 1\r\n"
    way.plan.append(("answer", 429))
    began = store.project.clock.monotonic()
    assert not await store.exists("agent")
    assert store.project.clock.monotonic() - began >= 1.0
    way.headers = b"Retry-After: 3600\r\n"
    way.plan.append(("answer", 429))
    way.seen.clear()
    with pytest.raises(StoreUnavailableError, match="asks to wait 3600 s") as error:
        await store.exists("agent")
    assert (error.value.code, error.value.fields["wait_s"], len(way.seen)) == ("too_many_requests", 3600.0, 1)
    way.headers = b"Retry-After: Wed, 21 Oct 2099 07:28:00 GMT\r\n"
    way.plan.append(("answer", 429))
    assert not await store.exists("agent")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 522])
async def test_a_gateway_s_page_is_no_part_of_the_error(project: Project, status: int) -> None:
    async with on_the_road(project, retry_s=0.0) as (store, way):
        way.body = "<!DOCTYPE html><html><h1>Bad gateway</h1>" + "x" * 100_000
        way.plan.append(("answer", status))
        with pytest.raises(StoreUnavailableError, match="it is not known what became") as error:
            await store.exists("agent")
        assert (error.value.code, error.value.fields["status"]) == ("connection_lost", status)
        assert "html" not in str(error.value).lower()


async def test_who_waits_to_send_again_may_be_cancelled_at_once(road: Pair) -> None:
    store, way = road
    way.plan.extend([("answer", 429)] * 100)
    with anyio.move_on_after(0.2) as scope:
        await store.exists("agent")
    assert scope.cancelled_caught
    way.plan.clear()
    assert not await store.exists("agent")


async def test_a_request_that_takes_too_long_is_given_up(project: Project) -> None:
    async with on_the_road(project, retry_s=0.1, request_timeout_s=0.3) as (store, way):
        way.plan.append(("hold", 0))
        with pytest.raises(StoreUnavailableError) as error:
            await store.exists("agent")
        assert error.value.code == "connection_lost"
        way.go.set()
        assert not await store.exists("agent")


# ---- what is not ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (401, "{}", StoreError, "bad_key"),
        (401, '{"code": "PGRST301", "message": "JWSError"}', StoreError, "bad_key"),
        (401, '{"code": "PGRST302", "message": "anonymous"}', StoreError, "bad_key"),
        (406, '{"code": "PGRST106", "message": "schema"}', StoreError, "schema_hidden"),
        (403, "no", StoreError, "permission_denied"),
        (404, "<html>", StoreError, "no_project"),
        (413, "{}", UsageError, "too_large"),
        (302, "", StoreError, "supabase"),
        (540, "{}", StoreUnavailableError, "project_paused"),
        (500, '{"code": "57014", "message": "canceling"}', StoreUnavailableError, "timeout"),
        (503, '{"code": "53100", "message": "full"}', StoreUnavailableError, "disk_full"),
        (405, '{"code": "25006", "message": "read"}', StoreUnavailableError, "read_only"),
        (500, '{"code": "XX001", "message": "damaged"}', StoreError, "store_corrupt"),
        (400, '{"code": "22P05", "message": "hush-hush"}', UsageError, "bad_value"),
        (400, '{"code": "P0001", "message": "who knows"}', StoreError, "supabase"),
        (400, '[{"code": 7}]', StoreError, "supabase"),
        pytest.param(400, "[" * 60_000, StoreError, "supabase", id="deep refusal"),
        (200, "<html>a proxy says hello</html>", StoreError, "no_project"),
        *(
            pytest.param(200, body, StoreError, "no_project", id=f"success {body[:5]!a}")
            for body in ("{}", "null", "[]", "[" * 60_000, "9" * 5_000, "\udcff")
        ),
    ],
)
async def test_what_no_repeating_mends_is_one_clear_error(
    road: Pair, status: int, body: str, kind: type[KodeError], code: str
) -> None:
    store, way = road
    way.body = body
    way.plan.append(("answer", status))
    way.seen.clear()
    with pytest.raises(kind) as error:
        await store.exists("agent")
    assert error.value.code == code
    assert len(way.seen) == 1
    assert "hush-hush" not in str(error.value)
    assert not await store.exists("agent")  # usable as before


async def test_what_is_too_large_is_not_sent(project: Project) -> None:
    async with on_the_road(project, max_request_bytes=20_000) as (store, way):
        author = Author(store)
        await author.create()
        way.seen.clear()
        with pytest.raises(UsageError, match="max_request_bytes") as error:
            await store.enqueue("agent", item("m1", text="x" * 30_000))
        assert error.value.code == "too_large"
        assert "rest_append_v1" not in way.seen
        await store.enqueue("agent", item("m1"))
    await _empty(project)


# ---- order ---------------------------------------------------------------------------------------------------


async def test_a_write_that_nobody_waits_for_is_done_before_the_next_of_its_agent(road: Pair) -> None:
    store, way = road
    author, other = Author(store), Author(store, "other", "uid-2")
    await author.create()
    way.plan.append(("hold", 0))
    commit = author.make(messages=())
    with anyio.move_on_after(10) as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(store.commit, commit)
            await way.held.wait()
            scope.cancel()
    assert scope.cancel_called
    # Another agent's goes on; the same agent's waits, and finds the first one done.
    await other.create()
    again = asyncio.create_task(store.commit(commit))
    await anyio.sleep(0.05)
    assert not again.done()
    way.go.set()
    assert (await again).repeated
    assert not store.project._lines
    assert not store.project._tasks


@pytest.mark.parametrize("page", [2, 1_000])
async def test_what_is_loaded_is_of_one_moment(
    project: Project, road: Pair, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes messages out of the inbox between two of the requests: they are in the window then."""
    monkeypatch.setattr(rows, "PAGE", page)
    store, way = road
    async with SupabaseStore(project.url, project.key, schema=project.kept) as there:
        author = Author(there)
        await author.create()
        for n in range(4):
            await there.enqueue("agent", item(f"m{n}"))
        await store.now()
        for passed in (1, 2, 3)[: 1 if page > 4 else 3]:
            way.held.clear()
            way.go.clear()
            way.plan.extend([("pass", 0)] * passed + [("hold", 0)])
            loading = asyncio.create_task(store.load("agent"))
            await way.held.wait()
            first, *_ = waiting = await there.read_inbox("agent", "uid-1")
            await author.say("taken", consumed={first.position: first})
            way.go.set()
            loaded = await loading
            assert loaded == await there.load("agent")
            assert loaded is not None
            assert len(loaded.inbox) == len(waiting) - 1
            assert not way.plan


async def test_close_waits_for_what_is_under_way(project: Project) -> None:
    async with on_the_road(project) as (store, way):
        author = Author(store)
        await author.create()
        way.plan.append(("hold", 0))
        left = asyncio.create_task(author.say("hi", events=1))
        await way.held.wait()
        closing = asyncio.create_task(store.close())
        await anyio.sleep(0.05)
        assert not closing.done()
        way.go.set()
        await closing
        assert (await left).version == author.version
        with pytest.raises(StoreError) as error:
            await store.exists("agent")
        assert error.value.code == "closed"
    await _empty(project)


async def test_a_request_that_nobody_waits_for_loses_no_connection() -> None:
    """At whichever step of it who asked is cancelled: also while its connection is being made."""
    serving: list[asyncio.Task[None] | None] = []
    answer = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 21\r\n\r\n{"at":1,"answers":[]}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError):
            await reader.readexactly(_size(await reader.readuntil(b"\r\n\r\n")))
            writer.write(answer)
        await reader.read()  # until the other end is closed
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    store = SupabaseStore(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "a-key")
    gc.disable()  # it would close what is lost, in its own time
    try:
        await store.project.open()
        for step in range(40):
            asking = asyncio.create_task(store.look("agent"))
            for _ in range(step):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
        await store.close()
        assert not store.project._tasks
        with anyio.fail_after(10):
            await asyncio.gather(*filter(None, serving))
    finally:
        gc.enable()
        server.close()


# ---- the key -------------------------------------------------------------------------------------------------


async def test_the_key_is_nowhere_but_in_the_request(
    project: Project, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither in an error and what led to it, nor in what the libraries below write to their logs, nor in a repr."""
    caplog.set_level(logging.DEBUG)
    told: list[str] = []

    async def look(plan: list[Act], body: str) -> None:
        async with on_the_road(project, retry_s=0.1) as (store, way):
            told.extend(map(repr, (store, store.project, store.project.options)))
            await store.exists("agent")
            way.body = body
            way.plan.extend(plan)
            with pytest.raises(KodeError) as error:
                await store.exists("agent")
            told.extend(traceback.format_exception(error.value))
            told.append(json.dumps(error.value.fields, default=str))

    said = json.dumps({"code": "P0001", "message": f"the key {project.key} is odd"})
    echo = json.dumps({"code": project.key})
    for plan, body in (
        ([("answer", 401)], "{}"),
        ([("cut", 0)] * 9, "{}"),
        ([("answer", 400)], said),
        ([("answer", 400)], echo),
    ):
        await look(plan, body)
    told += [record.getMessage() for record in caplog.records]
    told += [repr(record.args) for record in caplog.records]
    told += [*capfd.readouterr()]
    assert len(told) > 20
    assert not [one for one in told if project.key in one or project.key[:20] in one]
    assert not [one for one in told if project.key.rpartition(".")[2] in one]


# ---- beneath the API -----------------------------------------------------------------------------------------


async def test_a_database_that_cuts_its_connections_loses_nothing(project: Project) -> None:
    async with SupabaseStore(project.url, project.key, schema=project.kept, retry_s=5.0) as store:
        authors = [Author(store, f"a{n}", f"uid-{n}") for n in range(4)]
        for author in authors:
            await author.create()

        async def talk(author: Author) -> None:
            for n in range(15):
                await author.say(f"word {n}", events=1)

        async def disturb() -> None:
            db = await asyncpg.connect(project.dsn)
            for _ in range(4):
                await db.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE usename = 'authenticator' AND query !~ 'LISTEN'"
                )
                await asyncio.sleep(0.03)
            await db.close()

        async with anyio.create_task_group() as group:
            for author in authors:
                group.start_soon(talk, author)
            group.start_soon(disturb)
        for author in authors:
            assert len((await store.read_messages(author.id)).items) == 15
    await _empty(project)
