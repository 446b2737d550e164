"""What an answer is made of, whichever API it is for."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from moa_simulator.config import ModelConfig
from moa_simulator.generate import Choice

DONE: Final = b"data: [DONE]\n\n"
FINGERPRINT: Final = "b9999-sim"
"""llama.cpp's `system_fingerprint`."""

encode_json = msgspec.json.Encoder().encode


class Event(NamedTuple):
    """One server-sent event.

    Attributes:
        data: Its bytes, framing included.
        step: The decoding step that produces it; the first token is step 0.
        tokens: How many tokens it carries.
        reasoning: How many of them are reasoning.
    """

    data: bytes
    step: int
    tokens: int = 0
    reasoning: int = 0


@dataclass(slots=True)
class Generation:
    """A request that is being answered.

    Attributes:
        model: Who answers.
        id: The answer's id.
        created: Seconds since the epoch.
        prompts: The prompts, as tokens (several for a batch of completions).
        choices: The answers.
        limit: The most tokens a choice may have.
        cached_tokens: How much of the prompts the prefix cache had; known once they are admitted.
        usage_reported: Whether the answer tells its usage.
    """

    model: ModelConfig
    id: str
    created: int
    prompts: Sequence[Sequence[str]]
    choices: list[Choice]
    cached_tokens: int = 0
    usage_reported: bool = True
    prompt_tokens: int = field(init=False)
    completion_tokens: int = field(init=False)
    reasoning_tokens: int = field(init=False)
    steps: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = sum(map(len, self.prompts))
        lengths = [choice.tokens for choice in self.choices]
        self.completion_tokens = sum(lengths)
        self.reasoning_tokens = sum([len(choice.reasoning) for choice in self.choices])
        self.steps = max(lengths, default=0)

    def produced(self, steps: int) -> tuple[int, int]:
        """Tells how many tokens, and how many of reasoning, so many decoding steps produce."""
        if steps >= self.steps:
            return self.completion_tokens, self.reasoning_tokens
        return (
            sum(min(steps, choice.tokens) for choice in self.choices),
            sum(min(steps, len(choice.reasoning)) for choice in self.choices),
        )

    def usage(self) -> dict[str, object]:
        """Gives the final usage, with vLLM's fields in vLLM's order."""
        usage = usage_so_far(self.prompt_tokens, self.completion_tokens)
        if self.model.prompt_tokens_details:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        if self.reasoning_tokens:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return usage


def usage_so_far(prompt: int, completion: int) -> dict[str, object]:
    """Gives the usage that each chunk carries with `continuous_usage_stats`: without details, as in vLLM."""
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


class Answer(ABC):
    """A generation in the form of one API.

    Args:
        generation: What is answered.
        streamed: Whether as events.
        usage_in_stream: Whether the stream ends with usage.
        usage_in_chunks: Whether each chunk carries usage.
    """

    def __init__(self, generation: Generation, *, streamed: bool, usage_in_stream: bool, usage_in_chunks: bool) -> None:
        self.generation = generation
        self.streamed = streamed
        self.usage_sent = generation.usage_reported and (usage_in_stream or not streamed)
        self._usage_in_chunks = usage_in_chunks and generation.usage_reported and generation.model.continuous_usage

    def events(self) -> Iterator[Event]:
        """Gives the stream in the order it is decoded: choices interleaved, usage last, `[DONE]` not included."""
        yield from self._first_events()
        running = [self._choice_events(choice) for choice in self.generation.choices]
        while running:
            still_running = []
            for events in running:
                if (event := next(events, None)) is not None:
                    yield event
                    still_running.append(events)
            running = still_running
        if self.usage_sent:
            yield Event(self._usage_event(), self.generation.steps)

    @abstractmethod
    def body(self) -> bytes:
        """Gives the unstreamed answer."""

    def _first_events(self) -> Iterator[Event]:
        return iter(())

    @abstractmethod
    def _choice_events(self, choice: Choice) -> Iterator[Event]:
        """Gives one choice's events, at most one for each decoding step."""

    @abstractmethod
    def _usage_event(self) -> bytes: ...

    def _chunk_usage(self, completion_tokens: int) -> bytes:
        """Gives the usage a chunk carries: of its own choice, as in vLLM."""
        if not self._usage_in_chunks:
            return b""
        return b',"usage":' + encode_json(usage_so_far(self.generation.prompt_tokens, completion_tokens))
