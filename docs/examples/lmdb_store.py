"""`LmdbStore`: agents in one file of LMDB, for any number of processes of one machine."""

import hashlib
import json
import os
import sys
import threading
from contextlib import contextmanager, nullcontext
from itertools import islice

import anyio
import lmdb
from anyio import to_thread

from kode.core.errors import RecordCorruptError, SchemaTooNewError, StoreError, StoreUnavailableError
from kode.core.store import Appended, Due, Key, Record, Store
from kode.core.store.open import local_path, url_options
from kode.core.store.records import COLUMNS, int_key, key_int

FORMAT = 1
ROOM = 1 << 40  # addresses, not disk: the file grows as it must
CUT = 500  # LMDB's keys have at most 511 bytes, places up to 812

# ---- records as bytes ------------------------------------------------------------------------------------------


def place(kind, uid, key=""):
    """Where a record lies. No text holds a NUL, and bytes of UTF-8 sort as the contract wants keys to."""
    return f"{kind}\0{uid}\0{key}".encode()


def at(it):
    """Where this `Key` or `Record` lies."""
    return place(it.kind, it.uid, it.key)


def pack(record):
    """Columns as one line of JSON, then the body as it is."""
    return json.dumps(dict(record.columns)).encode() + b"\n" + record.body


def unpack(spot, value):
    """Build the record; a column that an older version did not know is null."""
    kind, uid, key = spot.decode().split("\0")
    head, _, body = value.partition(b"\n")
    try:
        said = json.loads(head)
        return Record(kind, uid, key, {column: said.get(column) for column, _ in COLUMNS[kind]}, body)
    except (ValueError, AttributeError):
        raise RecordCorruptError(f"Columns of {kind} {uid}/{key} are damaged; restore it.", raw=value) from None


def entries(record):
    """What the indexes say of a record: whose agent must wake when, and where an item of an id waits."""
    columns = record.columns
    if record.kind == "header" and columns["wake_at"] is not None:
        return {place("wake", f"{columns['wake_at']:020}", record.key): columns["uid"].encode()}
    if record.kind == "inbox":
        return {place("waiting", record.uid, columns["id"]): record.key.encode()}
    return {}


def first(found, limit):
    """Take the first so many; `limit` may be larger than what counts here."""
    return list(islice(found, min(limit, sys.maxsize)))


# ---- one transaction -------------------------------------------------------------------------------------------


