"""Rules of the wire: errors are OpenAI errors, and nothing an upstream wrote is in them."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from tests.router.wire.harness import (
    AGGREGATOR_TEMPERATURE,
    PANEL_TEMPERATURE,
    QWEN,
    Json,
    Profile,
    Router,
    Simulator,
    StartRouter,
    asked,
)

PANEL = {"contains": f'"temperature":{PANEL_TEMPERATURE}'}
FINAL = {"contains": f'"temperature":{AGGREGATOR_TEMPERATURE}'}
WORDS = "Traceback: s3cret w0rds of /srv/vllm at 10.0.0.7"
BOTH = pytest.mark.parametrize("streamed", [True, False])


def refusing(code: int, match: Json | None = None, **error: Any) -> Json:
    body = {"error": {"message": WORDS, "type": WORDS, "code": WORDS, "param": None, **error}}
    headers = {"x-upstream": WORDS, "set-cookie": "s3cret=1", "www-authenticate": "Basic realm=s3cret"}
    return {"match": match or {}, "action": {"status": {"code": code, "body": body, "headers": headers}}}


def error_of(router: Router, request: Json, *, streamed: bool) -> tuple[int, Json, str]:
    """Status (200 for an error inside a stream), error object, and everything the client saw."""
    reply = router.post({**request, "stream": streamed})
    seen = reply.body.decode() + str(reply.headers)
    if reply.headers["content-type"] == "application/json":
        return reply.status, reply.error, seen
    events = [event for event in reply.body.decode().split("\n\n") if event.startswith("data: ")]
    document = json.loads(events[-1].removeprefix("data: "))
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "code", "param"}
    assert "[DONE]" not in seen
    assert '"finish_reason":"' not in seen
    return reply.status, document["error"], seen


# -- from upstreams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 529])
@pytest.mark.parametrize("model", ["research", "research:single", "research:first", "qwen"])
@BOTH
def test_no_upstream_text_is_relayed(
    small: Router, simulator: Simulator, code: int, model: str, *, streamed: bool
) -> None:
    simulator.rules(refusing(code))
    status, error, seen = error_of(small, {**asked(), "model": model}, streamed=streamed)
    expected = {400: 400, 422: 400, 429: 429}.get(code, 502)
    kind = {400: "invalid_request_error", 429: "rate_limit_error", 502: "api_error"}[expected]
    assert status == (200 if streamed and model in {"research", "research:first"} else expected)
    assert error["type"] == kind
    assert "qwen" in error["message"]
    assert str(code) in error["message"]
    assert error["param"] is None
    for word in ("s3cret", "w0rds", "vllm", "10.0.0.7"):
        assert word not in seen
        assert word not in small.log()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nnot s3cret {", "qwen"),
        ("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}", "qwen"),
        ('HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n[{"s3cret":1}]', "qwen"),
        ("s3cret is not HTTP\r\n\r\n", "not HTTP"),
        ("HTTP/1.1 302 Found\r\nlocation: http://s3cret/\r\ncontent-length: 0\r\n\r\n", "302"),
    ],
)
@pytest.mark.parametrize("model", ["research", "qwen"])
@BOTH
def test_nonsense_is_not_relayed(
    small: Router, simulator: Simulator, raw: str, reason: str, model: str, *, streamed: bool
) -> None:
    simulator.rules({"action": {"raw": {"pieces": [{"text": raw}]}}})
    status, error, seen = error_of(small, {**asked(), "model": model}, streamed=streamed)
    assert status == (200 if streamed and model == "research" else 502)
    assert error["type"] == "api_error"
    assert reason in error["message"]
    assert "s3cret" not in seen
    assert "s3cret" not in small.log()


@pytest.mark.parametrize(
    ("param", "shown"),
    [
        ("top_k", "top_k"),
        ("messages[0].content", "messages[0].content"),
        ("s3cret_engine_option", None),
        ("top_k is s3cret", None),
        ("model", None),
    ],
)
@pytest.mark.parametrize("model", ["research", "qwen"])
def test_a_refused_field_is_named_if_it_is_the_clients(
    small: Router, simulator: Simulator, param: str, shown: str | None, model: str
) -> None:
    simulator.rules(refusing(400, param=param))
    status, error, seen = error_of(small, {**asked(top_k=-5), "model": model}, streamed=False)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", shown)
    assert "qwen" in error["message"]
    assert "s3cret" not in seen


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (400, openai.BadRequestError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_the_sdk_raises_its_own_classes(
    small: Router, simulator: Simulator, code: int, expected: type[openai.APIStatusError]
) -> None:
    simulator.rules(refusing(code))
    with pytest.raises(expected) as caught:
        small.openai.chat.completions.create(**asked())
    assert isinstance(caught.value.body, dict)
    assert caught.value.request_id


# -- the prompt is too long --------------------------------------------------------------------------------------------

LONG = "word " * 600
UPSTREAMS: list[Json] = [{"name": "small", "model": "small"}, {"name": "qwen", "model": QWEN}]
CRAMPED: list[Json] = [{"upstream": "small", "samples": 2, "temperature": PANEL_TEMPERATURE}]


@pytest.mark.parametrize("model", ["research", "research:single", "research:first", "small"])
@BOTH
def test_a_prompt_too_long_is_called_so(
    router: StartRouter, profile: Profile, simulator: Simulator, model: str, *, streamed: bool
) -> None:
    cramped = router(
        profile(upstreams=UPSTREAMS, panel={"members": CRAMPED, "quorum": 1}, aggregator={"upstream": "small"})
    )
    status, error, _ = error_of(cramped, {**asked(LONG), "model": model}, streamed=streamed)
    assert status == (200 if streamed and model in {"research", "research:first"} else 400)
    assert error["code"] == "context_length_exceeded"
    assert error["type"] == "invalid_request_error"
    assert error["param"] == "messages"
    assert "small" in error["message"]
    assert simulator.settled()


def test_a_prompt_too_long_for_some_is_answered_by_the_others(router: StartRouter, profile: Profile) -> None:
    members = [*CRAMPED, {"upstream": "qwen", "temperature": PANEL_TEMPERATURE}]
    mixed = router(profile(upstreams=UPSTREAMS, panel={"members": members, "quorum": 1}))
    answer: Any = mixed.openai.chat.completions.create(**asked(LONG))
    assert answer.moa["panel"] == {"asked": 3, "answered": 1, "quorum": 1}


def test_a_prompt_too_long_for_the_aggregator_leaves_the_best_candidate(router: StartRouter, profile: Profile) -> None:
    late = router(profile(upstreams=UPSTREAMS, aggregator={"upstream": "small"}))
    answer: Any = late.openai.chat.completions.create(**asked(LONG))
    assert answer.moa["degraded"] == ["aggregator"]


# -- routes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/", "/v2/chat/completions", "/v1/chat/completions/", "/metrics", "/v1/model",
     "/v1/../v1/nothing", "/v1/chat/completion?x=" + "y" * 2000, "//v1/models"],
)  # fmt: skip
@pytest.mark.parametrize("body", [None, "{}"])
def test_an_unknown_path_is_a_404(small: Router, path: str, body: str | None) -> None:
    reply = small.get(path) if body is None else small.post(body, path=path)
    assert reply.status == 404
    assert (reply.error["type"], reply.error["code"]) == ("not_found_error", "not_found")
    assert len(reply.body) < 500


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/chat/completions?x=1", "POST"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("PATCH", "/v1/models/research", "GET"),
    ],
)
def test_a_wrong_method_is_a_405(small: Router, method: str, path: str, allow: str) -> None:
    reply = small.post(b"", path=path, method=method)
    assert reply.status == 405
    assert reply.error["code"] == "method_not_allowed"
    assert reply.error["type"] == "invalid_request_error"
    assert reply.headers["allow"] == allow


def test_a_refusal_that_is_not_about_choices_does_not_end_them(small: Router, simulator: Simulator) -> None:
    simulator.rules(refusing(400))
    assert small.post(asked()).status == 400
    simulator.reset()
    assert small.post(asked()).status == 200
    assert [call.n for call in simulator.panel()] == [3]


def test_the_sdk_knows_unknown_routes(small: Router) -> None:
    with pytest.raises(openai.NotFoundError):
        small.openai.images.generate(prompt="a cat", model="research")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/models"), ("GET", "/v1/models/nobody"), ("GET", "/nothing"), ("POST", "/v1/models"),
     ("POST", "/v1/chat/completions")],
)  # fmt: skip
def test_every_answer_has_a_request_id(small: Router, method: str, path: str) -> None:
    body = b"{" if method == "POST" else None
    assert small.post(body or b"", {"x-request-id": "mine-7"}, path, method).headers["x-request-id"] == "mine-7"
    minted = [small.post(body or b"", {"x-request-id": "not fit!"}, path, method).headers["x-request-id"] for _ in "ab"]
    assert len({*minted, "not fit!"}) == 3


def test_errors_leave_the_connection_in_use(small: Router, simulator: Simulator) -> None:
    place = urlsplit(small.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
    try:
        for method, path, body, status in [
            ("POST", "/v1/chat/completions", b"{", 400),
            ("GET", "/nothing", None, 404),
            ("HEAD", "/v1/models", None, 405),
            ("PUT", "/v1/models", b"x" * 100_000, 405),
            ("POST", "/v1/chat/completions", b'{"model":"nobody","messages":[{"role":"user"}]}', 404),
            ("POST", "/v1/chat/completions", json.dumps(asked()).encode(), 200),
        ]:
            connection.request(method, path, body)
            response = connection.getresponse()
            content = response.read()
            assert response.status == status
            assert json.loads(content or b"{}") is not None
            assert response.headers["date"]
    finally:
        connection.close()
    assert len(simulator.settled()) == 2
