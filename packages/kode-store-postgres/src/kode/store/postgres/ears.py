"""Being told of changes by the server: LISTEN, on a connection of its own, while anybody watches.

Who listens says so in a table, and only while somebody does are commits followed by a NOTIFY. Nothing depends on it:
what is not told of (the connection broke, PgBouncer stands between) watchers find by looking at intervals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from kode.core.errors import KodeError
from kode.store.postgres.errors import map_errors
from kode.store.postgres.server import Server

__all__ = ["Ears"]

TERM_S: Final = 60
"""How long the server believes that somebody listens."""
EVERY_S: Final = 20.0
END_S: Final = 1.0
PAUSE_S: Final = 1.0
"""After a connection that broke."""


class Ears:
    """Listens from the first watch until the store is closed. `heard` is called with the id of who changed."""

    def __init__(self, server: Server, there: str, heard: Callable[[str], None]) -> None:
        self._server = server
        self._there = there
        self._heard = heard
        self._task: asyncio.Task[None] | None = None
        self.listening = asyncio.Event()
        """Whether the server tells at this moment."""

    def listen(self) -> None:
        """Begin, if that was not done; not where it cannot work."""
        server = self._server
        if self._task is None and server.dsn is not None and not server.options.pgbouncer:
            with suppress(RuntimeError):  # no event loop runs here: there is nobody to be told yet
                self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=2 * END_S)

    async def _run(self) -> None:
        while True:
            with suppress(KodeError):
                await self._listen(await self._server.connect())
            await self._server.clock.sleep(PAUSE_S)

    async def _listen(self, db: Any) -> None:
        gone = asyncio.Event()

        def told(_connection: Any, _pid: int, _channel: str, agent_id: str) -> None:
            self._heard(agent_id)

        try:
            with map_errors(self._server.where):
                db.add_termination_listener(lambda _connection: gone.set())
                await db.add_listener(f"kode/{self._there}", told)
                while not gone.is_set():
                    # Whoever was cut off leaves a row behind, and every commit looks through them.
                    await db.execute(
                        f"WITH gone AS (DELETE FROM {self._there}.watcher "
                        "WHERE until < clock_timestamp() AND name <> pg_backend_pid()::text) "
                        f"INSERT INTO {self._there}.watcher (name, until) "
                        "VALUES (pg_backend_pid()::text, clock_timestamp() + make_interval(secs => $1)) "
                        "ON CONFLICT (name) DO UPDATE SET until = excluded.until",
                        TERM_S,
                    )
                    self.listening.set()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(EVERY_S):
                            await gone.wait()
        finally:
            self.listening.clear()
            # Where this cannot be said any more, the row runs out.
            with suppress(KodeError), map_errors(self._server.where):
                async with asyncio.timeout(END_S):
                    await db.execute(f"DELETE FROM {self._there}.watcher WHERE name = pg_backend_pid()::text")
            db.terminate()
