"""Agents in AWS Lambda: behind API Gateway (REST and HTTP) or a function URL; ``lambda_handler.handler``.

POST …/agents/ID/messages    {"message"}                         drive, and answer with the result
POST …/agents/ID/decisions   {"call", "n", "decision", "by", "note"}  answer one of the result's questions, and go on
POST …/agents/ID/continue                                        go on with what an earlier request left
"""

import asyncio
import base64
import functools
import json
import os
import re
import tempfile
import time
from typing import Any
from urllib.parse import unquote

import httpx

from kode.core import AgentTemplate, Dependencies, KodeError, RunResult, StatelessAgent, errors, open_store, tool
from kode.core.jsontext import dump

GATEWAY_S = float(os.environ.get("GATEWAY_S", "28"))  # API Gateway waits 29 s, however long the function may run
ANSWER_S = 0.5
STATUS: dict[int, tuple[type[KodeError], ...]] = {
    409: (errors.DuplicateIdError, errors.ConflictError, errors.FencedError, errors.LeaseLostError),
    429: (errors.InboxFullError,),
    500: (errors.NotBoundError,),
    400: (errors.UsageError,),
    404: (errors.NotFoundError,),
}
RUNNER = asyncio.Runner()  # one event loop as long as the process lives: connections belong to a loop


@tool(readonly=True)
async def price(item: str) -> str:
    """Look up what an item costs."""
    async with httpx.AsyncClient(base_url=os.environ["SHOP_URL"], timeout=60) as shop:
        return (await shop.get(f"/price/{item}")).raise_for_status().text


TEMPLATE = AgentTemplate(
    "clerk",
    model=os.environ.get("KODE_MODEL", "openai:gpt-5-mini"),
    tools=("price", "fs_write"),
    sandbox_options=dump({"root": f"{tempfile.gettempdir()}/files"}),  # nothing else can be written to
)


@functools.cache
def opened() -> Dependencies:
    """Open the store once per process. The instances of a function share it, so it cannot be a file in /tmp."""
    store = open_store(os.environ["KODE_STORE"])
    RUNNER.run(store.open())
    return Dependencies(store, tools=[price])


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Serve one event. 202: the time was over, go on with ``continue`` or the same request again."""
    ends = time.monotonic() + min(context.get_remaining_time_in_millis() / 1_000, GATEWAY_S) - ANSWER_S
    try:
        deps = opened()  # the first time this takes a while, which the gateway counts as well
        result = RUNNER.run(served(event, deps, max(ends - time.monotonic(), 0)))
    except KodeError as error:
        other = 503 if error.retryable else 500
        status = next((status for status, kinds in STATUS.items() if isinstance(error, kinds)), other)
        return response(status, {"code": error.code, "message": error.message})
    return response(202 if result.status in ("deadline", "queued") else 200, result.to_dict())


async def served(event: dict[str, Any], deps: Dependencies, timeout_s: float) -> RunResult:
    """Do what the path says."""
    path = event.get("rawPath") or event.get("path") or ""
    found = re.search(r"/agents/(.+)/(messages|decisions|continue)/?$", unquote(path))
    asked: dict[str, Any] = event.get("requestContext", {}).get("http", event)
    method = asked.get("method") or asked.get("httpMethod")
    if found is None or method != "POST":
        raise errors.NotFoundError(f"There is nothing to {method} at {path!r}.")
    body = json_body(event)
    common: dict[str, Any] = {"agent_id": found[1], "dependencies": deps, "timeout_s": timeout_s}
    match found[2]:
        case "messages":
            key, message = request_id(event), body.get("message", "")
            return await StatelessAgent.run(**common, message=message, template_id=TEMPLATE, request_id=key)
        case "decisions":
            said: dict[str, Any] = {name: body.get(name) for name in ("decision", "by", "note", "n")}
            return await StatelessAgent.decide(**common, call=body.get("call", ""), **said)
        case _:
            return await StatelessAgent.continue_(**common)


def request_id(event: dict[str, Any]) -> str:
    """Name the request: by the client's header, or by the gateway's id, which stays when Lambda itself repeats."""
    headers: dict[str, str] = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    return headers.get("idempotency-key") or event["requestContext"]["requestId"]


def json_body(event: dict[str, Any]) -> dict[str, Any]:
    """Read a JSON object."""
    text = event.get("body") or "{}"
    try:
        found = json.loads(base64.b64decode(text) if event.get("isBase64Encoded") else text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    raise errors.UsageError("The body is no JSON object.", code="bad_body")


def response(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Answer in the shape that both versions of the gateway's events know."""
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": json.dumps(body)}
