"""Write a ``ModelRequest`` for the Gemini API: https://ai.google.dev/api/generate-content.

Messages are written, never changed. What the API has no place for is left out (another vendor's reasoning) or stands
in the text as a note, so that a history from any provider can go on here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kode.core.jsontext import parse
from kode.core.kernel.message import (
    Block,
    MediaBlock,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from kode.core.provider.base import Effort, ModelRequest, Reasoning, ToolChoice
from kode.core.provider.gemini.facts import GeminiFacts
from kode.core.provider.media import LIKELY
from kode.core.provider.wire.body import opaque_of, overlaid, stops
from kode.core.provider.wire.wording import FOLLOWS, effort_of, in_loop, legal_name, set_apart, texts, unpacked

__all__ = ["UNSIGNED", "request_body"]

UNSIGNED = "skip_thought_signature_validator"
"""What the vendor takes for the signature of a call that another model has made:
https://ai.google.dev/gemini-api/docs/thought-signatures."""


def request_body(request: ModelRequest, facts: GeminiFacts, *, name: str = "gemini") -> dict[str, Any]:
    """Write the whole body.

    Args:
        request: What to ask.
        facts: Of its model.
        name: The provider's: whose reasoning is its own.

    Raises:
        UsageError: ``extra_body`` or a tool's schema is no JSON object, or there are too many stop sequences.
    """
    body: dict[str, Any] = {"contents": _write_contents(request, facts, name)}
    wanted = request.output_schema
    held = wanted is not None and (facts.signs or not request.tools)
    system = [{"text": part.text} for part in request.system_parts if part.text]
    if wanted is not None and not held:
        system.append({"text": f"Answer with nothing but JSON that fits this JSON schema:\n{wanted.schema}"})
    if system:
        body["systemInstruction"] = {"parts": system}
    if request.tools:
        declared = [
            {
                "name": _name(tool.name),
                "description": tool.description,
                "parametersJsonSchema": parse(tool.input_schema),
            }
            for tool in request.tools
        ]
        body["tools"] = [{"functionDeclarations": declared}]
        if request.tool_choice is not None:
            body["toolConfig"] = {"functionCallingConfig": _choice(request.tool_choice)}
    given: dict[str, Any] = {
        "temperature": request.temperature,
        "topP": request.top_p,
        "maxOutputTokens": request.max_tokens,
        "stopSequences": stops(request, 5),
        "seed": request.seed,
        "thinkingConfig": _thinking(request.reasoning, facts) or None,
        "responseMimeType": "application/json" if held else None,
        "responseJsonSchema": parse(wanted.schema) if wanted is not None and held else None,
    }
    settings = {field: value for field, value in given.items() if value is not None}
    if settings:
        body["generationConfig"] = settings
    return overlaid(body, request)


_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "tool": "ANY"}
_BUDGETS: dict[Effort, int] = {
    "none": 0,
    "minimal": 512,
    "low": 2_048,
    "medium": 8_192,
    "high": 24_576,
    "xhigh": 24_576,
}
_LEVELS: dict[Effort, str] = {
    # What all of them know. None can be told not to think at all.
    "none": "LOW",
    "minimal": "LOW",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
}


def _choice(choice: ToolChoice) -> dict[str, Any]:
    out: dict[str, Any] = {"mode": _MODES[choice.mode]}
    if choice.mode == "tool":
        out["allowedFunctionNames"] = [_name(choice.tool or "")]
    return out


def _thinking(reasoning: Reasoning | None, facts: GeminiFacts) -> dict[str, Any]:
    if reasoning is None or facts.thinking is None:
        return {}
    out: dict[str, Any] = {"includeThoughts": True} if reasoning.show else {}
    effort = effort_of(reasoning)
    if effort is not None and facts.thinking == "level":
        out["thinkingLevel"] = _LEVELS[effort]
    elif effort is not None:
        budget = _BUDGETS[effort] if reasoning.budget_tokens is None else reasoning.budget_tokens
        out["thinkingBudget"] = max(budget, facts.least_budget)
    return out


# ---- messages ----------------------------------------------------------------------------------------------


class _Calls:
    """The calls of the history so far, by id: their names, and the ids the vendor itself gave them."""

    def __init__(self) -> None:
        self._made: dict[str, dict[str, Any]] = {}
        self._own: set[str] = set()  # none may come twice
        self._order: list[str] = []

    def begin(self) -> None:
        """Another reply: what comes is answered before the next."""
        self._order = []

    def add(self, block: ToolUseBlock, id: Any) -> dict[str, Any]:
        own = {"id": id} if isinstance(id, str) and id and id not in self._own else {}
        self._own.update(own.values())
        self._made[block.id] = made = {"name": _name(block.name), **own}
        self._order.append(block.id)
        return made

    def of(self, id: str) -> dict[str, Any]:
        return self._made.get(id, {"name": "unnamed"})

    def place(self, id: str) -> int:
        """Where its answer stands among the answers: as its call does among the calls."""
        return self._order.index(id) if id in self._order else len(self._order)


