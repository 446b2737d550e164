"""What servers say when they refuse, in their own wordings, and what the router makes of it.

The wordings are those of vLLM 0.6 to 0.11, SGLang 0.4 and 0.5, llama.cpp's server of 2024 and 2025, TGI 1 to 3 and the
OpenAI API, as their users quote them in bug reports.
"""

import time
from email.utils import formatdate

import orjson
import pytest

from moa_router.telemetry.names import CallOutcome
from moa_router.upstream.failure import (
    MAX_RETRY_AFTER,
    Failure,
    Feature,
    from_error,
    from_response,
    from_transport,
    parse_retry_after,
)
from moa_router.upstream.transport import ErrorKind, TransportError


def respond(status: int, body: object, **headers: str) -> Failure:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return from_response(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def openai(message: str, **more: object) -> dict[str, object]:
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400, **more}}


def flat(message: str) -> dict[str, object]:
    """SGLang, and vLLM before 0.10."""
    return {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}


def tgi(message: str) -> dict[str, object]:
    return {"error": f"Input validation error: {message}", "error_type": "validation"}


OVERFLOWS = [
    (
        400,
        flat(
            "This model's maximum context length is 16384 tokens. However, you requested 122946 tokens (112946 in the "
            "messages, 10000 in the completion). Please reduce the length of the messages or completion."
        ),
    ),
    (
        400,
        openai(
            "'max_tokens' or 'max_completion_tokens' is too large: 40000. This model's maximum context length is 32768 "
            "tokens and your request has 12 input tokens (40000 > 32768 - 12)."
        ),
    ),
    (
        400,
        openai(
            "The decoder prompt (length 9000) is longer than the maximum model length of 8192. Make sure that "
            "`max_model_len` is no smaller than the number of text tokens plus multimodal tokens."
        ),
    ),
    (400, flat("The input (61709 tokens) is longer than the model's context length (40960 tokens).")),
    (
        400,
        openai(
            "Requested token count exceeds the model's maximum context length of 202752 tokens. You requested a total "
            "of 202941 tokens: 170941 tokens from the input messages and 32000 tokens for the completion."
        ),
    ),
    (
        400,
        {
            "error": {
                "code": 400,
                "message": "request (14429 tokens) exceeds the available context size (8192 tokens), try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 14429,
                "n_ctx": 8192,
            }
        },
    ),
    (
        500,
        {
            "error": {
                "code": 500,
                "message": "the request exceeds the available context size. try increasing the context size or enable "
                "context shift",
                "type": "exceed_context_size_error",
            }
        },
    ),
    (
        422,
        tgi(
            "`inputs` tokens + `max_new_tokens` must be <= 1512. Given: 1000 `inputs` tokens and 1024 `max_new_tokens`"
        ),
    ),
    (422, tgi("`inputs` must have less than 4096 tokens. Given: 4545")),
    (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 4097 tokens. However, your messages resulted in "
                "6988 tokens. Please reduce the length of the messages.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
    ),
    (
        400,
        {
            "error": {
                "message": "Your input exceeds the context window of this model.",
                "code": "context_length_exceeded",
            }
        },
    ),
    (400, openai("prompt is too long: 210000 tokens > 200000 maximum")),
    (413, b"<html>Request Entity Too Large</html>"),
]


@pytest.mark.parametrize(("status", "body"), OVERFLOWS)
def test_a_prompt_that_does_not_fit_is_known_as_such(status: int, body: object) -> None:
    failure = respond(status, body)
    assert failure.context_overflow
    assert failure.outcome == "client_error"
    assert failure.refused is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, openai("Invalid 'user': string too long. Expected a string with maximum length 64.", param="user")),
        (400, openai("max_tokens must be at least 1, got -186.")),
        (
            400,
            openai("Invalid 'temperature': decimal above maximum value. Expected a value <= 2.", param="temperature"),
        ),
        (500, openai("CUDA out of memory while allocating the context window")),
        (503, openai("The server is overloaded")),
    ],
)
def test_other_limits_are_no_overflow(status: int, body: object) -> None:
    assert not respond(status, body).context_overflow


