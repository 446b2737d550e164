"""A chat completion request: parsed once, unknown fields kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import orjson

from moa_router.fusion.conversation import Conversation
from moa_router.fusion.errors import APIError, bad_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moa_router.upstream.failure import Feature

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])

#: Fields the router speaks for itself; everything else of the client's reaches the final call as it came.
OWN_FIELDS = frozenset({"model", "messages", "stream", "stream_options"})

#: Fields that shape the prompt rather than the answer: a panel call carries them too, or its prompt would differ
#: from the aggregator's from the first token on (templates render tools first).
PROMPT_FIELDS = (
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "chat_template",
    "chat_template_kwargs",
    "documents",
    "mm_processor_kwargs",
)

MAX_CHOICES = 128


class ChatRequest:
    """What the client asks.

    Attributes:
        model: the model name, as sent.
        conversation: its `messages`.
        fields: raw JSON of every other field, in the client's order.
        stream: whether the answer is to be streamed.
        include_usage: whether a streamed answer is to end with a usage chunk.
        choices: the client's `n`.
        has_tools: whether the aggregator may call tools.
        wants: what whoever answers must be able to do.
    """

    __slots__ = ("choices", "conversation", "fields", "has_tools", "include_usage", "model", "stream", "wants")

    def __init__(
        self,
        model: str,
        conversation: Conversation,
        fields: Mapping[str, bytes],
        *,
        stream: bool,
        include_usage: bool,
        choices: int,
        has_tools: bool,
    ) -> None:
        self.model = model
        self.conversation = conversation
        self.fields = fields
        self.stream = stream
        self.include_usage = include_usage
        self.choices = choices
        self.has_tools = has_tools
        self.wants = self._wants()

    def _wants(self) -> tuple[Feature, ...]:
        wanted: list[Feature] = []
        if self.conversation.has_images:
            wanted.append("Vision")
        if self.has_tools:
            wanted.append("Tools")
        if self.choices > 1:
            wanted.append("MultipleChoices")
        if "response_format" in self.fields and b'"json' in self.fields["response_format"]:
            wanted.append("StructuredOutput")
        return tuple(wanted)


def parse_chat(body: bytes, max_depth: int) -> ChatRequest:
    """Parse the body of `POST /v1/chat/completions`.

    Raises:
        APIError: 400, naming the field at fault.
    """
    document = parse_object(body, max_depth)
    model = _model(document)
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request("'messages' must be a non-empty array of messages.", "messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise bad_request(f"'messages[{index}]' must be an object with a 'role'.", f"messages[{index}]")
    stream = "stream" in document and _flag(document, "stream")
    raw = _FIELDS.decode(body)
    return ChatRequest(
        model,
        Conversation(bytes(raw["messages"]), messages),
        {name: bytes(value) for name, value in raw.items() if name not in OWN_FIELDS},
        stream=stream,
        include_usage="stream_options" in document and _include_usage(document, stream=stream),
        choices=_choices(document) if "n" in document else 1,
        has_tools=bool(document.get("tools") or document.get("functions")),
    )


def parse_object(body: bytes, max_depth: int) -> dict[str, object]:
    """Parse a body that must be a JSON object of bounded depth.

    Raises:
        APIError: 400 when it is not.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(
            f"The body is not valid JSON: {error.msg} (at byte {error.pos}).", code="invalid_json"
        ) from None
    if not isinstance(document, dict):
        raise bad_request("The body must be a JSON object.", code="invalid_json")
    # counting brackets is an upper bound of the depth, and nearly free
    if body.count(b"{") + body.count(b"[") > max_depth and _depth(document, max_depth) > max_depth:
        raise bad_request(f"The body is nested deeper than {max_depth} levels.", code="invalid_json")
    return document


def _depth(document: object, limit: int) -> int:
    depth, level = 0, [document]
    while level and depth <= limit:
        containers = [value for value in level if isinstance(value, dict | list) and value]
        depth += 1
        level = [child for value in containers for child in (value.values() if isinstance(value, dict) else value)]
        level = [value for value in level if isinstance(value, dict | list)]
    return depth


def _model(document: Mapping[str, object]) -> str:
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise bad_request("'model' must name a model.", "model")
    return model


def _flag(document: Mapping[str, object], name: str, where: str = "") -> bool:
    value = document.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise bad_request(f"'{where}{name}' must be true or false.", f"{where}{name}")


def _include_usage(document: Mapping[str, object], *, stream: bool) -> bool:
    options = document.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise bad_request("'stream_options' is only allowed when 'stream' is true.", "stream_options")
    if not isinstance(options, dict):
        raise bad_request("'stream_options' must be an object.", "stream_options")
    wanted = [_flag(options, name, "stream_options.") for name in ("include_usage", "continuous_usage_stats")]
    return any(wanted)


def _choices(document: Mapping[str, object]) -> int:
    n = document.get("n")
    if n is None:
        return 1
    if type(n) is not int or not 1 <= n <= MAX_CHOICES:
        raise bad_request(f"'n' must be an integer from 1 to {MAX_CHOICES}.", "n")
    return n


__all__ = ["OWN_FIELDS", "PROMPT_FIELDS", "APIError", "ChatRequest", "parse_chat", "parse_object"]
