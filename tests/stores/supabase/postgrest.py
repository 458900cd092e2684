"""A STAND-IN for the API of a Supabase project: not PostgREST stands before the real PostgreSQL, but what acts like it.

No PostgREST can be had from the package registries, so this is the thinnest thing that a client of `/rest/v1` can be
tested against. Real are the database, its roles, grants, row level security, functions and time-outs, the client, HTTP.
Imitated, after PostgREST's manual (14) and never compared with a hosted project, are:

* one request is one transaction, read only for functions that are STABLE or IMMUTABLE, as the role that the JWT names;
* functions are called by the names of their arguments, from a schema cache that is filled anew on `NOTIFY pgrst`;
* a function's `statement_timeout` holds for the transaction;
* the largest number of rows in an answer (`max-rows`), without a word when rows are left out;
* errors: their codes, bodies and statuses; and those of the gateway before the API, for a missing or wrong key.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import jwt
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

# SQLSTATE, or its first two characters, to status; what is not named is 400.
STATUSES = {
    "08": 503, "0L": 403, "0P": 403, "23503": 409, "23505": 409, "25006": 405, "25": 500, "28": 403, "40": 500,
    "42883": 404, "42P01": 404, "42P17": 500, "53": 503, "54": 500, "55": 500, "57": 500, "58": 500, "P0": 500,
    "P0001": 400, "XX": 500,
}  # fmt: skip

FIND = """
SELECT p.oid::regproc::text AS name, p.proretset, p.provolatile, p.prorettype = 'void'::regtype AS void, p.proconfig,
  p.proargnames[1:p.pronargs] AS names, array(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) AS t) AS types
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = $1 AND p.proname = $2
"""


class ProblemError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str | None, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        said = {"code": code, "message": message, "details": None, "hint": hint}
        self.status, self.said = status, said if code else {"message": message, "hint": hint}


class Api:
    """The imitation. `settings`: dsn, secret, schemas, max_rows, pool."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.most = settings["max_rows"]
        self.pool: Any = None
        self.known: dict[tuple[str, str], list[Any]] = {}
        self.app = Starlette(
            routes=[
                Route("/rest/v1/rpc/{name}", self.rpc, methods=["POST"]),
                Route("/rest/v1/{name}", self.table, methods=["GET"]),
            ],
            lifespan=self.life,
            exception_handlers={ProblemError: self.problem},
        )

    @asynccontextmanager
    async def life(self, _app: Any) -> AsyncIterator[None]:
        dsn = self.settings["dsn"]
        listener = await asyncpg.connect(dsn)
        await listener.add_listener("pgrst", lambda *_: self.known.clear())
        async with asyncpg.create_pool(dsn, min_size=1, max_size=self.settings["pool"]) as self.pool:
            yield
        await listener.close()

    # ---- what a request may, and where ---------------------------------------------------------------------

    def claims(self, request: Request) -> dict[str, Any]:
        key = request.headers.get("apikey")
        if not key:
            raise ProblemError(401, None, "No API key found in request", "No `apikey` request header was found.")
        token = request.headers.get("authorization", "").removeprefix("Bearer ") or key
        try:
            jwt.decode(key, self.settings["secret"], ["HS256"], options={"verify_exp": False})
            found: dict[str, Any] = jwt.decode(token, self.settings["secret"], ["HS256"])
        except jwt.ExpiredSignatureError:
            raise ProblemError(401, "PGRST303", "JWT expired") from None
        except jwt.InvalidTokenError:
            raise ProblemError(401, None, "Invalid API key", "Double check your API key.") from None
        return found

    def schema(self, request: Request, header: str) -> str:
        schema = request.headers.get(header, self.settings["schemas"][0])
        if schema not in self.settings["schemas"]:
            shown = ", ".join(self.settings["schemas"])
            raise ProblemError(
                406, "PGRST106", f"Invalid schema: {schema}", f"Only the following schemas are exposed: {shown}"
            )
        return schema

    async def find(self, schema: str, name: str, given: set[str]) -> Any:
        if (schema, name) not in self.known:
            self.known[schema, name] = await self.pool.fetch(FIND, schema, name)
        found = [one for one in self.known[schema, name] if set(one["names"] or ()) == given]
        if len(found) != 1:
            shown = f"{schema}.{name}({', '.join(sorted(given))})"
            raise ProblemError(404, "PGRST202", f"Could not find the function {shown} in the schema cache")
        return found[0]

    # ---- requests ------------------------------------------------------------------------------------------

    async def rpc(self, request: Request) -> Response:
        schema, claims, name = (
            self.schema(request, "content-profile"),
            self.claims(request),
            request.path_params["name"],
        )
        body = (await request.body()).decode()
        try:
            given = json.loads(body or "{}")
        except ValueError:
            raise ProblemError(400, "PGRST102", "Empty or invalid json") from None
        one = await self.find(schema, name, set(given))
        columns = ", ".join(f'"{name}" {kind}' for name, kind in zip(one["names"] or (), one["types"], strict=True))
        passed = ", ".join(f'"{name}" := a."{name}"' for name in one["names"] or ())
        source = (
            f"(SELECT * FROM json_to_record($1::json) AS _({columns})) AS a," if columns else "(SELECT $1::json) AS a,"
        )
        value, chosen = ("json_agg(t.*)", "c.*") if one["proretset"] else ("json_agg(t.v)->0", "c.v")
        sql = (
            f"SELECT coalesce(({value})::text, 'null') FROM (SELECT {chosen} FROM {source} "
            f"LATERAL {one['name']}({passed}) AS c{'' if one['proretset'] else '(v)'} LIMIT {self.most}) AS t"
        )
        timeout = dict(part.split("=", 1) for part in one["proconfig"] or ()).get("statement_timeout", "")
        reads = one["provolatile"] in (b"s", b"i")
        text = await self.run(schema, claims, sql, body or "{}", reads=reads, timeout=timeout)
        return Response(None if one["void"] else text, 204 if one["void"] else 200, media_type="application/json")

    async def table(self, request: Request) -> Response:
        schema, claims, name = self.schema(request, "accept-profile"), self.claims(request), request.path_params["name"]
        sql = f"SELECT coalesce(json_agg(t), '[]')::text FROM (SELECT * FROM {schema}.{name} LIMIT {self.most}) AS t"
        return Response(await self.run(schema, claims, sql, reads=True), media_type="application/json")

    async def run(
        self, schema: str, claims: dict[str, Any], sql: str, *values: Any, reads: bool, timeout: str = ""
    ) -> str:
        role = claims.get("role", "anon")
        set_all = (
            "SELECT set_config('role', $1, true), set_config('request.jwt.claims', $2, true), "
            "set_config('search_path', $3, true)" + (", set_config('statement_timeout', $4, true)" if timeout else "")
        )
        settings = [role, json.dumps(claims), f'"{schema}", "public"', *([timeout] if timeout else [])]
        try:
            async with self.pool.acquire(timeout=10) as db, db.transaction(readonly=reads):
                await db.fetchrow(set_all, *settings)
                text: str = await db.fetchval(sql, *values)
                return text
        except asyncpg.PostgresError as error:
            raise self.translated(error, role) from None
        except TimeoutError:
            raise ProblemError(504, "PGRST003", "Timed out acquiring connection from connection pool.") from None
        except (OSError, asyncpg.InterfaceError):
            raise ProblemError(503, "PGRST000", "Database connection error. Retrying the connection.") from None

    def translated(self, error: Any, role: str) -> ProblemError:
        state = error.sqlstate
        status = STATUSES.get(state) or STATUSES.get(state[:2]) or 400
        if state == "42501":
            status = 401 if role == "anon" else 403
        return ProblemError(status, state, error.message, error.hint)

    async def problem(self, _request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return Response(json.dumps(error.said), error.status, media_type="application/json")


def main() -> None:
    """Serve on a free port of loopback, which is printed, as long as the standard input is open."""
    settings = json.loads(sys.argv[1])
    # A protocol is named, or the transport does not know it for TCP and leaves Nagle's algorithm on: 40 ms a request.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(100)  # now: who reads the port asks at once, and then waits until the pool is there
    server = uvicorn.Server(uvicorn.Config(Api(settings).app, log_level="critical", http="h11", ws="none"))

    def until_left() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=until_left, daemon=True).start()
    print(listening.getsockname()[1], flush=True)
    asyncio.run(server.serve([listening]))


if __name__ == "__main__":
    main()