REFUSALS: list[tuple[int, object, Feature]] = [
    (400, openai("Qwen/Qwen3-32B is not a multimodal model"), "Vision"),
    (400, openai("At most 0 image(s) may be provided in one prompt."), "Vision"),
    (
        500,
        {"error": {"code": 500, "message": "image input is not supported by this server", "type": "server_error"}},
        "Vision",
    ),
    (
        500,
        openai("image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"),
        "Vision",
    ),
    (
        400,
        openai('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
        "Tools",
    ),
    (500, {"error": {"code": 500, "message": "tools param requires --jinja flag", "type": "server_error"}}, "Tools"),
    (500, {"error": {"code": 500, "message": "Unsupported param: tools", "type": "server_error"}}, "Tools"),
    (400, {"error": "registry.example/gemma3 does not support tools"}, "Tools"),
    (400, openai("Structured outputs are not supported by this model", param="response_format"), "StructuredOutput"),
    (400, openai("Failed to parse grammar"), "StructuredOutput"),
    (400, openai("Invalid parameter: 'response_format' of type 'json_schema' is not supported."), "StructuredOutput"),
    (400, openai("Only one completion choice is allowed"), "MultipleChoices"),
    (400, openai("n must be 1 when using greedy sampling, got 3."), "MultipleChoices"),
    (400, openai("Unknown parameter: 'stream_options.continuous_usage_stats'."), "UsageStream"),
    (
        422,
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs"}]},
        "UsageStream",
    ),
]


@pytest.mark.parametrize(("status", "body", "feature"), REFUSALS)
def test_a_refused_feature_is_known(status: int, body: object, feature: Feature) -> None:
    assert respond(status, body).refused == feature


@pytest.mark.parametrize(
    "message",
    [
        "temperature must be non-negative",
        "Unknown revision of the model",
        "division by zero",
        "top_k must be -1 (disable), or at least 1, got 0.",
        "The model `x` does not exist.",
    ],
)
def test_other_words_are_no_refusal(message: str) -> None:
    assert respond(400, openai(message)).refused is None


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, "client_error"),
        (401, "server_error"),
        (403, "server_error"),
        (404, "server_error"),
        (408, "server_error"),
        (413, "client_error"),
        (422, "client_error"),
        (429, "rate_limited"),
        (500, "server_error"),
        (502, "server_error"),
        (503, "server_error"),
        (307, "server_error"),
    ],
)
@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[1]", b"null", b'"x"', b'{"error":null}', b'{"error":{"message":7}}']
)
def test_the_status_decides_where_the_words_do_not(status: int, outcome: CallOutcome, body: bytes) -> None:
    failure = respond(status, body)
    assert failure.outcome == outcome
    assert failure.status == status


def test_no_word_of_the_upstream_gets_into_the_reason() -> None:
    for status, body in [*OVERFLOWS, *[(status, body) for status, body, _ in REFUSALS]]:
        assert respond(status, body).reason in {
            "cannot hold the prompt in its context window",
            f"answered {status}",
        }
    assert respond(429, openai("SECRET")).reason == "answered 429 (rate limited)"


def test_the_field_at_fault_is_kept_if_it_can_be_one() -> None:
    assert respond(400, openai("no", param="messages[0].content")).param == "messages[0].content"
    for odd in ("two words", "x" * 65, "<script>", "", 7, None, "a\nb"):
        assert respond(400, openai("no", param=odd)).param is None


def test_an_error_inside_a_stream_is_read_like_a_response() -> None:
    details = {"code": 400, "message": "exceeds the available context size", "type": "exceed_context_size_error"}
    assert from_error(400, details).context_overflow
    assert from_error(500, {}).outcome == "server_error"


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("connect", "reset"),
        ("connect_timeout", "timeout"),
        ("tls", "reset"),
        ("reset", "reset"),
        ("invalid", "invalid"),
    ],
)
def test_broken_exchanges(kind: ErrorKind, outcome: CallOutcome) -> None:
    failure = from_transport(TransportError(kind, "MESSAGE"))
    assert failure.outcome == outcome
    assert failure.status is None
    assert "MESSAGE" not in failure.reason


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            (None, None),
            ("7", 7.0),
            ("0.5", 0.5),
            (" 3 ", 3.0),
            ("-1", 0.0),
            ("1e9", MAX_RETRY_AFTER),
            ("inf", MAX_RETRY_AFTER),
            ("nan", None),
            ("soon", None),
            ("", None),
            ("Yesterday, GMT", None),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
            ("Wed, 32 Oct 2015 07:28:00 GMT", None),
        ],
    )
    def test_is_read_as_seconds(self, value: str | None, seconds: float | None) -> None:
        assert parse_retry_after(value) == seconds

    def test_may_be_a_date(self) -> None:
        seconds = parse_retry_after(formatdate(time.time() + 600, usegmt=True))
        assert seconds is not None
        assert 300 < seconds <= 600

    def test_comes_with_the_failure(self) -> None:
        assert respond(429, b"", retry_after="12").retry_after == 12.0
        assert respond(503, b"", retry_after="3").retry_after == 3.0
