"""`AuditPlugin`: one line of JSON in a file for each tool call that ended, and for each decision about one."""

import json
import os
import threading
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio

from kode.core import Plugin


class AuditPlugin(Plugin):
    """Appends to a file, which any number of agents and processes may share.

    Args:
        path: The file; made if it is not there, and readable by its owner only.
        fsync: Whether a line is on the disk before the next event is seen.
    """

    name = "audit"
    kinds = ("tool_end", "permission_decided")

    def __init__(self, path, *, fsync=False):
        self.path = path
        self.fsync = fsync
        self.files = []  # one for each lifespan that is entered: there may be several event loops
        self.lock = threading.Lock()  # a thread that was left behind must not write into what was closed

    @asynccontextmanager
    async def lifespan(self):
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.files.append(file)
        try:
            yield
        finally:
            with self.lock:
                self.files.remove(file)
                os.close(file)

    def on_event(self, envelope):
        """Write the line of an event. A plain function runs in a worker thread, so it may wait for the disk."""
        self.write(envelope.agent_id, envelope.event)

    def write(self, agent_id, event):
        what = "call" if event.type == "tool_end" else "decision"
        at = datetime.fromtimestamp(event.at / 1e6, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "agent": agent_id, "cursor": event.cursor, "of": what, "call": event.call, **event.data}
        if event.preview is not None:
            line["text"] = event.preview
        with self.lock:
            file = self.files[-1]
            # One write of a whole line: lines of several processes do not mix.
            os.write(file, json.dumps(line, ensure_ascii=False).encode() + b"\n")
            if self.fsync:
                os.fsync(file)

    def last(self, agent_id):
        """Cursor of an agent's last line."""
        with open(self.path, encoding="utf-8") as file:
            known = [json.loads(line) for line in file]
        return max((line["cursor"] for line in known if line["agent"] == agent_id), default=0)

    async def catch_up(self, store, agent_id):
        """Write the lines that a crash kept from the file: the store has every event, by its cursor."""
        cursor = await anyio.to_thread.run_sync(self.last, agent_id)
        async with self.lifespan():
            while True:
                page = await store.read_events(agent_id, after=cursor)
                for event in page.items:
                    cursor = event.cursor
                    if event.type in self.kinds:
                        self.write(agent_id, event)
                if page.next is None:
                    return
