"""The taxonomy of failures, and that requests keep their secrets."""

from __future__ import annotations

import pickle

import pytest

from kode.core.errors import ProviderError, ProviderUnavailableError, UsageError
from kode.core.jsontext import dump
from kode.core.kernel.message import Message, TextBlock, Usage
from kode.core.kernel.words import StopReason
from kode.core.provider import (
    FAILURES,
    MediaFile,
    ModelRequest,
    Prices,
    SystemPart,
    provider_error,
    retry_after_s,
    stop_for,
)


@pytest.mark.parametrize("code", FAILURES)
def test_the_class_says_whether_to_try_again(code: str) -> None:
    error = provider_error(code, "text", provider="acme", status=500, request_id=None)
    assert isinstance(error, ProviderUnavailableError) == error.retryable == FAILURES[code].retryable
    assert error.fields == {"provider": "acme", "status": 500}
    assert stop_for(error) is FAILURES[code].stop
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.code, back.fields, str(back)) == (type(error), code, error.fields, "text")


def test_a_vendor_may_overrule_the_table() -> None:
    assert not provider_error("rate_limited", "x", retryable=False).retryable
    assert provider_error("quota", "x", retryable=True).retryable
    assert retry_after_s(provider_error("rate_limited", "x", retry_after_s=1.5)) == 1.5
    assert retry_after_s(provider_error("rate_limited", "x")) is None


def test_stop_reasons() -> None:
    assert stop_for(provider_error("context_too_long", "x")) is StopReason.CONTEXT_TOO_LONG
    assert stop_for(provider_error("content_filtered", "x")) is StopReason.CONTENT_FILTER
    assert stop_for(ProviderError("x", code="other")) is StopReason.PROVIDER_ERROR


def test_an_unknown_code_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'oops'.*rate_limited"):
        provider_error("oops", "x")


def test_a_request_shows_no_secret_and_no_history() -> None:
    request = ModelRequest(
        "m",
        (Message(0, "user", (TextBlock("canary"),), 0),),
        system="canary",
        metadata={"user": "canary"},
        extra_headers={"authorization": "canary"},
        extra_body=dump({"key": "canary"}),
    )
    assert "canary" not in repr(request)
    assert "canary" not in repr(MediaFile("file", "text/plain", b"canary"))


def test_the_system_prompt_in_parts() -> None:
    parts = (SystemPart("a", "long"), SystemPart("b"))
    assert ModelRequest("m", (), system=parts).system_parts == parts
    assert ModelRequest("m", (), system="a").system_parts == (SystemPart("a"),)
    assert ModelRequest("m", ()).system_parts == ()


def test_prices_bill_cached_input_once() -> None:
    usage = Usage(input=1_000, output=100, cache_read=600, cache_write=200, reasoning=50)
    # 200 fresh, 600 read, 200 written, 100 out
    assert Prices(3, 15, 0.3, 3.75).priced(usage).cost_nanos == (600 + 180 + 750 + 1_500) * 1_000
    assert Prices(3, 15).priced(usage).cost_nanos == (3_000 + 1_500) * 1_000
    assert Prices().priced(usage) == usage
