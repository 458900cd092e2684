"""A Gemini server on loopback: follows a script, is strict about requests, misbehaves on demand.

As ``ChatServer`` (see there), with the API of Google: ``server.reply(content(frames(said("Hi"))))``. A reply is made of
parts, one per frame unless they are given as lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .chat import ChatServer, Said, Seen
from .chat_rules import Check, _bool, _fields, _list, _number, _object, _one_of, _string, _whole

__all__ = ["GeminiServer", "call", "content", "document", "frames", "problem", "refuse", "said", "thought"]

STREAM = {"content-type": "text/event-stream"}
Part = dict[str, Any]


def said(text: str, signature: str | None = None) -> Part:
    """Text."""
    return {"text": text, **_signed(signature)}


def thought(text: str, signature: str | None = None) -> Part:
    """A thought."""
    return {"text": text, "thought": True, **_signed(signature)}


def call(name: str, arguments: Any, signature: str | None = None, id: str | None = None) -> Part:
    """A call."""
    return {"functionCall": {"name": name, "args": arguments, **({"id": id} if id else {})}, **_signed(signature)}


def _signed(signature: str | None) -> Part:
    return {"thoughtSignature": signature} if signature else {}


def frames(
    *parts: Part | list[Part], finish: str | None = "STOP", usage: Mapping[str, int] | None = None, **last: Any
) -> list[Any]:
    """All frames of a reply."""
    out: list[Any] = []
    for at, each in enumerate(parts):
        candidate: dict[str, Any] = {"content": {"parts": each if isinstance(each, list) else [each], "role": "model"}}
        counted = {"promptTokenCount": 10, "candidatesTokenCount": at + 1, **(usage or {})}
        out.append({
            "candidates": [{**candidate, "index": 0}], "usageMetadata": counted, "modelVersion": "gemini-9",
            "responseId": "resp-1",
        })  # fmt: skip
    if finish:
        out[-1]["candidates"][0] |= {"finishReason": finish, **last}
    return out


def content(sent: list[Any]) -> Said:
    """Frames on the wire."""
    lines = [f"data: {json.dumps(each, ensure_ascii=False)}\r\n\r\n" for each in sent]
    return Said(body="".join(lines).encode(), headers=STREAM)


def document(value: Any, status: int = 200) -> Said:
    """JSON in one piece."""
    return Said(status=status, body=json.dumps(value).encode(), headers={"content-type": "application/json"})


def refuse(status: int, word: str, told: str, *details: Any, **headers: str) -> Said:
    """An error as the API reports it."""
    error = {"code": status, "message": told, "status": word, "details": list(details)}
    return document({"error": error}, status).but(headers={"content-type": "application/json", **headers})


class GeminiServer(ChatServer):
    """See the module."""

    @property
    def url(self) -> str:
        return super().url.removesuffix("/v1") + "/v1beta"

    def choose(self, seen: Seen) -> Said:
        if self.key is not None and seen.headers.get("x-goog-api-key") != self.key:
            return refuse(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")
        found = re.fullmatch(r"/v1beta/(models/[\w.-]+):(streamGenerateContent\?alt=sse|countTokens)", seen.path)
        if seen.method != "POST" or found is None:
            return refuse(404, "NOT_FOUND", f"models/x is not found for API version v1beta: {seen.path}")
        asked = seen.body
        if found[2] == "countTokens":
            asked = {**seen.body["generateContentRequest"]}
            assert asked.pop("model") == found[1]
        wrong = problem(asked, signs=not found[1].startswith("models/gemini-2"))
        if wrong is None and self._replies:
            return self._replies.pop(0)
        wrong = wrong or "The test queued no reply for this request."
        self.refused.append(wrong)
        return refuse(400, "INVALID_ARGUMENT", wrong)


# ---- what the API refuses ----------------------------------------------------------------------------------


def problem(body: Any, *, signs: bool = True) -> str | None:
    """Say what is wrong with a request's body; None: nothing."""
    return _fields(body, _BODY, "", ("contents",)) or _contents(body["contents"], signs)


def _name(value: Any) -> bool:
    return _string(value) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}", value) is not None


