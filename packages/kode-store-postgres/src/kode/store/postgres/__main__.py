"""Look after the schema: ``python -m kode.store.postgres {status|upgrade|sql} URL``.

``status`` tells what was applied and what is missing. ``upgrade`` applies what is missing before new code starts;
``upgrade --post`` also what removes things that only older code uses: run it when none of that works any more.
``sql`` shows the statements that are missing, for who applies them by hand; it needs the right to read only.
``kode store schema`` is the same, where `kode-cli` is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from kode.core.errors import KodeError
from kode.core.store import open_store
from kode.core.store.migrating import SchemaAct, tend_schema

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kode.store.postgres", description="Look after the schema.")
    parser.add_argument("command", choices=("status", "upgrade", "sql"))
    parser.add_argument("url", help="postgresql://user:password@host:5432/database?schema=kode")
    parser.add_argument("--post", action="store_true", help="also remove what only older code uses")
    given = parser.parse_args(arguments)
    try:
        return asyncio.run(_run(given.command, given.url, given.post))
    except KodeError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1


async def _run(act: SchemaAct, url: str, post: bool) -> int:
    lines = await tend_schema(open_store(url), act, post=post)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
