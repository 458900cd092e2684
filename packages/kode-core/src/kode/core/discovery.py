"""Names and what they stand for in a process: what was registered here, and what installed wheels bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from kode.core.errors import NotBoundError, UsageError
from kode.core.lazy import entry_points

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Named", "Registry"]


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
        points = entry_points(group=self.group, name=name) if self.group is not None else ()
        if not points:
            known = ", ".join(self.names()) or "none"
            raise NotBoundError(
                f"There is no {self.word} {name!r} in this process. Give it in Dependencies, or install the wheel that "
                f"brings it. Known are: {known}.",
                code=f"unknown_{self.word}",
                name=name,
            )
        return self.register(self._load(name, tuple(points)))

    def names(self) -> tuple[str, ...]:
        """All known names, sorted; nothing is loaded."""
        installed = {point.name for point in entry_points(group=self.group)} if self.group is not None else set()
        return tuple(sorted(installed | set(self._known)))

    def _load(self, name: str, points: tuple[EntryPoint, ...]) -> T:
        # The same distribution may be seen twice (a source tree beside its installation); its claim is one.
        claims = sorted({f"{point.value} ({_owner(point)})" for point in points})
        if len({point.value for point in points}) > 1:
            raise UsageError(
                f"Two wheels claim the {self.word} {name!r}: {', '.join(claims)}. Uninstall one.",
                code="claimed_twice",
            )
        try:
            found = points[0].load()
            found = found() if isinstance(found, type) else found
        except Exception as error:
            raise UsageError(
                f"The {self.word} {name!r} of {claims[0]} cannot be loaded: {type(error).__name__}: {error}.",
                code="not_loaded",
            ) from error
        if not isinstance(found, self.kind) or found.name != name:
            raise UsageError(f"{claims[0]} is no {self.word} named {name!r}.", code="bad_entry_point")
        return found


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown wheel"
