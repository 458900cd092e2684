"""Names and what they stand for in a process: what was registered here, and what installed wheels bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from kode.core.errors import NotBoundError, UsageError
from kode.core.lazy import entry_points

__all__ = ["Named", "Registry", "brought", "installed"]


class Named(Protocol):
    """Has a name of its own."""

    @property
    def name(self) -> str:
        """The name."""
        ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """Names and their things, all of one kind.

    Args:
        kind: The class they are of.
        word: What one is called in messages.
        things: To start with.
        group: Entry points of installed wheels to look for unknown names in; they are loaded when asked for, and a
            class among them is called without arguments.
        check: Looks at each before it is taken; raises ``UsageError``.
    """

    def __init__(
        self,
        kind: type[T],
        word: str,
        things: Mapping[str, T] | list[T] | tuple[T, ...] = (),
        *,
        group: str | None = None,
        check: Callable[[T], None] | None = None,
    ) -> None:
        self.kind = kind
        self.word = word
        self.group = group
        self.check = check
        self._known: dict[str, T] = {}
        named = [(None, one) for one in things] if isinstance(things, list | tuple) else things.items()
        for name, one in named:
            self.register(one, name)

    def given(self, things: Registry[T] | Mapping[str, T] | list[T] | tuple[T, ...] | None) -> Registry[T]:
        """A registry of the same kind with what somebody brought, or this one if he brought none."""
        if things is None:
            return self
        return (
            things
            if isinstance(things, Registry)
            else Registry(self.kind, self.word, things, group=self.group, check=self.check)
        )

    def register(self, thing: T, name: str | None = None) -> T:
        """Add one, under its own name or another, and return it. The same one again is harmless.

        Raises:
            UsageError: It is of another kind or has no name, or the name stands for another one (``name_taken``).
        """
        if not isinstance(thing, self.kind):
            raise UsageError(f"{thing!r} is no {self.kind.__name__}.", code=f"bad_{self.word}")
        name = thing.name if name is None else name
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"{thing!r} has no name; give it one.", code=f"bad_{self.word}")
        if self.check is not None:
            self.check(thing)
        if self._known.setdefault(name, thing) is not thing:
            raise UsageError(
                f"There are two {self.word}s named {name!r}. Give one another name.", code="name_taken", name=name
            )
        return thing

    def get(self, name: str) -> T:
        """Find one; the first time, one that a wheel brings is loaded.

        Raises:
            NotBoundError: There is none; the message names those that are known.
            UsageError: Two wheels claim the name, or what the wheel brings is none.
        """
        found = self._known.get(name)
        if found is not None:
            return found
        loaded = brought(self.group, name, self.word)
        if loaded is None:
            known = ", ".join(self.names()) or "none"
            raise NotBoundError(
                f"There is no {self.word} {name!r} in this process. Give it in Dependencies, or install the wheel that "
                f"brings it. Known are: {known}.",
                code=f"unknown_{self.word}",
                name=name,
            )
        thing, whose = loaded
        try:
            thing = thing() if isinstance(thing, type) else thing
        except Exception as error:
            raise _not_loaded(self.word, name, whose, error) from error
        if not isinstance(thing, self.kind) or thing.name != name:
            raise UsageError(f"{whose} is no {self.word} named {name!r}.", code="bad_entry_point")
        return self.register(thing)

    def names(self) -> tuple[str, ...]:
        """All known names, sorted; nothing is loaded."""
        return tuple(sorted(installed(self.group) | set(self._known)))


def installed(group: str | None) -> set[str]:
    """Names that installed wheels bring in a group of entry points; nothing is loaded. None: no group is looked at."""
    return set() if group is None else {point.name for point in entry_points(group=group)}


def brought(group: str | None, name: str, word: str) -> tuple[Any, str] | None:
    """Load what an installed wheel brings by a name, and tell whose it is; None: no wheel does.

    Args:
        group: Of entry points; None: no wheel is looked at.
        name: Of the entry point.
        word: What such a thing is called in messages.

    Raises:
        UsageError: Two wheels claim the name (``claimed_twice``), or it cannot be loaded (``not_loaded``).
    """
    points = () if group is None else tuple(entry_points(group=group, name=name))
    if not points:
        return None
    # The same distribution may be seen twice (a source tree beside its installation); its claim is one.
    claims = sorted({f"{point.value} ({point.dist.name if point.dist else 'an unknown wheel'})" for point in points})
    if len({point.value for point in points}) > 1:
        raise UsageError(
            f"Two wheels claim the {word} {name!r}: {', '.join(claims)}. Uninstall one.", code="claimed_twice"
        )
    try:
        return points[0].load(), claims[0]
    except Exception as error:
        raise _not_loaded(word, name, claims[0], error) from error


def _not_loaded(word: str, name: str, whose: str, error: Exception) -> UsageError:
    return UsageError(
        f"The {word} {name!r} of {whose} cannot be loaded: {type(error).__name__}: {error}.", code="not_loaded"
    )
