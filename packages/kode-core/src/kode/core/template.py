"""Templates: what an agent is made from, as versioned plain data.

A template names tools, models and modes; they are bound to code when an agent is opened. It is stored with each agent
made from it, so a later change of the registered template changes no agent that exists.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any

from kode.core.errors import NotBoundError, RecordCorruptError, SchemaTooNewError, UsageError
from kode.core.jsontext import dump
from kode.core.kernel.context import ContextPolicy
from kode.core.kernel.limits import Limits, named, only_named, unlike_defaults
from kode.core.kernel.message import Json
from kode.core.kernel.permission import PermissionPolicy

if TYPE_CHECKING:
    from kode.core.store.records.schema import Adapter

__all__ = ["AgentTemplate", "TemplateRegistry", "decode_template", "encode_template", "schema_of", "templates"]

VERSION = 1
"""Format of a stored template."""
_JSON_TEXT = "JSON as a text: kode.core.jsontext.dump({…})"
_SHAPES: dict[str, tuple[type | UnionType, str]] = {
    "permission": (PermissionPolicy, "PermissionPolicy(…)"),
    "limits": (Limits, "Limits(…)"),
    "context": (ContextPolicy, "ContextPolicy(…)"),
    "sandbox_options": (str, _JSON_TEXT),
    "metadata": (str | None, _JSON_TEXT),
    "output_schema": (str | None, f"{_JSON_TEXT}, or schema_of(…)"),
}
"""What a field must be, and how one is written."""


@dataclass(frozen=True, slots=True)
class AgentTemplate:
    """Recipe of an agent.

    Raises:
        UsageError: A field has a wrong shape; the message names it.
    """

    id: str
    system_prompt: str = ""
    version: str = "1"
    model: str = ""
    """``provider:model``, or a provider's name for its default model."""
    tools: tuple[str, ...] = ()
    """Names in the tool registry; ``("*",)`` for all that are registered when the agent is created."""
    permission: PermissionPolicy = PermissionPolicy()
    limits: Limits = Limits()
    sandbox: str = "local"
    """Kind of sandbox."""
    sandbox_options: Json = Json("{}")
    hooks: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    subagents: tuple[str, ...] = ()
    """Templates its tasks may use."""
    expose_thinking: bool = False
    retain_thinking: bool = True
    remind_todos_every: int | None = 10
    """Steps without a change of its todos after which the model is reminded of those that are open; None: never."""
    max_output_tokens: int | None = None
    temperature: float | None = None
    output_schema: Json | None = None
    """Each answer is JSON of this schema, as ``schema_of`` writes one; ``RunResult.read_output`` reads it."""
    metadata: Json | None = None
    context: ContextPolicy = ContextPolicy()
    """How much of its history the model is shown."""

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip() or len(self.id) > 200:
            raise UsageError(
                f"AgentTemplate.id is {self.id!r}; give a name of 1 to 200 characters.", code="bad_template"
            )
        for name in ("system_prompt", "version", "model", "sandbox"):
            if not isinstance(getattr(self, name), str):
                raise UsageError(
                    f"AgentTemplate.{name} is {getattr(self, name)!r}; give a text.", code="bad_template", field=name
                )
        for name, (kind, example) in _SHAPES.items():
            value = getattr(self, name)
            if not isinstance(value, kind):  # which may hold what nobody should print
                text = f"AgentTemplate.{name} is of type {type(value).__name__}; give {example}."
                raise UsageError(text, code="bad_template", field=name)
        every = self.remind_todos_every
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or not 1 <= every < 2**31):
            raise UsageError(
                f"AgentTemplate.remind_todos_every is {every!r}; give a whole number from 1, or None.",
                code="bad_template",
            )
        for name in ("tools", "hooks", "plugins", "subagents"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(one, str) for one in value):
                kinds = ", ".join(sorted({type(one).__name__ for one in value}))
                shown = repr(value) if isinstance(value, str) else f"a list of {kinds}"
                raise UsageError(
                    f"AgentTemplate.{name} is {shown}; give a list of names. What they stand for is given to "
                    "Dependencies.",
                    code="bad_template",
                    field=name,
                )
            if len(set(value)) != len(tuple(value)):
                raise UsageError(f"AgentTemplate.{name} names something twice: {list(value)}.", code="bad_template")
            object.__setattr__(self, name, tuple(value))

    @property
    def label(self) -> str:
        """``id@version``, as headers show it."""
        return f"{self.id}@{self.version}"

    def changed(self, **changes: Any) -> AgentTemplate:
        """The same recipe with some fields changed; None leaves a field as it is."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def schema_of(kind: Any) -> Json:
    """Write the JSON schema of a pydantic model, a dataclass, a typed dictionary or any other type that pydantic knows.

    Raises:
        UsageError: ``bad_template``: pydantic has no JSON schema for it.
    """
    from pydantic import PydanticUserError, TypeAdapter

    try:
        return dump(TypeAdapter(kind).json_schema())
    except PydanticUserError as error:
        raise UsageError(f"{kind!r} has no JSON schema: {error.message}", code="bad_template") from error


@dataclass(slots=True)
class TemplateRegistry:
    """Templates by id. A process has one by default; ``Dependencies`` may bring another."""

    _known: dict[str, AgentTemplate] = field(default_factory=dict)

    def register(self, template: AgentTemplate) -> AgentTemplate:
        """Make a template known under its id; the same id again replaces it for agents made from now on."""
        self._known[template.id] = template
        return template

    def get(self, id: str) -> AgentTemplate:
        """Find a template.

        Raises:
            NotBoundError: ``unknown_template``.
        """
        found = self._known.get(id)
        if found is None:
            known = ", ".join(sorted(self._known)) or "none"
            raise NotBoundError(
                f"No template {id!r} is registered (known: {known}); "
                f"call templates.register(AgentTemplate({id!r}, …)).",
                code="unknown_template",
                template=id,
            )
        return found

    def ids(self) -> list[str]:
        """All ids, sorted."""
        return sorted(self._known)


templates = TemplateRegistry()
"""The process's templates."""


