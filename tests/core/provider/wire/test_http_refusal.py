"""What a server says when it says no: one reader for the words of all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kode.core.provider.failure import FAILURES
from kode.core.provider.wire.refusal import excerpt, read_refusal, retry_after


def openai(message: str, **more: Any) -> str:
    return json.dumps({"error": {"message": message, "param": None, "code": None, **more}})


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, openai("Incorrect API key provided.", code="invalid_api_key"), "authentication"),
        (403, openai("Country not supported.", code="unsupported_country_region_territory"), "permission"),
        (404, openai("No such model.", code="model_not_found", type="invalid_request_error"), "model_not_found"),
        (400, openai("Bad tool.", type="invalid_request_error"), "bad_request"),
        (400, openai("x", code="context_length_exceeded", type="invalid_request_error"), "context_too_long"),
        (400, openai("Your prompt is too long.", type="invalid_request_error"), "context_too_long"),
        (401, openai("You gave no key.", type="invalid_request_error"), "authentication"),
        (429, openai("Busy.", type="server_error"), "rate_limited"),
        (503, openai("Busy.", code="rate_limit_exceeded"), "overloaded"),
        (400, openai("This model's maximum context length is 8192 tokens, you asked 9000."), "context_too_long"),
        (400, json.dumps({"object": "error", "message": "It exceeds 8 tokens", "code": 400}), "context_too_long"),
        (400, json.dumps({"error": {"code": 400, "type": "exceed_context_size_error"}}), "context_too_long"),
        (413, "too large", "context_too_long"),
        (400, openai("input length and max_tokens exceed context limit: 190000 + 20000 > 200000"), "context_too_long"),
        (400, openai("The prompt exceeds 4096 tokens"), "context_too_long"),
        (400, openai("max_tokens exceeds 4096 tokens allowed"), "bad_request"),
        (400, openai("'max_completion_tokens' is too large: it exceeds the 16384 tokens allowed"), "bad_request"),
        (400, openai("n exceeds the limit of 4096 output tokens"), "bad_request"),
        (400, openai("Filtered.", code="content_filter"), "content_filtered"),
        (429, openai("Too fast.", code="rate_limit_exceeded", type="tokens"), "rate_limited"),
        (429, openai("Too many tokens per minute; reduce the length.", type="requests"), "rate_limited"),
        (429, openai("Pay.", code="insufficient_quota", type="insufficient_quota"), "quota"),
        (402, openai("Pay."), "quota"),
        (422, json.dumps({"detail": [{"loc": ["body"], "msg": "field required"}]}), "bad_request"),
        (404, json.dumps({"detail": "Not Found"}), "model_not_found"),
        (404, json.dumps({"error": "model 'x' not found, try pulling it first"}), "model_not_found"),
        (500, openai("Oops.", type="server_error"), "overloaded"),
        (529, json.dumps({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}), "overloaded"),
        (400, json.dumps({"type": "error", "error": {"message": "prompt is too long"}}), "context_too_long"),
        (400, json.dumps([{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "No."}}]), "bad_request"),
        (503, "<html><body>Service Unavailable</body></html>", "overloaded"),
        (504, "", "timeout"),
        (418, "", "bad_request"),
        (200, json.dumps({"error": {"code": 503, "message": "x"}}), "overloaded"),
        (200, json.dumps({"error": {"code": 401, "message": "x"}}), "authentication"),
        (200, json.dumps({"error": {"type": "invalid_request_error", "message": "x"}}), "bad_request"),
    ],
)  # fmt: skip
def test_codes(status: int, body: str, code: str) -> None:
    refusal = read_refusal(status, body, "application/json")
    assert refusal.code == code
    error = refusal.error("acme", model="m", request_id="r-1")
    assert error.retryable == FAILURES[code].retryable
    assert error.message.startswith("acme refused")


def test_what_a_person_reads() -> None:
    page = "<html><head><style>b{}</style><title>502 Bad&nbsp;Gateway</title></head>"
    page += "<script>x('</b>')</script>\n<b>nginx</b>"
    error = read_refusal(502, page, "text/html").error("acme")
    assert error.message == "acme refused with 502 Bad Gateway: 502 Bad Gateway nginx (text/html)"
    assert read_refusal(500, "").error("acme").message == "acme refused with 500 Internal Server Error: it said nothing"
    assert read_refusal(529, openai("Busy")).error("acme").message == "acme refused with 529: Busy."
    nested = read_refusal(400, json.dumps({"detail": [{"msg": "field required"}]}))
    assert "field required" in nested.text
    assert read_refusal(500, openai("x" * 500)).text == "x" * 199 + "…"
    fields = read_refusal(429, openai("x")).error("acme", model="m", request_id="r", retry_after_s=2.0).fields
    assert fields == {"provider": "acme", "model": "m", "status": 429, "request_id": "r", "retry_after_s": 2.0}


def test_secrets_are_blotted_out() -> None:
    def hide(text: str) -> str:
        return text.replace("sk-canary", "***")

    for body in (openai("Key sk-canary is wrong"), "<p>sk-canary</p>", json.dumps(["sk-canary"]), '{"a": "sk-canary"}'):
        refusal = read_refusal(401, body, "", hide)
        assert "***" in refusal.text
        assert "canary" not in refusal.text


NOW = 1_700_000_000_000_000  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50"}, 30.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:00:00 GMT"}, 0.0),
        ({"retry-after": "Tue, 14 Nov 2023 23:13:50 GMT", "date": "Tue, 14 Nov 2023 23:13:20 GMT"}, 30.0),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after(headers, NOW) == expected


@given(st.text(), st.integers(100, 599), st.text(max_size=10))
def test_any_body_is_read(body: str, status: int, kind: str) -> None:
    refusal = read_refusal(status, body, kind)
    assert refusal.code in FAILURES
    refusal.error("acme")
    assert len(excerpt(body)) <= 200


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["error", "detail", "code", "type", "status", "message"]), inner)
        ),
        max_leaves=8,
    )
)
def test_any_json_is_read(value: Any) -> None:
    assert read_refusal(200, json.dumps(value)).code in FAILURES
