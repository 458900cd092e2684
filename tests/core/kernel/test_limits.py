"""Limits as values: who wins, what was spoken out, what is refused."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kode.core.errors import UsageError
from kode.core.kernel import limits as module
from kode.core.kernel.limits import (
    Limits,
    laid_over,
    limits_of,
    limits_text,
    named,
    narrowed,
    narrower,
    only_named,
    unlike_defaults,
)
from kode.core.kernel.message import Json
from kode.core.template import AgentTemplate, decode_template, encode_template

RANGES = module._RANGES
NAMES = [field.name for field in fields(Limits)]
INFINITE = float("inf")


def value_of(name: str) -> st.SearchStrategy[Any]:
    low, high, whole, optional = RANGES[name]
    drawn = (
        st.integers(int(low), int(high)) if whole else st.floats(low, high) | st.just(getattr(Limits(), name) or low)
    )
    return drawn | st.just(low if not whole else int(low)) | (st.none() if optional else st.nothing())


@st.composite
def some(draw: st.DrawFn) -> Limits:
    """Limits that name some fields, at times with their default's value."""
    chosen = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=6))
    given = {name: draw(value_of(name)) for name in chosen}
    try:
        return Limits(**given)
    except UsageError as error:
        assume(error.fields["field"] != "lease_margin_s")
        raise


def least(x: Any, y: Any) -> Any:
    return min(INFINITE if x is None else x, INFINITE if y is None else y)


# ---- the narrower wins


@given(some(), some())
def test_of_each_field_that_both_name_the_narrower_wins(a: Limits, b: Limits) -> None:
    both = narrower(a, b)
    for name in NAMES:
        x, y, got = getattr(a, name), getattr(b, name), getattr(both, name)
        if name == "lease_margin_s":
            assert got < both.lease_s
            assert got <= least(x if name in named(a) else None, y if name in named(b) else None)
        elif name in named(a) and name in named(b):
            assert (INFINITE if got is None else got) == least(x, y)
        else:
            assert got == (y if name in named(b) else x)
    assert set(named(both)) | {"lease_margin_s"} == {*named(a), *named(b), "lease_margin_s"}


@given(some(), some(), some())
def test_the_order_of_the_layers_does_not_matter(a: Limits, b: Limits, c: Limits) -> None:
    assert narrower(a, b) == narrower(b, a)
    assert narrower(a, a) == narrower(a, Limits()) == narrower(Limits(), a) == a
    whole = {narrower(narrower(x, y), z) for x, y, z in ((a, b, c), (c, a, b), (b, c, a))}
    assert len({replace(one, lease_margin_s=0) for one in whole}) == 1


def test_a_default_yields_to_who_names_the_field_but_the_same_value_named_does_not() -> None:
    wide = Limits(tool_timeout_s=500)
    assert narrower(Limits(), wide).tool_timeout_s == 500
    assert narrower(Limits(tool_timeout_s=120.0), wide).tool_timeout_s == 120
    assert Limits(tool_timeout_s=120.0) != Limits()
    # What is kept by value must tell them apart too.
    text = limits_text(wide)
    assert narrowed(Limits(), text).tool_timeout_s == 500
    assert narrowed(Limits(tool_timeout_s=120.0), text).tool_timeout_s == 120
    assert narrowed(Limits(), text).tool_timeout_s == 500


def test_none_is_wider_than_any_where_it_is_no_default() -> None:
    endless = Limits(tool_timeout_s=None, max_cost_per_run=None)
    assert named(endless) == ("tool_timeout_s",)
    assert narrower(Limits(), endless).tool_timeout_s is None
    assert narrower(Limits(tool_timeout_s=9), endless).tool_timeout_s == 9


def test_a_margin_always_fits_into_its_lease() -> None:
    assert Limits().lease_margin_s == Limits(lease_s=3_600).lease_margin_s == 5
    assert Limits(lease_s=3).lease_margin_s == 0.5
    wide, short = Limits(lease_s=100, lease_margin_s=8), Limits(lease_s=6)
    assert narrower(wide, short) == narrower(short, wide) == Limits(lease_s=6)
    assert laid_over(laid_over(Limits(), Json('{"lease_s":3}')), Json('{"lease_s":90}')).lease_margin_s == 5


# ---- as text and in the store


@given(some())
def test_what_was_named_goes_through_its_text(limits: Limits) -> None:
    assert limits_of(limits_text(limits)) == limits
    assert len(limits_text(limits)) < 1_024


