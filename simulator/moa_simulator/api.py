"""From a request to a generation: what is refused, what the prompt is, what will be answered."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from moa_simulator.config import ModelConfig
from moa_simulator.generate import plan_chat, plan_completion
from moa_simulator.protocol.answer import Answer, Generation
from moa_simulator.protocol.chat import ChatAnswer
from moa_simulator.protocol.completions import CompletionAnswer, prompts_of
from moa_simulator.protocol.embeddings import EmbeddingAnswer
from moa_simulator.protocol.errors import (
    RefusalError,
    context_overflow,
    no_images,
    no_structured_output,
    no_tools,
    one_choice_only,
)
from moa_simulator.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    NamedTool,
    Sampling,
    chat_decoder,
    completion_decoder,
    embedding_decoder,
)
from moa_simulator.rules import Action
from moa_simulator.template import is_image, render

_AnyRequest = TypeVar("_AnyRequest", bound=Sampling | EmbeddingRequest)


@dataclass(slots=True, frozen=True)
class Endpoint(Generic[_AnyRequest]):
    """A path that generates.

    Attributes:
        id_prefix: How its answers' ids begin.
        decoder: Reads its bodies.
        answer: Plans the answer; raises `RefusalError`.
    """

    id_prefix: str
    decoder: msgspec.json.Decoder[_AnyRequest]
    answer: Callable[[ModelConfig, _AnyRequest, str, Action], Answer]


def _chat_answer(model: ModelConfig, request: ChatRequest, answer_id: str, script: Action) -> Answer:
    _check_choices(model, request)
    _check_chat(model, request)
    tools = () if request.tool_choice == "none" else request.tools or ()
    prompt = render(request.messages, tools, model.image_tokens)
    limit = _limit(model, len(prompt), request.output_limit)
    choices = plan_chat(model, request, prompt, limit, script)
    generation = Generation(
        model, answer_id, int(time.time()), (prompt,), choices, usage_reported=not script.missing_usage
    )
    return ChatAnswer(generation, request)


def _completion_answer(model: ModelConfig, request: CompletionRequest, answer_id: str, script: Action) -> Answer:
    _check_choices(model, request)
    prompts = prompts_of(request.prompt)
    longest = max(map(len, prompts), default=0)
    limit = _limit(model, longest, request.output_limit)
    choices = plan_completion(model, request, prompts, limit, script)
    generation = Generation(
        model, answer_id, int(time.time()), prompts, choices, usage_reported=not script.missing_usage
    )
    return CompletionAnswer(generation, request)


def _embedding_answer(model: ModelConfig, request: EmbeddingRequest, answer_id: str, script: Action) -> Answer:
    prompts = prompts_of(request.input)
    _limit(model, max(map(len, prompts), default=0), 0)
    generation = Generation(model, answer_id, int(time.time()), prompts, [], usage_reported=not script.missing_usage)
    return EmbeddingAnswer(generation, request)


CHAT = Endpoint("chatcmpl-", chat_decoder, _chat_answer)
COMPLETIONS = Endpoint("cmpl-", completion_decoder, _completion_answer)
EMBEDDINGS = Endpoint("embd-", embedding_decoder, _embedding_answer)


def _check_choices(model: ModelConfig, request: Sampling) -> None:
    if request.choices > 1 and not model.multiple_choices:
        raise one_choice_only()


def _check_chat(model: ModelConfig, request: ChatRequest) -> None:
    if not request.messages:
        raise RefusalError(400, "messages must not be empty", param="messages")
    if not model.vision and _has_images(request):
        raise no_images(model.name)
    if not model.structured_output and _wants_structure(request):
        raise no_structured_output()
    if request.tools and not model.tools and request.tool_choice != "none":
        raise no_tools(request.tool_choice if isinstance(request.tool_choice, str) else "auto")
    if isinstance(request.tool_choice, NamedTool):
        _check_named(request.tool_choice.function.name, [tool.function.name for tool in request.tools or ()])


def _check_named(name: str, offered: Sequence[str]) -> None:
    if name not in offered:
        raise RefusalError(
            400, f"The tool specified in `tool_choice` does not match any of the specified `tools`: {name}"
        )


def _has_images(request: ChatRequest) -> bool:
    return any(
        is_image(part)
        for message in request.messages
        if message.content is not None and not isinstance(message.content, str)
        for part in message.content
    )


def _wants_structure(request: ChatRequest) -> bool:
    form = request.response_format
    return bool(request.guided_json or request.structured_outputs or (form is not None and form.type != "text"))


def _limit(model: ModelConfig, prompt: int, asked: int | None) -> int:
    """Finds the most tokens a choice may have."""
    room = model.max_model_len - prompt
    if room < (1 if asked is None else asked):
        raise context_overflow(model.max_model_len, prompt, asked or 0)
    return room if asked is None else asked
