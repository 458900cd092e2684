"""Providers by name."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

from kode.core.errors import KodeError, NotBoundError, UsageError
from kode.core.provider import Claim, ProviderCatalog, ScriptedProvider


class Vendor(ScriptedProvider):
    required_env = ("VENDOR_API_KEY", "VENDOR_KEY")

    def __init__(self, *, model: str = "default", api_key: str | None = None) -> None:
        super().__init__(model=model)


def claim(name: str, wheel: str = "kode-core", value: str = "m:Scripted", load: Any = None) -> Claim:
    return Claim(name, value, wheel, load or (lambda: ScriptedProvider))


def test_resolves_vendor_and_model_and_loads_late() -> None:
    loads: list[int] = []

    def load() -> Any:
        loads.append(1)
        return ScriptedProvider

    catalog = ProviderCatalog(claims=[claim("scripted", load=load)])
    assert catalog.names() == ("scripted",)
    assert loads == []
    assert catalog.resolve("scripted:ns/model:free").model == "ns/model:free"
    assert catalog.resolve("scripted").model == "scripted-1"
    assert catalog.resolve("scripted:m", window_tokens=5).window_tokens == 5
    assert loads == [1]
    made = ScriptedProvider()
    assert catalog.resolve(made) is made


@pytest.mark.parametrize("name", ["nope:m", "", ":m", "Scripted:m"])
def test_an_unknown_name_says_what_is_known_and_what_to_install(name: str) -> None:
    catalog = ProviderCatalog(claims=[claim("scripted"), claim("acme")])
    with pytest.raises(NotBoundError, match=r"known are: acme, scripted.*kode\.provider"):
        catalog.resolve(name)
    with pytest.raises(NotBoundError, match="known are: none"):
        ProviderCatalog(claims=[]).resolve(name)


def test_two_wheels_that_claim_a_name_are_both_named() -> None:
    catalog = ProviderCatalog(claims=[claim("acme", "wheel-a", "a:A"), claim("acme", "wheel-b", "b:B"), claim("fine")])
    with pytest.raises(UsageError, match=r"wheel-a \(a:A\) and wheel-b \(b:B\)"):
        catalog.resolve("acme:m")
    assert catalog.resolve("fine:m").model == "m"
    catalog.register("acme", Vendor)
    assert catalog.resolve("acme:m", api_key="k").model == "m"


def test_one_wheel_found_twice_is_one_claim() -> None:
    twice = [claim("acme", "wheel-a"), claim("acme", "wheel_a"), claim("acme", "wheel-a")]
    assert ProviderCatalog(claims=twice).resolve("acme:m").model == "m"
    with pytest.raises(UsageError, match=r"\(a:A\) and wheel-a \(b:B\)"):
        ProviderCatalog(claims=[claim("acme", "wheel-a", "a:A"), claim("acme", "wheel-a", "b:B")]).resolve("acme")


def test_two_registrations_of_a_name_are_both_named() -> None:
    catalog = ProviderCatalog(claims=[])
    catalog.register("acme", ScriptedProvider)
    catalog.register("acme", ScriptedProvider)
    with pytest.raises(UsageError, match=r"ScriptedProvider and .*Vendor"):
        catalog.register("acme", Vendor)
    catalog.register("acme", Vendor, replace=True)
    assert isinstance(catalog.resolve("acme", api_key="k"), Vendor)
    for bad in ("", "a:b"):
        with pytest.raises(UsageError, match="without colon"):
            catalog.register(bad, Vendor)


def test_a_missing_key_names_the_variable() -> None:
    catalog = ProviderCatalog(claims=[], environ={})
    catalog.register("acme", Vendor)
    with pytest.raises(NotBoundError, match="VENDOR_API_KEY or VENDOR_KEY"):
        catalog.resolve("acme:m")
    assert catalog.resolve("acme:m", api_key="k").model == "m"
    with_key = ProviderCatalog(claims=[], environ={"VENDOR_KEY": "k"})
    with_key.register("acme", Vendor)
    assert with_key.resolve("acme").model == "default"


def test_options_that_do_not_fit_are_named_without_their_values() -> None:
    catalog = ProviderCatalog(claims=[], environ={})
    catalog.register("acme", Vendor)
    with pytest.raises(UsageError, match="secret_option") as caught:
        catalog.resolve("acme:m", api_key="canary", secret_option="canary")
    assert "canary" not in str(caught.value)
    assert "canary" not in repr(caught.value.fields)


def test_a_type_error_inside_a_factory_is_not_hidden() -> None:
    def broken(**options: Any) -> Any:
        return len(5)  # type: ignore[arg-type]

    catalog = ProviderCatalog(claims=[])
    catalog.register("acme", broken)
    with pytest.raises(TypeError, match="len"):
        catalog.resolve("acme:m")


def test_a_wheel_that_cannot_be_imported_is_named() -> None:
    def load() -> Any:
        raise ModuleNotFoundError("No module named 'extra'")

    catalog = ProviderCatalog(claims=[claim("acme", "wheel-a", load=load), claim("odd", load=lambda: 5)])
    with pytest.raises(NotBoundError, match=r"wheel-a.*'extra'"):
        catalog.resolve("acme:m")
    with pytest.raises(KodeError, match="not callable"):
        catalog.resolve("odd:m")


def test_reads_the_entry_points_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        asked.append(group)
        return [metadata.EntryPoint("acme", "kode.core.provider.scripted:ScriptedProvider", group)]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    catalog = ProviderCatalog()
    assert asked == []
    assert catalog.names() == ("acme",)
    assert catalog.resolve("acme:m").model == "m"
    assert asked == ["kode.provider"]
