"""Requests are parsed once, and refused with the field at fault."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa_router.fusion.errors import APIError
from moa_router.fusion.request import MAX_CHOICES, parse_chat, parse_object

HELLO = [{"role": "user", "content": "hello"}]


def encode(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": HELLO, **fields}).encode()


def refusal(body: bytes, depth: int = 64) -> APIError:
    with pytest.raises(APIError) as caught:
        parse_chat(body, depth)
    assert caught.value.status == 400
    return caught.value


def test_fields_keep_their_bytes_and_order() -> None:
    body = b'{"model":"m","top_k" : 1.50,"messages":[{"role":"user","content":"x"}],"x":{"b":1, "a":"\\u00e9"}}'
    request = parse_chat(body, 64)
    assert list(request.fields.items()) == [("top_k", b"1.50"), ("x", b'{"b":1, "a":"\\u00e9"}')]
    assert request.conversation.raw == b'[{"role":"user","content":"x"}]'


def test_what_the_router_speaks_for_itself_is_no_field() -> None:
    request = parse_chat(encode(stream=True, stream_options={"include_usage": True}, user="u"), 64)
    assert set(request.fields) == {"user"}
    assert request.stream
    assert request.include_usage


def test_of_a_field_given_twice_the_last_counts_everywhere() -> None:
    body = b"""{"model":"a","messages":[{"role":"user","content":"1"}],"n":1,
                "model":"b","messages":[{"role":"user","content":"2"}],"n":2}"""
    request = parse_chat(body, 64)
    assert (request.model, request.choices, request.fields["n"]) == ("b", 2, b"2")
    assert b'"2"' in request.conversation.raw


@pytest.mark.parametrize("usage", ["include_usage", "continuous_usage_stats"])
def test_usage_is_included_only_when_asked_for(usage: str) -> None:
    assert parse_chat(encode(stream=True, stream_options={usage: True}), 64).include_usage
    assert not parse_chat(encode(stream=True, stream_options={usage: False}), 64).include_usage
    assert not parse_chat(encode(stream=True), 64).include_usage


@pytest.mark.parametrize(("n", "choices"), [(None, 1), (1, 1), (5, 5), (MAX_CHOICES, MAX_CHOICES)])
def test_choices(n: int | None, choices: int) -> None:
    assert parse_chat(encode(n=n), 64).choices == choices


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [*HELLO, "hello"]}, "messages[1]"),
        ({"messages": [{"content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": 1, "content": "x"}]}, "messages[0]"),
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"n": 0}, "n"),
        ({"n": MAX_CHOICES + 1}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": "2"}, "n"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, object], param: str) -> None:
    error = refusal(encode(**fields))
    assert error.param == param
    assert f"'{param}'" in error.message


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b'{"model":NaN}', b'{"x":"\\ud800"}', b"{}{}"]
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    assert refusal(body).code == "invalid_json"


nested = st.recursive(
    st.none() | st.text(alphabet="[]{}x", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=20,
)


def depth_of(value: object) -> int:
    """Levels of containers; an empty one inside another is as flat as a scalar."""
    if isinstance(value, dict | list) and value:
        children = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth_of, children))
    return 1 if isinstance(value, dict | list) else 0


@given(st.dictionaries(st.text(max_size=2), nested, max_size=3), st.integers(1, 8))
def test_depth_is_bounded_exactly(document: dict[str, object], limit: int) -> None:
    body = json.dumps(document).encode()
    if depth_of(document) <= limit:
        assert parse_object(body, limit) == document
    else:
        with pytest.raises(APIError, match="nested deeper"):
            parse_object(body, limit)


def test_endless_depth_costs_no_stack() -> None:
    assert refusal(b'{"a":' * 100_000 + b"1" + b"}" * 100_000).code == "invalid_json"
