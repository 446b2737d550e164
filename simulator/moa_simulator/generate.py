"""What a model answers: text, reasoning or tool calls, decided entirely by the request.

The same request gets the same answer on every machine; another prompt, seed, temperature or choice index gets another
one, except at temperature 0, where seed and index make no difference (greedy decoding).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from moa_simulator.config import ModelConfig
from moa_simulator.dice import Dice
from moa_simulator.instances import instance
from moa_simulator.protocol.errors import RefusalError
from moa_simulator.protocol.requests import ChatRequest, NamedTool, Sampling, Tool
from moa_simulator.rules import Action, Reply
from moa_simulator.template import text_of
from moa_simulator.tokens import tokenize
from moa_simulator.vocabulary import prose

_ASKED_REASONING: Final = 32
"""Tokens of reasoning where a request asks for it and the model has no length of its own."""


@dataclass(slots=True)
class PlannedCall:
    """A tool call; it costs a token for its name and one for each piece of its arguments."""

    id: str
    name: str
    arguments: list[str]

    @property
    def tokens(self) -> int:
        """How many tokens it takes."""
        return 1 + len(self.arguments)


@dataclass(slots=True)
class Choice:
    """One answer, as tokens.

    Attributes:
        index: Its number.
        content: Its text.
        reasoning: What comes before it.
        calls: What comes after it.
        finish_reason: `stop`, `length` or `tool_calls`.
        stop_reason: The stop string that ended it.
        prompt: Number of the prompt it answers.
    """

    index: int
    content: Sequence[str]
    reasoning: Sequence[str] = ()
    calls: list[PlannedCall] = field(default_factory=list)
    finish_reason: str = "stop"
    stop_reason: str | None = None
    prompt: int = 0

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        called = sum(call.tokens for call in self.calls) if self.calls else 0
        return len(self.content) + len(self.reasoning) + called

    def output(self) -> list[str]:
        """Gives the tokens of reasoning and text in a row, as the key-value cache holds them."""
        return [*self.reasoning, *self.content]

    def cut(self, limit: int) -> None:
        """Ends it at the length limit."""
        if self.tokens <= limit:
            return
        self.finish_reason, self.stop_reason = "length", None
        self.reasoning = self.reasoning[:limit]
        limit -= len(self.reasoning)
        self.content = self.content[:limit]
        limit -= len(self.content)
        kept: list[PlannedCall] = []
        for call in self.calls:
            if limit <= 0:
                break
            call.arguments = call.arguments[: limit - 1]
            limit -= call.tokens
            kept.append(call)
        self.calls = kept


def plan_chat(
    model: ModelConfig, request: ChatRequest, prompt: Sequence[str], limit: int, script: Action
) -> list[Choice]:
    """Decides the answers to a chat request.

    Args:
        model: Who answers.
        request: What was asked.
        prompt: The rendered prompt.
        limit: The most tokens a choice may have.
        script: What a rule has to say about it.

    Raises:
        RefusalError: A schema given as text is not JSON.
    """
    choices: list[Choice] = []
    called = _tools_to_call(request)
    schema = _schema_wanted(request)
    seed = _seed(model, request, prompt)
    for index in range(_count(request, script)):
        dice = _dice(seed, request, index)
        if script.reply is not None:
            choice = _scripted(script.reply, index, dice)
        elif called:
            choice = Choice(
                index, (), calls=[_call(tool, dice) for tool in called], finish_reason=_called_reason(request)
            )
        elif schema is not None:
            choice = Choice(index, tokenize(msgspec.json.encode(instance(schema, dice)).decode()))
        else:
            choice = Choice(index, prose(dice, _length(model, request, limit, dice)))
        if not choice.reasoning:
            choice.reasoning = _reasoning(model, request, dice)
        _finish(choice, request, limit, script)
        choices.append(choice)
    return choices


def plan_completion(
    model: ModelConfig, request: Sampling, prompts: Sequence[Sequence[str]], limit: int, script: Action
) -> list[Choice]:
    """Decides the answers to all prompts of a completion request; otherwise as `plan_chat`."""
    choices: list[Choice] = []
    for number, prompt in enumerate(prompts):
        seed = _seed(model, request, prompt)
        for index in range(_count(request, script)):
            dice = _dice(seed, request, index)
            if script.reply is not None:
                choice = _scripted(script.reply, index, dice)
            else:
                choice = Choice(index, prose(dice, _length(model, request, limit, dice)))
            choice.index, choice.prompt = len(choices), number
            _finish(choice, request, limit, script)
            choices.append(choice)
    return choices


def _count(request: Sampling, script: Action) -> int:
    asked = request.choices
    return asked if script.fewer_choices is None else min(asked, script.fewer_choices)


def _seed(model: ModelConfig, request: Sampling, prompt: Sequence[str]) -> int:
    facts: tuple[object, ...] = () if request.temperature == 0 else (request.seed, request.temperature)
    return Dice.thrown_by(model.name, "".join(prompt), *facts).bits()


def _dice(seed: int, request: Sampling, index: int) -> Dice:
    return Dice(seed if request.temperature == 0 else seed + index * 0x632BE59BD9B4E019)


def _length(model: ModelConfig, request: Sampling, limit: int, dice: Dice) -> int:
    if request.ignore_eos:
        return limit
    drawn = round(model.tokens * (1 + model.tokens_spread * (2 * dice.unit() - 1)))
    return max(1, drawn, request.min_tokens)


def _scripted(reply: Reply, index: int, dice: Dice) -> Choice:
    calls = [PlannedCall(_call_id(dice), call.name, list(tokenize(call.arguments))) for call in reply.tool_calls]
    return Choice(
        index,
        tokenize(reply.words(index)),
        tokenize(reply.reasoning),
        calls,
        finish_reason="tool_calls" if calls else "stop",
    )


def _reasoning(model: ModelConfig, request: ChatRequest, dice: Dice) -> Sequence[str]:
    asked = (request.chat_template_kwargs or {}).get("enable_thinking")
    length = model.reasoning_tokens or (_ASKED_REASONING if asked is True else 0)
    return prose(dice, length) if length and asked is not False else ()


def _finish(choice: Choice, request: Sampling, limit: int, script: Action) -> None:
    if script.huge is not None:
        choice.content = ["x" * int(script.huge.megabytes * 1_048_576)]
    if request.stops and choice.content:
        _stop(choice, request.stops)
    choice.cut(limit)


def _stop(choice: Choice, stops: Sequence[str]) -> None:
    text = "".join(choice.content)
    found = [(place, stop) for stop in stops if stop and (place := text.find(stop)) >= 0]
    if found:
        place, choice.stop_reason = min(found)
        choice.content = tokenize(text[:place])
        choice.calls = []
        choice.finish_reason = "stop"


def _schema_wanted(request: ChatRequest) -> object | None:
    guided = request.guided_json or (request.structured_outputs and request.structured_outputs.json)
    if guided:
        return _schema_in(guided) if isinstance(guided, str) else guided
    form = request.response_format
    if form is not None and form.type == "json_schema" and form.json_schema is not None:
        return form.json_schema.schema or {}
    asked = (form is not None and form.type == "json_object") or (
        request.structured_outputs is not None and request.structured_outputs.json_object
    )
    return {} if asked else None


def _schema_in(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError as error:
        raise RefusalError(400, f"the schema is not JSON: {error}", param="structured_outputs") from None


def _tools_to_call(request: ChatRequest) -> list[Tool]:
    tools = request.tools or []
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        return [tool for tool in tools if tool.function.name == choice.function.name]
    if not tools or choice == "none":
        return []
    last = request.messages[-1]
    asked = text_of(last.content) if last.role == "user" else ""
    called = [tool for tool in tools if tool.function.name in asked]
    if choice == "required" and not called:
        called = tools[:1]
    return called[:1] if request.parallel_tool_calls is False else called


def _called_reason(request: ChatRequest) -> str:
    return "stop" if isinstance(request.tool_choice, NamedTool) else "tool_calls"


def _call(tool: Tool, dice: Dice) -> PlannedCall:
    arguments = instance(tool.function.parameters or {"type": "object", "properties": {}}, dice)
    return PlannedCall(_call_id(dice), tool.function.name, list(tokenize(msgspec.json.encode(arguments).decode())))


def _call_id(dice: Dice) -> str:
    return f"chatcmpl-tool-{dice.bits():016x}{dice.bits():016x}"