def _write_contents(request: ModelRequest, facts: GeminiFacts, name: str) -> list[dict[str, Any]]:
    """Write the history; neighbours of one role become one content, and the user is first and last."""
    out: list[dict[str, Any]] = []
    calls = _Calls()
    retain = request.reasoning is None or request.reasoning.retain
    since = in_loop(request.messages)
    for at, message in enumerate(set_apart(request.messages)):
        if message.role == "assistant":
            role, parts = "model", [*_said(message, message.provider == name, retain or at >= since, calls)]
        else:
            role, parts = "user", _shown(message, calls)
        if parts and out and out[-1]["role"] == role:
            out[-1]["parts"] += parts
        elif parts:
            out.append({"role": role, "parts": parts})
    for each in out:
        if each["role"] == "user":
            each["parts"].sort(key=lambda part: "functionResponse" not in part)
        elif facts.signs:
            _sign(each["parts"])
    if not out or out[0]["role"] != "user":
        out.insert(0, {"role": "user", "parts": [{"text": "(What was said before is left out.)"}]})
    if out[-1]["role"] != "user":
        out.append({"role": "user", "parts": [{"text": "(Go on.)"}]})
    return out


def _sign(parts: list[dict[str, Any]]) -> None:
    """The first call of a reply must be signed; those beside it need not."""
    first = next((part for part in parts if "functionCall" in part), None)
    if first is not None:
        first.setdefault("thoughtSignature", UNSIGNED)


def _said(message: Message, own: bool, thoughts: bool, calls: _Calls) -> Iterator[dict[str, Any]]:
    """Write what a model said. What is signed goes back to its vendor with the signature, also empty text."""
    calls.begin()
    for block in message.blocks:
        opaque = opaque_of(block) if own else {}
        signature = opaque.get("thoughtSignature")
        signed = {"thoughtSignature": signature} if isinstance(signature, str) and signature else {}
        if isinstance(block, ToolUseBlock):
            yield {"functionCall": {**calls.add(block, opaque.get("id")), "args": parse(block.input)}, **signed}
        elif isinstance(block, ReasoningBlock):
            if own and thoughts:
                sign = {"thoughtSignature": block.signature} if block.signature else {}
                if block.text or sign:
                    yield {"text": block.text, "thought": True, **sign}
        elif isinstance(block, MediaBlock) and own and (media := _media(block)) is not None:
            yield {**media, **signed}
        elif isinstance(block, TextBlock):
            if block.text or signed:
                yield {"text": block.text, **signed}
        else:
            yield from ({"text": text} for text in texts((block,)))


def _shown(message: Message, calls: _Calls) -> list[dict[str, Any]]:
    """Write what a model is shown: answers first, in the order of their calls, then the rest."""
    answers: list[tuple[int, dict[str, Any]]] = []
    rest: list[dict[str, Any]] = []
    for block in message.blocks:
        if not isinstance(block, ToolResultBlock):
            rest += _plain(block)
            continue
        shown = [media for each in block.content if (media := _of(each)) is not None]
        said = [*texts(each for each in block.content if _of(each) is None)]
        if shown:
            said.append(FOLLOWS)
            rest += shown
        answer = {"error" if block.is_error else "output": "\n\n".join(said)}
        response = {**calls.of(block.tool_use_id), "response": answer}
        answers.append((calls.place(block.tool_use_id), {"functionResponse": response}))
    answers.sort(key=lambda each: each[0])
    return [*(part for _, part in answers), *rest]


def _plain(block: Block) -> list[dict[str, Any]]:
    media = _of(block)
    return [media] if media is not None else [{"text": text} for text in texts((block,))]


def _of(block: Block) -> dict[str, Any] | None:
    return _media(block) if isinstance(block, MediaBlock) else None


_TAKEN = ("image/", "audio/", "video/", "text/", "application/pdf", "application/json")


def _media(block: MediaBlock) -> dict[str, Any] | None:
    """Write media as the API takes it, or None where it has no form for it."""
    block = unpacked(block)
    kind = block.media_type or LIKELY[block.type]
    if not kind.startswith(_TAKEN):
        return None
    if block.data is not None:
        return {"inlineData": {"mimeType": kind, "data": block.data}}
    where = block.file_id or block.url
    return {"fileData": {"fileUri": where, "mimeType": kind}} if where is not None else None


def _name(name: str) -> str:
    """Make a name that begins with a letter or ``_``."""
    name = legal_name(name, 63)
    return name if name[0].isalpha() or name[0] == "_" else f"_{name}"