def _all(fields: dict[str, Check], needed: tuple[str, ...] = ()) -> Check:
    return lambda value: _fields(value, fields, "", needed) is None


def _each(check: Check) -> Check:
    return lambda value: _list(value) and all(map(check, value))


_CONFIG: dict[str, Check] = {
    "temperature": _number(0, 2),
    "topP": _number(0, 1),
    "topK": _whole(1),
    "maxOutputTokens": _whole(1),
    "stopSequences": lambda value: _each(_string)(value) and len(value) <= 5,
    "seed": _whole(-(2**31)),
    "responseMimeType": _one_of("application/json", "text/plain"),
    "responseJsonSchema": _object,
    "thinkingConfig": _all({
        "includeThoughts": _bool,
        "thinkingBudget": _whole(-1),
        "thinkingLevel": _one_of("MINIMAL", "LOW", "MEDIUM", "HIGH"),
    }),
}  # fmt: skip
_DECLARED = _all({"name": _name, "description": _string, "parametersJsonSchema": _object}, ("name",))
_BODY: dict[str, Check] = {
    "contents": _list,
    "systemInstruction": _all({"parts": _each(_all({"text": _string}))}),
    "tools": _each(_all({"functionDeclarations": _each(_DECLARED)})),
    "toolConfig": _all({
        "functionCallingConfig": _all({
            "mode": _one_of("AUTO", "ANY", "NONE"), "allowedFunctionNames": _each(_name),
        }),
    }),
    "generationConfig": _all(_CONFIG),
    "safetySettings": _list,
    "cachedContent": _string,
}  # fmt: skip
_RESPONSE = {"name": _name, "id": _string, "response": _object}
_PART: dict[str, Check] = {
    "text": _string,
    "thought": _bool,
    "thoughtSignature": lambda value: _string(value) and bool(value),
    "functionCall": _all({"name": _name, "id": _string, "args": _object}, ("name",)),
    "functionResponse": _all(_RESPONSE, ("name", "response")),
    "inlineData": _all({"mimeType": _string, "data": _string}, ("mimeType", "data")),
    "fileData": _all({"mimeType": _string, "fileUri": _string}, ("fileUri",)),
}
_DATA = {"text", "functionCall", "functionResponse", "inlineData", "fileData"}


def _contents(contents: Any, signs: bool) -> str | None:
    """Hold each part to its fields, and each call to an answer, in the order of the calls."""
    waiting: list[Any] = []
    made: list[Any] = []
    before = "model"
    for at, each in enumerate(contents):
        where = f"contents[{at}]"
        if set(each) != {"role", "parts"} or each["role"] not in ("user", "model") or each["role"] == before:
            return f"{where}: odd role {each.get('role')!r} behind {before!r}, or fields {sorted(each)}"
        before = each["role"]
        found = _parts(each, where, signs)
        if found is not None:
            return found
        answers = [part["functionResponse"] for part in each["parts"] if "functionResponse" in part]
        if [(one["name"], one.get("id")) for one in answers] != waiting:
            return f"{where}: function response parts must answer the calls of the turn before: {waiting}"
        calls = [part["functionCall"] for part in each["parts"] if "functionCall" in part]
        waiting = [(one["name"], one.get("id")) for one in calls]
        made += [one["id"] for one in calls if "id" in one]
        if len({*made}) < len(made):
            return f"{where}: an id was given twice: {made}"
    return f"not answered: {waiting}" if waiting or before == "model" else None


def _parts(each: Any, where: str, signs: bool) -> str | None:
    if not _list(each["parts"]):
        return f"{where}: parts must not be empty"
    for part in each["parts"]:
        found = _fields(part, _PART, where)
        if found is not None:
            return found
        if len(_DATA & set(part)) != 1 or ("functionCall" in part and each["role"] == "user"):
            return f"{where}: required oneof field 'data' must have one initialized field: {part!r:.200}"
        if not part.get("text", True) and "thoughtSignature" not in part:
            return f"{where}: empty text"
    calls = [part for part in each["parts"] if "functionCall" in part]
    if signs and calls and "thoughtSignature" not in calls[0]:
        return f"Function call is missing a thought_signature in functionCall parts: {calls[0]!r:.100}"
    return None