@given(some())
def test_what_was_named_is_still_known_after_it_was_stored(limits: Limits) -> None:
    template = AgentTemplate("t", limits=limits)
    again = decode_template(encode_template(template)[0])
    assert (again, named(again.limits)) == (template, named(limits))
    assert encode_template(again) == encode_template(template)
    assert pickle.loads(pickle.dumps(limits)) == limits


def test_the_longest_text_still_fits_into_a_header() -> None:
    longest: dict[str, Any] = {name: int(high) if whole else 1 / 3 for name, (_, high, whole, _) in RANGES.items()}
    assert 700 < len(limits_text(Limits(**{**longest, "lease_s": 2 / 3}))) < 1_024


def test_recipes_written_before_names_were_kept_name_what_differs() -> None:
    text, _ = encode_template(AgentTemplate("t", limits=Limits(tool_timeout_s=120.0, max_inbox=7)))
    old = Json(text.partition(',"named":')[0] + "}")
    assert named(decode_template(old).limits) == ("max_inbox",)
    assert unlike_defaults(Limits(tool_timeout_s=120.0, max_inbox=7)) == ("max_inbox",)


def test_only_some_values_were_named() -> None:
    limits = only_named(Limits(max_inbox=7, tool_timeout_s=9, processing_timeout_s=None), ["max_inbox"])
    assert (limits.max_inbox, limits.tool_timeout_s, named(limits)) == (7, 9, ("processing_timeout_s", "max_inbox"))


@given(some(), some())
def test_an_instruction_replaces_what_it_names_and_nothing_else(limits: Limits, change: Limits) -> None:
    text = limits_text(change)
    both = {name: getattr(change if name in named(change) else limits, name) for name in ("lease_s", "lease_margin_s")}
    if "lease_margin_s" in {*named(limits), *named(change)} and both["lease_margin_s"] >= both["lease_s"]:
        with pytest.raises(UsageError, match=r"lease_margin_s is .*; give less than lease_s"):
            laid_over(limits, text)
        return
    changed = laid_over(limits, text)
    for name in set(NAMES) - {"lease_margin_s"}:
        assert getattr(changed, name) == getattr(change if name in named(change) else limits, name)
    assert set(named(changed)) == {*named(limits), *named(change)}


def test_an_instruction_may_take_a_bound_away() -> None:
    assert laid_over(Limits(max_cost_per_agent=1), Json('{"max_cost_per_agent":null}')).max_cost_per_agent is None


# ---- what is refused


WRONG = (True, "5", float("nan"), INFINITE, -INFINITE, -1, 10**400, 10**5_000, [3], object)


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_value_is_named_with_what_is_allowed(name: str) -> None:
    low, high, whole, optional = RANGES[name]
    wrong = [
        *WRONG,
        high * 2,
        *([] if low == 0 else [low / 2]),
        *([1.5] if whole else []),
        *([] if optional else [None]),
    ]
    for value in wrong:
        with pytest.raises(UsageError) as caught:
            Limits(**{name: value})
        error, what = caught.value, "a whole number" if whole else "a number"
        shown = (
            repr(value)[:100] if not isinstance(value, int) or value < 10**300 else "a number of more than 100 digits"
        )
        allowed = f"{what} from {low:,.12g} to {high:,.16g}{' or None' if optional else ''}"
        assert error.message == f"Limits.{name} is {shown}; give {allowed}."
        assert (error.code, error.fields) == ("bad_limit", {"field": name, "value": shown})


@pytest.mark.parametrize("name", NAMES)
def test_the_ends_of_each_range_are_allowed(name: str) -> None:
    low, high, whole, optional = RANGES[name]
    lease = {} if name == "lease_s" else {"lease_s": 86_400.0}
    if name == "lease_margin_s":
        high = 86_399.0
    for value in (int(low) if whole else low, int(high) if whole else high, *([None] if optional else [])):
        assert getattr(Limits(**lease, **{name: value}), name) == value  # type: ignore[arg-type]


def test_every_field_has_a_range_and_every_default_is_within_it() -> None:
    assert list(RANGES) == NAMES
    assert named(Limits()) == ()


def test_no_field_of_that_name() -> None:
    with pytest.raises(
        UsageError, match=r"Limits has no field 'max_wishes'; it has processing_timeout_s, .*due_poll_s\."
    ):
        limits_of(Json('{"max_wishes":3}'))
