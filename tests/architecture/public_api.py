"""Print every public name of every wheel with its signature; scripts/public-api calls it.

A name is public if it is in the `__all__` of a module whose own name is public. A name that only passes on
what another public module defines is shown as a reference to it, so each signature stands in one place.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

ROOTS = ("kode.core", "kode.cli", "kode.store.postgres", "kode.store.supabase")


def modules() -> Iterator[ModuleType]:
    """Import the public modules of every wheel."""
    for name in ROOTS:
        root = importlib.import_module(name)
        yield root
        for found in pkgutil.walk_packages(root.__path__, prefix=f"{name}."):
            if not any(part.startswith("_") for part in found.name.split(".")):
                yield importlib.import_module(found.name)


class Written(str):
    """An annotation that is shown as it stands in the source, without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def signature(thing: Any) -> str:
    """Show how a thing is called, or nothing if it says nothing."""
    try:
        found = inspect.signature(thing)  # what is not callable raises
    except (TypeError, ValueError):
        return ""

    def written(annotation: object) -> object:
        return Written(annotation) if isinstance(annotation, str) else annotation

    shown = found.replace(
        parameters=[each.replace(annotation=written(each.annotation)) for each in found.parameters.values()],
        return_annotation=written(found.return_annotation),
    )
    # What differs from run to run: addresses, and the order of a set.
    text = re.sub(r" at 0x[0-9a-f]+", "", str(shown))
    return re.sub(r"frozenset\(\{([^{}]*)\}\)", lambda found: f"frozenset({{{_sorted(found[1])}}})", text)


def _sorted(members: str) -> str:
    return ", ".join(sorted(members.split(", ")))


def members(cls: type) -> Iterator[str]:
    """Describe the public members that a class itself defines."""
    if issubclass(cls, enum.Enum):
        yield from (f"{member.name} = {member.value!r}" for member in cls)
        return
    for name, value in sorted(vars(cls).items()):
        if name.startswith("_"):
            continue
        if isinstance(value, property):
            yield f"{name}: property"
        elif isinstance(value, staticmethod | classmethod):
            yield f"{name}{signature(value.__func__)}"
        elif inspect.isfunction(value):
            yield f"{name}{signature(value)}"
    own = inspect.get_annotations(cls)
    yield from (f"{name}: {kind}" for name, kind in sorted(own.items()) if not name.startswith("_"))


def describe(module: ModuleType, name: str) -> Iterator[str]:
    """Describe one public name, a line for it and one for each of its members."""
    thing = getattr(module, name)
    home = getattr(thing, "__module__", module.__name__)
    if inspect.ismodule(thing):
        yield f"{name}: module {thing.__name__}"
    elif home != module.__name__ and isinstance(home, str) and home.startswith("kode.") and callable(thing):
        yield f"{name} = {home}.{getattr(thing, '__qualname__', name)}"
    elif inspect.isclass(thing):
        bases = ", ".join(base.__name__ for base in thing.__bases__ if base is not object)
        yield f"class {name}({bases}){'' if issubclass(thing, enum.Enum) else ' ' + signature(thing)}"
        yield from (f"    {member}" for member in members(thing))
    elif inspect.isfunction(thing):
        yield f"{'async ' if inspect.iscoroutinefunction(thing) else ''}def {name}{signature(thing)}"
    else:
        yield f"{name}: {type(thing).__name__}"


def main() -> None:
    """Print all of it."""
    for module in sorted(modules(), key=lambda module: module.__name__):
        if public := getattr(module, "__all__", ()):
            print(module.__name__)
            for name in sorted(public):
                for line in describe(module, name):
                    print(f"  {line}")


if __name__ == "__main__":
    main()
