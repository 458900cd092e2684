"""Agents behind HTTP, with Starlette or FastAPI.

POST /agents/ID/messages    {"message"}                         drive, and answer with the result
POST /agents/ID/events      {"message"}                         drive, with events as they happen
GET  /agents/ID/events                                          watch; another request drives
POST /agents/ID/decisions   {"call", "n", "decision", "by", "note"}  answer one of the result's questions, and go on
"""

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from event_stream import EventStream, Server, watched
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kode.core import AgentTemplate, Dependencies, KodeError, RunResult, StatelessAgent, errors, open_store, tool

WAIT_S = 25.0
STATUS: dict[int, tuple[type[KodeError], ...]] = {  # the first that fits; of the rest, what may be repeated is 503
    409: (errors.DuplicateIdError, errors.ConflictError, errors.FencedError, errors.LeaseLostError),
    429: (errors.InboxFullError,),
    500: (errors.NotBoundError,),
    400: (errors.UsageError,),
    404: (errors.NotFoundError,),
}


@tool(needs_approval=True)
async def refund(order: str, cents: int) -> str:
    """Pay a customer back."""
    return f"Paid {cents} cents back for order {order}."


TEMPLATE = AgentTemplate("support", model=os.environ.get("KODE_MODEL", "openai:gpt-5-mini"), tools=("refund",))


@asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[dict[str, Any]]:
    """Open the store, and keep providers' connections, for all requests of this process."""
    async with open_store(os.environ["KODE_STORE"]) as store, Dependencies(store, tools=[refund]) as deps:
        yield {"deps": deps}


def common(request: Request) -> dict[str, Any]:
    """Say which agent is meant, and how long the client waits: ``Prefer: wait=10`` (RFC 7240)."""
    wait = re.search(r"\bwait=(\d{1,6})", request.headers.get("prefer", ""))
    timeout_s = WAIT_S if wait is None else min(WAIT_S, float(wait[1]))
    return {"agent_id": request.path_params["id"], "dependencies": request.state.deps, "timeout_s": timeout_s}


async def body(request: Request) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        found = await request.json()
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    raise errors.UsageError("The body is no JSON object.", code="bad_body")


async def asked(request: Request) -> dict[str, Any]:
    """Read a message. The same again with the same ``Idempotency-Key`` goes on, or gets the same result."""
    key = request.headers.get("idempotency-key")
    message = (await body(request)).get("message")
    return {**common(request), "message": message, "template_id": TEMPLATE, "request_id": key}


def answer(result: RunResult) -> Response:
    """Tell a result; 202: it is not there yet, ask again."""
    return JSONResponse(result.to_dict(), 202 if result.status in ("deadline", "queued") else 200)


async def failed(_: Request, error: Any) -> Response:
    """Answer with the status of the error's family; a message never holds a secret."""
    other = 503 if error.retryable else 500
    status = next((status for status, kinds in STATUS.items() if isinstance(error, kinds)), other)
    return JSONResponse({"code": error.code, "message": error.message}, status)


async def messages(request: Request) -> Response:
    """Drive the agent until it has answered, asks a person, or the time is over."""
    return answer(await StatelessAgent.run(**await asked(request)))


async def decisions(request: Request) -> Response:
    """Answer what a call waits for, and drive on. Take ``by`` from your sign-in."""
    told = await body(request)
    said: dict[str, Any] = {name: told.get(name) for name in ("decision", "by", "note", "n")}
    return answer(await StatelessAgent.decide(**common(request), call=told.get("call", ""), **said))


async def events(request: Request) -> Response:
    """Show what happens: from now on, or behind the client's ``Last-Event-ID``."""
    since, deps = request.headers.get("last-event-id"), request.state.deps
    if request.method == "GET":
        return EventStream(watched(request.path_params["id"], deps, since), deps.store)
    return EventStream(StatelessAgent.stream(**{**await asked(request), "timeout_s": None}, since=since), deps.store)


routes = [
    Route("/agents/{id:path}/messages", messages, methods=["POST"]),
    Route("/agents/{id:path}/events", events, methods=["GET", "POST"]),
    Route("/agents/{id:path}/decisions", decisions, methods=["POST"]),
]
app = Starlette(routes=routes, exception_handlers={KodeError: failed}, lifespan=lifespan)


if __name__ == "__main__":
    Server(uvicorn.Config(app, port=int(os.environ.get("PORT", "8000")))).run()
