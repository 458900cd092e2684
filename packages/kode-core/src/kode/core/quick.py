"""Frozen dataclasses that are made in a fifth of the time.

The ``__init__`` of a frozen dataclass sets each field through ``object.__setattr__``, for its own ``__setattr__``
refuses: some 60 ns a field where a plain slot takes 6. A commit makes about forty values with three hundred fields.
"""

from __future__ import annotations

import sys
from dataclasses import MISSING, fields
from typing import Any, TypeVar

__all__ = ["quick"]

T = TypeVar("T")


def quick(cls: type[T]) -> type[T]:
    """Give a class made by ``@dataclass(frozen=True, slots=True)`` an ``__init__`` that costs little; all else stays.

    While its fields are set an instance is of a twin class, which has the same slots and refuses nothing. Nobody else
    can see it then. For values that are made at each commit; the others need it not.

    Raises:
        TypeError: The class has bases of its own, no slots, or a ``__post_init__``.
    """
    if cls.__bases__ != (object,) or "__slots__" not in cls.__dict__ or hasattr(cls, "__post_init__"):
        raise TypeError(f"{cls.__name__} cannot be made quick: it has bases, no slots, or a __post_init__.")
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return cls  # there it is dear to change the class of an object: all threads are stopped for it
    names: dict[str, Any] = {
        "_set": object.__setattr__,
        "_twin": type(cls.__name__, (), {"__slots__": cls.__dict__["__slots__"]}),
        "_frozen": cls,
    }
    parameters, lines = [], []
    for field in fields(cls):  # type: ignore[arg-type]  # mypy: not every type is a dataclass
        name, value = field.name, field.name
        if field.default is not MISSING:
            names[f"_{name}"] = field.default
            parameters.append(f"{name}=_{name}")
        elif field.default_factory is not MISSING:
            names[f"_{name}"] = field.default_factory
            parameters.append(f"{name}=_set")  # nobody gives that
            value = f"_{name}() if {name} is _set else {name}"
        else:
            parameters.append(name)
        lines.append(f"    self.{name} = {value}\n")
    source = (
        f"def __init__(self, {', '.join(parameters)}):\n"
        "    _set(self, '__class__', _twin)\n"
        f"{''.join(lines)}"
        "    self.__class__ = _frozen\n"
    )
    made: dict[str, Any] = {}
    exec(source, names, made)  # as the standard library makes its dataclasses
    init = made["__init__"]
    init.__qualname__, init.__annotations__ = f"{cls.__qualname__}.__init__", cls.__init__.__annotations__
    cls.__init__ = init  # type: ignore[method-assign]  # it takes the same
    return cls