def encode_template(template: AgentTemplate) -> tuple[Json, str]:
    """Template to the text that is stored, and its digest."""
    body = _adapter().write(template)
    spoken = json.dumps(named(template.limits), separators=(",", ":"))
    text = Json(f'{{"v":{VERSION},"template":{body.decode()},"named":{spoken}}}')
    return text, hashlib.sha256(text.encode()).hexdigest()


def decode_template(text: Json) -> AgentTemplate:
    """The text back to the template.

    Raises:
        RecordCorruptError: It is none.
        SchemaTooNewError: A newer KODE wrote it.
    """
    try:
        found = json.loads(text)
        version, body = found["v"], found["template"]
        if isinstance(version, int) and version > VERSION:
            raise SchemaTooNewError(
                f"The stored template has version {version}, this KODE reads up to {VERSION}; upgrade it.",
                found=version,
                known=VERSION,
            )
        template: AgentTemplate = _adapter().read(json.dumps(body).encode())
        # Which limits were named is written beside them; who wrote before that was so said what differs.
        spoken = found.get("named", unlike_defaults(template.limits))
        template = replace(template, limits=only_named(template.limits, spoken))
    except (ValueError, TypeError, KeyError, UsageError) as error:
        raise RecordCorruptError(
            f"The stored template cannot be read ({type(error).__name__}); it was left as it is.",
            kind="document",
            raw=text.encode(),
        ) from None
    return template


@cache
def _adapter() -> Adapter:
    # Every field is written, defaults too: a default that changes later must not change the agents that exist.
    from kode.core.store.records.schema import Adapter

    return Adapter(AgentTemplate, {}, elide=False)
