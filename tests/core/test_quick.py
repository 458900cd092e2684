"""Values that are made quickly are frozen dataclasses like the others."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace

import pytest

from kode.core.kernel.machine import Transition
from kode.core.kernel.message import Usage
from kode.core.kernel.state import State
from kode.core.quick import quick
from kode.core.store.contract import Commit, Record


@dataclass(frozen=True, slots=True)
class Plain:
    """What it is made of."""

    name: str
    size: int = 3
    notes: list[str] = field(default_factory=list)


@quick
@dataclass(frozen=True, slots=True)
class Quick:
    """The same."""

    name: str
    size: int = 3
    notes: list[str] = field(default_factory=list)


@pytest.mark.parametrize("given", [("a",), ("a", 4), ("a", 4, ["x"])])
def test_it_is_made_as_before(given):
    made, plain = Quick(*given), Plain(*given)
    assert type(made) is Quick
    assert [getattr(made, f.name) for f in fields(made)] == [getattr(plain, f.name) for f in fields(plain)]
    assert repr(made) == repr(plain).replace("Plain", "Quick")
    assert Quick(*given) == made == Quick(**dict(zip(("name", "size", "notes"), given, strict=False)))
    assert inspect.signature(Quick).parameters.keys() == inspect.signature(Plain).parameters.keys()


def test_it_is_frozen():
    made = Quick("a")
    for change in (lambda: setattr(made, "name", "b"), lambda: delattr(made, "name"), lambda: setattr(made, "new", 1)):
        with pytest.raises((FrozenInstanceError, TypeError, AttributeError)):
            change()
    with pytest.raises(FrozenInstanceError):
        made.name = "b"  # type: ignore[misc]
    assert made == Quick("a")


def test_each_has_a_list_of_its_own():
    assert Quick("a").notes is not Quick("a").notes


@pytest.mark.parametrize("given", [(), ("a", 1, [], 2)])
def test_what_does_not_fit_is_refused(given):
    with pytest.raises(TypeError, match=r"Quick\.__init__\(\)"):
        Quick(*given)


def test_it_is_copied_and_pickled():
    made = Usage(1, 2)
    assert pickle.loads(pickle.dumps(made)) == copy.copy(made) == copy.deepcopy(made) == made
    assert replace(made, output=3) == Usage(1, 3)
    assert hash(made) == hash(Usage(1, 2))


@pytest.mark.parametrize("cls", [State, Commit, Record, Transition])
def test_what_is_made_at_each_commit_is_as_frozen(cls):
    names = [f.name for f in fields(cls)]
    made = cls(**dict.fromkeys(names, 1))
    assert type(made) is cls
    for name in names:
        with pytest.raises(FrozenInstanceError):
            setattr(made, name, 2)


def test_what_cannot_be_is_told():
    class Base:
        __slots__ = ()

    @dataclass(frozen=True, slots=True)
    class Below(Base):
        name: str

    @dataclass(frozen=True)
    class Loose:
        name: str

    @dataclass(frozen=True, slots=True)
    class Careful:
        name: str

        def __post_init__(self) -> None:
            assert self.name

    for cls in (Below, Loose, Careful):
        with pytest.raises(TypeError, match=cls.__name__):
            quick(cls)