class Rows:
    """A transaction. The table `rows` has what lies at a place, by its digest; `order` has the places in order."""

    def __init__(self, file, txn):
        self.rows, self.order, self.txn = file.rows, file.order, txn

    def read(self, spot):
        return self.txn.get(hashlib.sha256(spot).digest(), db=self.rows)

    def write(self, spot, value):
        self.txn.put(hashlib.sha256(spot).digest(), value, db=self.rows)
        self.txn.put(spot[:CUT], spot[CUT:] + b"\0", db=self.order)  # not empty: for LMDB that is all of a key

    def remove(self, spot):
        self.txn.delete(hashlib.sha256(spot).digest(), db=self.rows)
        self.txn.delete(spot[:CUT], spot[CUT:] + b"\0", db=self.order)

    def places(self, low, high, reverse=False):
        """Give the places with low <= place < high."""
        cursor = self.txn.cursor(self.order)
        start = high if reverse else low
        there = cursor.set_range(start[:CUT])
        while there and b"".join(cursor.item())[:-1] < start:
            there = cursor.next()
        if reverse:
            there = cursor.prev() if there else cursor.last()
        while there and low <= (spot := b"".join(cursor.item())[:-1]) < high:
            yield spot
            there = cursor.prev() if reverse else cursor.next()

    def get(self, key):
        value = self.read(at(key))
        return None if value is None else unpack(at(key), value)

    def put(self, record):
        self.delete(record)
        for spot, value in {at(record): pack(record), **entries(record)}.items():
            self.write(spot, value)

    def delete(self, key):
        old = self.get(key) if key.kind in ("header", "inbox") else None
        for spot in [at(key), *(entries(old) if old else ())]:
            self.remove(spot)

    def scan(self, kind, uid, prefix="", after="", before=None, reverse=False):
        low = max(place(kind, uid, prefix), place(kind, uid, after) + b"\0")
        high = place(kind, uid, prefix) + b"\xff"  # no byte of UTF-8 is as large
        if before is not None:
            high = min(high, place(kind, uid, before))
        return (unpack(spot, self.read(spot)) for spot in self.places(low, high, reverse))

    def free(self, uid, now):
        lease = self.get(Key("lease", uid, ""))
        return lease is None or lease.columns["holder"] is None or lease.columns["until"] <= now

    def holds(self, condition):
        key, value = condition.key, condition.value
        if condition.op == "free":
            return self.free(key.uid, value)
        if condition.op == "no_inbox_after":
            return not first(self.scan("inbox", key.uid, after=value), 1)
        found = self.get(key)
        if condition.op == "absent":
            return found is None
        return found is not None and found.columns[condition.column] == value

    def apply(self, conditions, puts, deletes):
        for i, condition in enumerate(conditions):
            if not self.holds(condition):
                return i
        for key in deletes:
            self.delete(key)
        for record in puts:
            self.put(record)
        return None

    def append(self, agent_id, record, now, bounded):
        header = self.get(Key("header", "", agent_id))
        if header is None or record.uid not in ("", header.columns["uid"]):
            return Appended("gone")
        agent, item, uid = header.columns, record.columns, header.columns["uid"]
        if waiting := self.read(place("waiting", uid, item["id"])):
            return Appended("waiting", key_int(waiting.decode()), known=self.get(Key("inbox", uid, waiting.decode())))
        known = self.get(Key("consumed", uid, item["id"]))
        if known and known.columns["expires_at"] > now:
            return Appended("consumed", known.columns["position"], known=known)
        if bounded and item["size"] > agent["max_message_bytes"]:
            return Appended("too_big", limit=agent["max_message_bytes"])
        inbox = list(self.scan("inbox", uid))
        if bounded and sum(it.columns["kind"] in ("message", "reminder") for it in inbox) >= agent["max_inbox"]:
            return Appended("full", limit=agent["max_inbox"])
        position = 1 + max(key_int(inbox[-1].key) if inbox else 0, agent["seen"] or 0)
        self.put(Record("inbox", uid, int_key(position), item, record.body))
        wake_at = max(now, item["not_before"] or 0)
        if agent["parked"] is None and (agent["wake_at"] is None or wake_at < agent["wake_at"]):
            self.put(Record("header", "", agent_id, {**agent, "wake_at": wake_at}, header.body))
        return Appended("new", position)

    def due(self, now, after):
        low = place("wake", f"{after.wake_at:020}", after.agent_id) + b"\0" if after else place("wake", "")
        for spot in self.places(low, place("wake", f"{now + 1:020}")):
            _, wake_at, agent_id = spot.decode().split("\0")
            if self.free(self.read(spot).decode(), now):
                yield Due(agent_id, int(wake_at))


# ---- the file --------------------------------------------------------------------------------------------------


@contextmanager
def mapped(path):
    """Turn the driver's errors into ours."""
    try:
        yield
    except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError) as error:
        raise StoreError(f"{path} is no sound file of LMDB ({error}); restore it from a backup.", path=path) from error
    except lmdb.Error as error:  # disk full, no rights, too many readers
        raise StoreUnavailableError(f"{path} cannot be used now ({error}); try again.", path=path) from error


OPENING = threading.Lock()
OPENED = {}


