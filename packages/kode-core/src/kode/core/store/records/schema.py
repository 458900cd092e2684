"""Validators and serializers for our frozen dataclasses, made from their annotations.

It knows the few shapes that records are made of: text, numbers, enums, literals, optional values, tuples, dataclasses
and unions of dataclasses that a literal field ``type`` or ``kind`` tells apart. Anything else is refused when the
schema is built, so that a new field cannot slip into the stored format half understood.

pydantic's own ``TypeAdapter`` would do the same on top of the same ``pydantic_core``, with three differences that
matter here: the kernel's unions carry no pydantic annotation, so it would try member after member; it cannot leave out
the fields that a record keeps as columns; and importing it costs every process some 50 ms.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Literal, Union, get_args, get_origin

from pydantic_core import SchemaSerializer, SchemaValidator
from pydantic_core import core_schema as cs

__all__ = ["Adapter"]

_TAGS = ("type", "kind")
_PLAIN: dict[Any, cs.CoreSchema] = {
    str: cs.str_schema(),
    int: cs.int_schema(),
    bool: cs.bool_schema(),
    float: cs.float_schema(allow_inf_nan=False),
    Any: cs.any_schema(),
}
# Strict: what is stored was written by us, so a number in quotes is damage and not a number.
_CONFIG = cs.CoreConfig(strict=True, extra_fields_behavior="forbid")


class Adapter:
    """Reads and writes one type as JSON, both in one call into compiled code.

    With ``elide``, fields that hold their default are not written, and a reader puts the default back: changing a
    default changes what is stored. None is the default of a field that may be None and has no other. Fields in
    ``apart`` are neither written nor read; after ``read`` they are *unset*.
    """

    __slots__ = ("read", "write")

    def __init__(self, hint: Any, apart: Mapping[type, frozenset[str]], *, elide: bool = True) -> None:
        schema = _schema(hint, apart)
        to_json = SchemaSerializer(schema, cs.CoreConfig(ser_json_inf_nan="constants")).to_json
        # No methods of ours around them: each commit writes about four values, a load reads thousands.
        self.read: Callable[[bytes], Any] = SchemaValidator(schema, _CONFIG).validate_json
        """Read a value; raises `ValidationError` for what is no JSON, or of another shape."""
        self.write: Callable[[Any], bytes] = partial(to_json, exclude_defaults=elide, warnings="error")
        """Write a value as JSON; NaN and infinities as such, which is for the caller to refuse.

        Raises `PydanticSerializationError` for a value that is not of its type, or holds a lone surrogate.
        """


def _schema(hint: Any, apart: Mapping[type, frozenset[str]]) -> cs.CoreSchema:
    plain = _PLAIN.get(hint)
    if plain is not None:
        return plain
    if isinstance(hint, typing.NewType):
        return _schema(hint.__supertype__, apart)
    if isinstance(hint, type) and is_dataclass(hint):
        return _dataclass(hint, apart)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return cs.enum_schema(hint, list(hint.__members__.values()), sub_type="str")
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _literal(args)
    if origin is tuple:
        return _tuple(args, apart)
    if origin in (Union, types.UnionType):
        return _union(args, apart)
    raise TypeError(f"No rule for how to store {hint!r}; store/records/schema.py lists what there is.")


def _literal(names: tuple[Any, ...]) -> cs.CoreSchema:
    known = frozenset(names)

    def write(value: Any) -> Any:
        # pydantic writes what is none of the names without a word.
        if value in known:
            return value
        raise ValueError(f"a value is none of {', '.join(map(repr, names))}")

    return cs.literal_schema(list(names), serialization=cs.plain_serializer_function_ser_schema(write))


def _tuple(args: tuple[Any, ...], apart: Mapping[type, frozenset[str]]) -> cs.CoreSchema:
    if len(args) == 2 and args[1] is ...:
        return cs.tuple_variable_schema(_schema(args[0], apart))
    return cs.tuple_positional_schema([_schema(arg, apart) for arg in args])


def _union(args: tuple[Any, ...], apart: Mapping[type, frozenset[str]]) -> cs.CoreSchema:
    members = [arg for arg in args if arg is not type(None)]
    if len(members) == 1:
        inner = _schema(members[0], apart)
    elif all(isinstance(member, type) and is_dataclass(member) for member in members):
        inner = _tagged(members, apart)
    else:
        # In this order each JSON value has one reading: a bool is no int and an int no float.
        ordered = [kind for kind in (bool, int, float, str) if kind in members]
        if len(ordered) != len(members):
            raise TypeError(f"No rule for how to store a union of {members!r}.")
        inner = cs.union_schema([_PLAIN[kind] for kind in ordered], mode="left_to_right")
    return inner if len(members) == len(args) else cs.nullable_schema(inner)


def _tagged(members: list[Any], apart: Mapping[type, frozenset[str]]) -> cs.CoreSchema:
    hints = [typing.get_type_hints(member) for member in members]
    for tag in _TAGS:
        if all(get_origin(hint.get(tag)) is Literal for hint in hints):
            choices = {
                name: _dataclass(member, apart, tag)
                for member, hint in zip(members, hints, strict=True)
                for name in get_args(hint[tag])
            }
            return cs.tagged_union_schema(choices, discriminator=tag)
    raise TypeError(f"Nothing tells the members of {members!r} apart.")


def _dataclass(cls: Any, apart: Mapping[type, frozenset[str]], tag: str = "") -> cs.CoreSchema:
    hints = typing.get_type_hints(cls)
    kept = [field for field in fields(cls) if field.name not in apart.get(cls, ())]
    # A tag has no default here: it is always written, else nothing could tell what to read.
    inner = [
        cs.dataclass_field(f.name, cs.literal_schema(list(get_args(hints[f.name]))))
        if f.name == tag
        else cs.dataclass_field(f.name, _default(f, _schema(hints[f.name], apart)))
        for f in kept
    ]
    return cs.dataclass_schema(
        cls,
        cs.dataclass_args_schema(cls.__name__, inner, extra_behavior="forbid"),
        [f.name for f in kept],
        slots=True,
        frozen=True,
        config=_CONFIG,
    )


def _default(field: Field[Any], schema: cs.CoreSchema) -> cs.CoreSchema:
    if field.default is not MISSING:
        return cs.with_default_schema(schema, default=field.default)
    # None is never written, so a field that may be None is None when it is absent.
    return cs.with_default_schema(schema, default=None) if schema["type"] == "nullable" else schema
