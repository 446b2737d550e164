"""What clients send. Fields that change nothing here are left out, and ignored as vLLM ignores unknown ones."""

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from moa_simulator.protocol.errors import RefusalError

Count = Annotated[int, Meta(ge=1)]


class Url(msgspec.Struct):
    """Where an image is."""

    url: str


class Part(msgspec.Struct, omit_defaults=True):
    """A piece of a message's content."""

    type: str
    text: str = ""
    image_url: Url | str | None = None


class Function(msgspec.Struct, omit_defaults=True):
    """A tool's function."""

    name: str
    description: str | None = None
    parameters: dict[str, object] | None = None


class Tool(msgspec.Struct):
    """A tool on offer."""

    function: Function
    type: str = "function"


class CalledFunction(msgspec.Struct):
    """What an earlier turn called."""

    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct):
    """A tool call of an earlier turn."""

    function: CalledFunction
    id: str = ""
    type: str = "function"


class Message(msgspec.Struct):
    """One turn."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class FunctionName(msgspec.Struct):
    """The function a named choice names."""

    name: str


class NamedTool(msgspec.Struct):
    """The tool that must be called."""

    function: FunctionName
    type: Literal["function"] = "function"


class JsonSchema(msgspec.Struct):
    """A schema and its name."""

    name: str
    schema: dict[str, object] | None = None


class ResponseFormat(msgspec.Struct):
    """What the answer must look like."""

    type: str
    json_schema: JsonSchema | None = None


class StructuredOutputs(msgspec.Struct):
    """vLLM's own way to ask for a format."""

    json: dict[str, object] | str | None = None
    json_object: bool | None = None


class StreamOptions(msgspec.Struct):
    """How a stream reports usage."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class Sampling(msgspec.Struct, kw_only=True):
    """What chat and plain completions share."""

    model: str = ""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Count | None = 1
    seed: int | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    max_tokens: Count | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: str | list[str] | None = None

    @property
    def choices(self) -> int:
        """How many choices are asked for."""
        return self.n or 1

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream ends with usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage_wanted(self) -> bool:
        """Whether every chunk carries usage; vLLM heeds it only together with `include_usage`."""
        return self.usage_wanted and bool(self.stream_options and self.stream_options.continuous_usage_stats)


class ChatRequest(Sampling, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]
    max_completion_tokens: Count | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, object] | str | None = None
    tools: list[Tool] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = True
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = 0
    chat_template_kwargs: dict[str, object] | None = None
    include_reasoning: bool = True

    @property
    def output_limit(self) -> int | None:
        """The most tokens a choice may have."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Sampling, kw_only=True):
    """`POST /v1/completions`."""

    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    echo: bool = False

    @property
    def output_limit(self) -> int | None:
        """The most tokens a choice may have (the API's default is 16)."""
        return self.max_tokens or 16


class EmbeddingRequest(msgspec.Struct):
    """`POST /v1/embeddings`."""

    input: str | list[str | int | list[int]]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Count | None = None


class TokenizeRequest(msgspec.Struct):
    """`POST /tokenize`: a prompt, or a conversation."""

    model: str = ""
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    return_token_strs: bool | None = False


class Envelope(msgspec.Struct):
    """What rules look at; read from any body, however wrong the rest is."""

    model: Raw | UnsetType = UNSET
    stream: Raw | UnsetType = UNSET
    n: Raw | UnsetType = UNSET


class Asked(msgspec.Struct, frozen=True):
    """The request's key facts, as far as the body tells."""

    model: str = ""
    stream: bool = False
    n: int = 1


_Body = TypeVar("_Body")

_envelope = msgspec.json.Decoder(Envelope)
_any = msgspec.json.Decoder()
chat_decoder = msgspec.json.Decoder(ChatRequest)
completion_decoder = msgspec.json.Decoder(CompletionRequest)
embedding_decoder = msgspec.json.Decoder(EmbeddingRequest)
tokenize_decoder = msgspec.json.Decoder(TokenizeRequest)


def glance(body: bytes) -> Asked:
    """Reads the key facts off a body that may be anything."""
    try:
        envelope = _envelope.decode(body)
    except msgspec.MsgspecError:
        return Asked()
    model, stream, n = (
        None if isinstance(raw, UnsetType) else _any.decode(raw)
        for raw in (envelope.model, envelope.stream, envelope.n)
    )
    return Asked(
        model if isinstance(model, str) else "",
        stream is True,
        n if isinstance(n, int) else 1,
    )


def parse(decoder: msgspec.json.Decoder[_Body], body: bytes) -> _Body:
    """Reads a body.

    Raises:
        RefusalError: It is not JSON, or not of the decoder's type.
    """
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise RefusalError(400, str(error), "Bad Request") from None