class File:
    """An open file. A process may open one of LMDB only once, so all stores of a path share it."""

    def __init__(self, path):
        self.users, self.writing = 0, threading.Lock()
        self.env = lmdb.open(path, subdir=False, map_size=ROOM, max_dbs=2, max_readers=1_000)
        try:
            self.env.reader_check()  # forgets readers that were killed
            self.rows = self.env.open_db(b"rows")
            with self.env.begin(self.rows, write=True) as txn:
                found = int(txn.get(b"format", FORMAT))
                if found > FORMAT:
                    raise SchemaTooNewError(f"{path} has format {found}, this is {FORMAT}; upgrade.")
                txn.put(b"format", b"%d" % FORMAT)
            self.order = self.env.open_db(b"order", dupsort=True)
        except BaseException:
            self.env.close()
            raise


# ---- the store -------------------------------------------------------------------------------------------------


class LmdbStore(Store):
    """Keeps agents in one file, for any number of processes of one machine."""

    durability = "power"
    same_host = True

    def __init__(self, path, *, clock=None):
        super().__init__(clock)
        self.path = os.path.realpath(path)
        self._file = None
        self._readers, self._writers = anyio.CapacityLimiter(4), anyio.CapacityLimiter(1)

    @classmethod
    def from_url(cls, url, *, clock=None):
        """``lmdb:///relative.mdb`` or ``lmdb:////absolute.mdb``."""
        url_options(url)
        return cls(local_path(url), clock=clock)

    async def open(self):
        await to_thread.run_sync(self._open, limiter=self._writers)

    async def close(self):
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._close, limiter=self._writers)

    async def now(self):
        return self.clock.now()

    async def apply(self, agent_id, conditions, puts, deletes):
        return await self._act(lambda rows: rows.apply(conditions, puts, deletes))

    async def get(self, agent_id, keys):
        return await self._ask(lambda rows: [rows.get(key) for key in keys])

    async def scan(self, agent_id, kind, uid, *, prefix="", after="", before=None, limit, reverse=False):
        return await self._ask(lambda rows: first(rows.scan(kind, uid, prefix, after, before, reverse), limit))

    async def append_inbox(self, agent_id, record, *, now, bounded):
        return await self._act(lambda rows: rows.append(agent_id, record, now, bounded))

    async def due(self, now, limit, after=None):
        return await self._ask(lambda rows: first(rows.due(now, after), limit))

    async def agents(self, prefix, after, limit, tenant=None):
        def work(rows):
            every = rows.scan("header", "", prefix, after)
            return first((row for row in every if tenant in (None, row.columns["tenant"])), limit)

        return await self._ask(work)

    async def drop(self, agent_id, uid):
        def work(rows):
            spans = [place(kind, uid) for kind in (*COLUMNS, "waiting")]
            some = [spot for span in spans for spot in first(rows.places(span, span + b"\xff"), 1_000)]
            for spot in some:
                rows.remove(spot)
            return some

        while uid and await self._act(work):  # others may write in between
            pass

    # ---- inside ------------------------------------------------------------------------------------------------

    async def _ask(self, work):
        return await to_thread.run_sync(self._run, False, work, limiter=self._readers)

    async def _act(self, work):
        return await to_thread.run_sync(self._run, True, work, limiter=self._writers)

    def _run(self, write, work):
        file = self._file
        if file is None:
            raise StoreError(f"The store of {self.path} is closed; open it.", code="closed", path=self.path)
        # The lock is held by the thread at work, whatever became of who asked: writes land in their order.
        with mapped(self.path), file.writing if write else nullcontext(), file.env.begin(write=write) as txn:
            return work(Rows(file, txn))

    def _open(self):
        with OPENING, mapped(self.path):
            if self._file is None:
                self._file = OPENED.get(self.path) or OPENED.setdefault(self.path, File(self.path))
                self._file.users += 1

    def _close(self):
        with OPENING:
            file, self._file = self._file, None
            if file is not None:
                file.users -= 1
                if file.users == 0:
                    del OPENED[self.path]
                    with file.writing:
                        file.env.close()
