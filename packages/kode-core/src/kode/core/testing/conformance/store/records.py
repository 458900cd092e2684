"""The contract of the round trip: what was written is what is read."""

from __future__ import annotations

from array import array
from typing import Any

from kode.core import jsontext
from kode.core.kernel.message import (
    BlobBlock,
    Json,
    MediaBlock,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    Usage,
)
from kode.core.kernel.state import Ancestor, Document, State, Timer
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.window import Compaction, Range, Snapshot, Window
from kode.core.store import Question
from kode.core.store.base import Store
from kode.core.store.contract import DocumentBody, Key, Record, Scan
from kode.core.store.records import COLUMNS, int_key, read_compaction, read_message
from kode.core.testing.conformance.store.author import (
    AT,
    A,
    Author,
    StoreCase,
    head,
    item,
    keep,
    loaded,
    open_call,
    row,
)

__all__ = ["RoundTripContract", "head", "row"]

ODD = "a\0b\r\n\t  e\u0301 \u00e9 \u202e \U0001f600\U0010ffff \ufffd 'quoted' \"\\ %s"


class RoundTripContract(StoreCase):
    """Records and values come back equal."""

    group = "round-trip"

    async def test_what_was_put_is_read_back_whole(self, store: Store) -> None:
        """Columns of 64-bit integers, any text or null, and bodies of any bytes are read back equal."""
        put = [
            row("message", "10", role="user", run=1, step=2**62, at=-5, body=bytes(range(256))),
            row("blob", "ab", size=None, media_type="ü \U0001f600", body=b""),
            row("staged", "a uid", "", at=1),
            row("call", "10.10.10", status="PENDING", tool="t"),
        ]
        await keep(store, put)
        assert await store.get(A, [r.address for r in put]) == put

    async def test_get_answers_in_the_order_asked_with_none_for_what_is_not_there(self, store: Store) -> None:
        """`get` answers in the order asked, a key as often as it was asked for, with None for what is not there."""
        a, b = row("message", "10"), row("message", "11")
        await keep(store, [a, b])
        keys = [b.address, Key("message", "u", "12"), a.address, Key("message", "other", "10"), b.address]
        assert await store.get(A, keys) == [b, None, a, None, b]

    async def test_get_of_a_thousand_keys(self, store: Store) -> None:
        """`get` answers for a thousand keys too, of which some are not there and some were asked for more than once."""
        rows = {f"{n}": row("message", f"{n}", size=n) for n in range(0, 500, 2)}
        await keep(store, rows.values())
        asked = [f"{n * 7 % 700}" for n in range(1_000)]
        found = await store.get(A, [Key("message", "u", key) for key in asked])
        assert [one and one.columns["size"] for one in found] == [int(key) if key in rows else None for key in asked]

    async def test_get_of_nothing_is_nothing(self, store: Store) -> None:
        """`get` of no keys is an empty list."""
        assert await store.get(A, []) == []

    async def test_a_put_replaces_the_whole_record(self, store: Store) -> None:
        """A put replaces columns and body; nothing of the old record stays."""
        await store.apply(A, (), [row("call", "1", status="PENDING", tool="t", body=b"1long body")], ())
        new = row("call", "1", status="COMPLETED", body=b"1")
        await store.apply(A, (), [new], ())
        assert await store.get(A, [new.address]) == [new]

    async def test_a_delete_of_nothing_is_fine(self, store: Store) -> None:
        """A delete of what is not there does nothing; one of what is there removes it."""
        a = row("message", "10")
        await keep(store, [a])
        assert await store.apply(A, (), (), [Key("run", "u", "10"), Key("message", "v", "10")]) is None
        assert await store.get(A, [a.address]) == [a]
        await store.apply(A, (), (), [a.address])
        assert await store.get(A, [a.address]) == [None]

    async def test_a_put_wins_over_a_delete(self, store: Store) -> None:
        """What is both put and deleted in one act is put."""
        old, new = row("message", "10", role="user"), row("message", "10", role="assistant")
        await keep(store, [old])
        assert await store.apply(A, (), [new], [new.address]) is None
        assert await store.get(A, [new.address]) == [new]

    async def test_nothing_is_shared_with_who_put_it(self, store: Store) -> None:
        """A change of what was handed in changes nothing stored."""
        columns: dict[str, Any] = {name: None for name, _ in COLUMNS["message"]}
        await store.apply(A, (), [Record("message", "u", "10", columns, b"1")], ())
        columns["role"] = "changed"
        (found,) = await store.get(A, [Key("message", "u", "10")])
        assert found is not None
        assert found.columns["role"] is None

    async def test_nothing_is_shared_with_who_reads_it(self, store: Store) -> None:
        """A change of what was read changes nothing stored."""
        await keep(store, [row("message", "10", role="user")])
        (found,) = await store.scan(A, Scan("message", "u", limit=9))
        try:
            found.columns["role"] = "changed"  # type: ignore[index]
        except TypeError:
            pass  # it cannot be changed at all
        (again,) = await store.get(A, [found.address])
        assert again is not None
        assert again.columns["role"] == "user"

    async def test_an_empty_body_stays_empty(self, store: Store) -> None:
        """A body of no bytes is read back as that, not as nothing."""
        empty = row("staged", "10", body=b"")
        await keep(store, [empty])
        assert await store.get(A, [empty.address]) == [empty]
        assert await store.scan(A, Scan("staged", "u", limit=9)) == [empty]

    async def test_a_body_is_never_touched(self, store: Store) -> None:
        """A body is bytes: whatever it looks like, not one of them is changed, cut or added."""
        bodies = [b'1{ "b" : 1.0, "a" : 1.00 }\n', b"null", b"\0\0", b"\xff\xfe", b"a\r\nb \n", b"1" + b"\0" * 70_000]
        rows = [row("blob", f"{n}", body=body) for n, body in enumerate(bodies)]
        await keep(store, rows)
        assert await store.scan(A, Scan("blob", "u", limit=99)) == rows

    async def test_a_body_is_bytes_wherever_it_comes_from(self, store: Store) -> None:
        """A body that is read is `bytes`, neither a view of them nor anything else that is equal to them."""
        await keep(store, [head(), row("message", "10", body=b'1"x"'), row("inbox", int_key(1), id="i")])
        (got,) = await store.get(A, [Key("message", "u", "10")])
        known = await store.append_inbox(A, row("inbox", "", id="i", kind="message"), now=1, bounded=False)
        _, seen = await store.apply_and_look(A, (), [row("run", "1")], (), uid="u", after=int_key(0))
        listed = await store.agents("", "", 9)
        asked = await store.select(Question("header", "agent_id"))
        found = [got, known.known, *seen, *listed, *(header for _, header in asked)]
        found += await store.scan(A, Scan("message", "u", limit=9))
        assert [type(record and record.body) for record in found] == [bytes] * (5 + len(seen))
        await Author(store, "agent").create()
        assert type(await store.get_blob("agent", await store.put_blob("agent", b"x"))) is bytes

    async def test_a_body_of_more_than_any_row_may_have(self, store: Store) -> None:
        """A body of 17 MB, no part of which is like another, is read back to its last byte."""
        large = row("blob", "ab" * 32, size=1, body=array("I", range(4_300_000)).tobytes())
        await keep(store, [large])
        assert await store.get(A, [large.address]) == [large], "the body is another"

    async def test_a_body_may_be_large(self, store: Store) -> None:
        """A body of many megabytes is a record like others."""
        large = row("blob", "ab" * 32, size=1, body=bytes(range(256)) * 40_000)
        await store.apply(A, (), [large], ())
        assert await store.get(A, [large.address]) == [large]
        assert await store.scan(A, Scan("blob", "u", limit=9)) == [large]

    async def test_null_and_empty_and_zero_are_three_things(self, store: Store) -> None:
        """A column keeps null, "" and 0 apart."""
        rows = [row("call", f"{n}", tool=tool, run=run) for n, (tool, run) in enumerate([("", 0), (None, None)])]
        await keep(store, rows)
        found = await store.scan(A, Scan("call", "u", limit=9))
        assert [(r.columns["tool"], r.columns["run"]) for r in found] == [("", 0), (None, None)]

    async def test_whole_numbers_are_exact(self, store: Store) -> None:
        """A column of numbers holds any of 64 bits exactly, and reads it back as an int."""
        numbers = [-(2**63), -1, 0, 2**53 + 1, 2**63 - 1]
        await keep(store, [row("message", f"{n}", at=at) for n, at in enumerate(numbers)])
        found = [r.columns["at"] for r in await store.scan(A, Scan("message", "u", limit=9))]
        assert (found, {type(at) for at in found}) == (numbers, {int})

    async def test_text_is_kept_code_point_for_code_point(self, store: Store) -> None:
        """Text in keys and columns is kept as it is: no folding, trimming or normal form; beyond the BMP too."""
        texts = [
            "e\u0301",
            "\u00e9",
            "a",
            "A",
            " a",
            "a ",
            "\u00df",
            "ss",
            "\U0001f600",
            "\U0010ffff",
            "\ufeff",
            "1",
            "01",
        ]
        rows = [row("call", text, tool=text) for text in texts]
        await keep(store, rows)
        assert await store.get(A, [r.address for r in rows]) == rows
        assert len(await store.scan(A, Scan("call", "u", limit=99))) == len(rows)

    async def test_a_key_may_have_600_bytes(self, store: Store) -> None:
        """A key of 600 bytes is kept whole and told from one that differs in its last character."""
        rows = [row("consumed", "\u00e9" * 299 + end) for end in "ab"]
        await keep(store, rows)
        assert await store.get(A, [r.address for r in rows]) == rows

    async def test_every_kind_keeps_its_columns(self, store: Store) -> None:
        """Every kind of record keeps every column that the closed list gives it."""
        rows = []
        for kind, columns in COLUMNS.items():
            values: dict[str, Any] = {name: f"{name}!" if sort == "text" else 7 for name, sort in columns}
            rows.append(row(kind, A, "", **values) if kind == "header" else row(kind, "k", **values))
        await keep(store, rows)
        assert await store.get(A, [r.address for r in rows]) == rows

    async def test_a_kind_and_a_uid_are_part_of_the_address(self, store: Store) -> None:
        """Records of one key under other kinds and uids are other records."""
        rows = [row(kind, "10", uid) for kind in ("message", "run", "document") for uid in ("u", "v")]
        await keep(store, rows)
        await store.apply(A, (), (), [rows[0].address])
        assert await store.get(A, [r.address for r in rows]) == [None, *rows[1:]]

    async def test_a_write_is_seen_at_once(self, store: Store) -> None:
        """What was acknowledged is what the next read finds, every time."""
        for n in range(1, 21):
            await keep(store, [head(version=n)])
            (found,) = await store.get(A, [Key("header", "", A)])
            assert found is not None
            assert found.columns["version"] == n

    # ---- values through the codec --------------------------------------------------------------------------

    async def test_messages_of_every_block(self, store: Store) -> None:
        """Messages with blocks of every type are read back equal."""
        author = Author(store)
        await author.create()
        text = TextBlock("t", opaque=Json('{"v":1}'))
        blocks = (
            text,
            ReasoningBlock("why", "sig", True, Json("[1]")),
            ToolUseBlock("p1", "bash", Json('{"cmd":"ls"}')),
            ToolResultBlock("p1", (text, BlobBlock("ab", 9, preview="x")), True, "1.1.0"),
            MediaBlock("image", "image/png", data="AAAA", name="n"),
            BlobBlock("cd", 10**12),
        )
        said = [Message(0, "user", blocks, AT, 1, 2, "inbox:a", "s"), Message(1, "assistant", (), AT)]
        said += [Message(2, "system", blocks[:1], AT, usage=Usage(1, 2, 3, 4, 5, 6), metadata=Json('{"a":null}'))]
        await author.commit(messages=said, state={"next_seq": 3})
        assert (await store.read_messages("agent")).items == tuple(said)

    async def test_text_of_messages_is_kept(self, store: Store) -> None:
        """A message's text may hold NUL, line ends, quotes and any character, and is read back equal."""
        author = Author(store)
        await author.create()
        await author.say(ODD, "", " ")
        said = (await store.read_messages("agent")).items
        assert [m.blocks for m in said] == [(TextBlock(text),) for text in (ODD, "", " ")]

    async def test_text_that_is_no_unicode_is_mended(self, store: Store) -> None:
        """A lone surrogate becomes U+FFFD; two halves of a pair become their character."""
        author = Author(store)
        await author.create()
        await author.say("a\ud800b", "\ud83d\ude00")
        said = (await store.read_messages("agent")).items
        assert [m.blocks for m in said] == [(TextBlock("a\ufffdb"),), (TextBlock("\U0001f600"),)]

    async def test_json_is_kept_as_written(self, store: Store) -> None:
        """JSON keeps the order of keys, every digit of whole numbers, the shortest floats, and depth."""
        values: list[Any] = [{"b": 1, "a": 10**4_000, "": 0.1}, 1e-7, 5e-324, -0.0, 1e22, None, [], {}, "\0"]
        deep: Any = 1
        for _ in range(jsontext.MAX_DEPTH):
            deep = [deep]
        author = Author(store)
        texts = [jsontext.dump(value) for value in [*values, deep]]
        named = tuple(Document("todo", f"{n}", "d") for n in range(len(texts)))
        bodies = tuple(DocumentBody("todo", f"{n}", text) for n, text in enumerate(texts))
        await author.create(state={"documents": named}, documents=bodies)
        assert await store.read_documents("agent") == bodies

    async def test_a_message_may_have_10_mb(self, store: Store) -> None:
        """A message of 10 MB is committed and read back whole."""
        author = Author(store)
        await author.create()
        text = "0123456789\u00e9" * 850_000
        await author.say(text)
        assert [m.blocks == (TextBlock(text),) for m in (await store.read_messages("agent")).items] == [True]

    async def test_a_state_with_everything_in_it(self, store: Store) -> None:
        """All fields of a state are read back equal."""
        state = {
            "tenant": "t \u00e9",
            "template": "x@1",
            "timers": (Timer("t", None, "reminder", ODD, every_us=5), Timer("u", AT, "message")),
            "lineage": (Ancestor("a", "u", 3),),
            "window": Window("c", pinned=(0,), ranges=(Range(0, 2), Range(3))),
            "usage_total": Usage(1, 2, 3, 4, 5, 2**60),
            "sandbox_ref": ODD,
            "expires_at": AT + 1,
        }
        author = Author(store)
        await author.create(state=state)
        assert (await loaded(store)).state == author.state == await store.read_state("agent")

    async def test_load(self, store: Store) -> None:
        """`load` gives state, version, window, open calls, inbox and lease as committed; None if there is none."""
        author = Author(store)
        await author.create(state={"tenant": "t", "template": "x@1"})
        await author.say(*[f"text {n}" for n in range(20)])
        calls = (open_call(0), open_call(1, status=CallStatus.PENDING))
        window = Window(pinned=(3,), ranges=(Range(5, 7), Range(18)))
        await author.commit(state={"calls": calls, "window": window}, calls=calls, seen=0, wake_at=AT + 9)
        await store.enqueue("agent", item("a"))
        loaded = await store.load("agent")
        assert loaded is not None
        assert (loaded.state, loaded.version, loaded.seen, loaded.lease) == (author.state, 3, 0, None)
        assert [read_message(row).seq for row in loaded.window] == [3, 5, 6, 18, 19]
        assert [found.id for found in loaded.inbox] == ["a"]
        assert loaded.wake_at is not None
        assert await store.load("nobody") is None
        assert [await store.exists(id) for id in ("agent", "nobody")] == [True, False]

    async def test_an_agent_of_which_nothing_is_set(self, store: Store) -> None:
        """The smallest state, with empty texts and no records, is read back equal."""
        author = Author(store)
        author.state = State("agent", "uid-1", 0, 0)
        await author.create(at=0)
        found = await loaded(store)
        assert (found.state, list(found.window), found.inbox) == (author.state, [], ())

    async def test_compactions_and_snapshots(self, store: Store) -> None:
        """Compactions and snapshots are read back equal, with every field."""
        author = Author(store)
        before = Window("c0", (1,), (Range(0, 2), Range(5)))
        made = Compaction("c1", 0, 2, AT, (TextBlock(ODD),), "model", before, "m", Usage(1), 10, 5)
        shot = Snapshot("s \u00e9", 0, AT, before, (("k", "n/m", "d"),), ("x", "\u00e9"), "s0", 7, "t@1")
        await author.create(compactions=[made], snapshots=[shot])
        (kept,) = await store.scan("agent", Scan("compaction", "uid-1", limit=9))
        assert (read_compaction(kept), await store.list_snapshots("agent")) == (made, (shot,))
