"""`LmdbStore`: agents in one file of LMDB, for any number of processes of one machine."""

import os
import threading
from contextlib import contextmanager
from weakref import WeakValueDictionary

import lmdb

from kode.core.errors import StoreError, StoreUnavailableError
from kode.core.store import OrderedMap, OrderedStore, local_path, url_options

ROOM = 1 << 40  # addresses, not disk: the file grows as it must
OPENING = threading.Lock()
OPENED = WeakValueDictionary()  # a process may open a file of LMDB only once, so all maps of a path share it


class LmdbStore(OrderedStore):
    """Keeps agents in one file, for any number of processes of one machine."""

    durability = "power"
    same_host = True

    def __init__(self, path, *, clock=None):
        self.path = os.path.realpath(path)
        super().__init__(LmdbMap(self.path), clock=clock)

    @classmethod
    def from_url(cls, url, *, clock=None):
        """``lmdb:///relative.mdb`` or ``lmdb:////absolute.mdb``."""
        url_options(url)
        return cls(local_path(url), clock=clock)


class LmdbMap(OrderedMap):
    """A file of LMDB."""

    longest_key = 511

    def __init__(self, path):
        self.path = path

    def open(self):
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise StoreError(f"{self.path} cannot be made: {folder} is no folder; make it.", path=self.path)
        with OPENING, mapped(self.path):
            self.env = OPENED.get(self.path)
            if self.env is None:
                self.env = lmdb.open(self.path, subdir=False, map_size=ROOM, max_readers=1_000)
                self.env.reader_check()  # forgets readers that were killed
                OPENED[self.path] = self.env

    def close(self):
        self.env = None  # the last one closes the file

    def transact(self, write, work):
        with mapped(self.path), self.env.begin(write=write) as txn:
            return work(Transaction(txn))


class Transaction:
    """LMDB's own, and its cursor as a range."""

    def __init__(self, txn):
        self.get, self.put, self.delete, self.cursor = txn.get, txn.put, txn.delete, txn.cursor

    def range(self, low, high, reverse):
        cursor = self.cursor()
        there = cursor.set_range(high if reverse else low)
        if reverse:
            there = cursor.prev() if there else cursor.last()
        while there and low <= cursor.key() < high:
            yield cursor.item()
            there = cursor.prev() if reverse else cursor.next()


@contextmanager
def mapped(path):
    """Turn the driver's errors into ours."""
    try:
        yield
    except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError) as error:
        raise StoreError(f"{path} is no sound file of LMDB ({error}); restore it from a backup.", path=path) from error
    except lmdb.Error as error:  # disk full, no rights, too many readers
        raise StoreUnavailableError(f"{path} cannot be used now ({error}); try again.", path=path) from error
