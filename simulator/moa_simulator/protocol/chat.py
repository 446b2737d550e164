"""`/v1/chat/completions`: the exact bytes of vLLM's answers, and of llama.cpp's chunks."""

from collections.abc import Iterator, Sequence
from functools import cached_property

from moa_simulator.dice import Dice
from moa_simulator.generate import Choice, PlannedCall
from moa_simulator.protocol.answer import FINGERPRINT, Answer, Event, Generation, encode_json
from moa_simulator.protocol.requests import ChatRequest


class VllmChunks:
    """vLLM: the constant head first (source: `ChatCompletionStreamResponse`, serialised without unset fields)."""

    first_delta = b'{"role":"assistant","content":""}'

    def __init__(self, generation: Generation) -> None:
        self._head = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % (
            encode_json(generation.id),
            generation.created,
            encode_json(generation.model.name),
        )

    def first_chunk(self, index: int, usage: bytes) -> bytes:
        """Writes the chunk that announces a choice's role."""
        return b'%b{"index":%d,"delta":%b,"logprobs":null,"finish_reason":null}],"prompt_token_ids":null%b}\n\n' % (
            self._head,
            index,
            self.first_delta,
            usage,
        )

    def chunk(self, index: int, delta: bytes, logprobs: bytes, usage: bytes) -> bytes:
        """Writes a chunk of a running choice."""
        return b'%b{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":null,"token_ids":null}]%b}\n\n' % (
            self._head,
            index,
            delta,
            logprobs,
            usage,
        )

    def last_chunk(self, index: int, delta: bytes, choice: Choice, logprobs: bytes, usage: bytes) -> bytes:
        """Writes a choice's last chunk."""
        return (
            b'%b{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b,"stop_reason":%b,"token_ids":null}]%b}\n\n'
            % (
                self._head,
                index,
                delta,
                logprobs,
                encode_json(choice.finish_reason),
                encode_json(choice.stop_reason),
                usage,
            )
        )

    def usage_chunk(self, usage: bytes) -> bytes:
        """Writes the chunk without choices."""
        return b'%b],"usage":%b}\n\n' % (self._head, usage)


class LlamaCppChunks:
    """llama.cpp: choices first, the constant part behind them."""

    first_delta = b'{"role":"assistant","content":null}'

    def __init__(self, generation: Generation) -> None:
        self._tail = b'],"created":%d,"id":%b,"model":%b,"system_fingerprint":%b,"object":"chat.completion.chunk"' % (
            generation.created,
            encode_json(generation.id),
            encode_json(generation.model.name),
            encode_json(FINGERPRINT),
        )

    def first_chunk(self, index: int, usage: bytes) -> bytes:
        """Writes the chunk that announces a choice's role."""
        return self.chunk(index, self.first_delta, b"null", usage)

    def chunk(self, index: int, delta: bytes, logprobs: bytes, usage: bytes) -> bytes:
        """Writes a chunk of a running choice."""
        return self._write(b"null", index, delta, logprobs, usage)

    def last_chunk(self, index: int, delta: bytes, choice: Choice, logprobs: bytes, usage: bytes) -> bytes:
        """Writes a choice's last chunk; its delta is empty."""
        return self._write(encode_json(choice.finish_reason), index, delta, logprobs, usage)

    def usage_chunk(self, usage: bytes) -> bytes:
        """Writes the chunk without choices."""
        return b'data: {"choices":[%b,"usage":%b}\n\n' % (self._tail, usage)

    def _write(self, finish: bytes, index: int, delta: bytes, logprobs: bytes, usage: bytes) -> bytes:
        shown = b"" if logprobs == b"null" else b',"logprobs":' + logprobs
        return b'data: {"choices":[{"finish_reason":%b,"index":%d,"delta":%b%b}%b%b}\n\n' % (
            finish,
            index,
            delta,
            shown,
            self._tail,
            usage,
        )


class ChatAnswer(Answer):
    """The answer to a chat request."""

    def __init__(self, generation: Generation, request: ChatRequest) -> None:
        super().__init__(
            generation,
            streamed=bool(request.stream),
            usage_in_stream=request.usage_wanted,
            usage_in_chunks=request.continuous_usage_wanted,
        )
        self._logprobs_wanted = bool(request.logprobs)
        self._alternatives = request.top_logprobs or 0
        self._show_reasoning = request.include_reasoning
        self._reasoning_field = generation.model.reasoning_field

    def body(self) -> bytes:
        """Gives the unstreamed answer (source: `ChatCompletionResponse`, which serialises its unset fields)."""
        generation = self.generation
        answer: dict[str, object] = {
            "id": generation.id,
            "object": "chat.completion",
            "created": generation.created,
            "model": generation.model.name,
            "choices": [self._choice(choice) for choice in generation.choices],
            "service_tier": None,
            "system_fingerprint": None,
        }
        if generation.usage_reported:
            answer["usage"] = generation.usage()
        answer |= {"prompt_logprobs": None, "prompt_token_ids": None, "kv_transfer_params": None}
        return encode_json(answer)

    @cached_property
    def _shape(self) -> VllmChunks | LlamaCppChunks:
        return (
            VllmChunks(self.generation) if self.generation.model.chunks == "vllm" else LlamaCppChunks(self.generation)
        )

    def _choice(self, choice: Choice) -> dict[str, object]:
        message: dict[str, object] = {
            "role": "assistant",
            "content": None if choice.calls and not choice.content else "".join(choice.content),
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            self._reasoning_field: "".join(choice.reasoning) or None if self._show_reasoning else None,
        }
        if choice.calls:
            message["tool_calls"] = [_tool_call(call) for call in choice.calls]
        return {
            "index": choice.index,
            "message": message,
            "logprobs": {"content": [self._logprob(piece) for piece in choice.content]}
            if self._logprobs_wanted
            else None,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "token_ids": None,
        }

    def _first_events(self) -> Iterator[Event]:
        usage = self._chunk_usage(0)
        for choice in self.generation.choices:
            yield Event(self._shape.first_chunk(choice.index, usage), 0)

    def _choice_events(self, choice: Choice) -> Iterator[Event]:
        shape, index = self._shape, choice.index
        last = choice.tokens - 1 if choice.finish_reason == "length" else -1
        thinking = len(choice.reasoning)
        for step, (delta, logprobs) in enumerate(self._deltas(choice)):
            usage = self._chunk_usage(step + 1)
            data = (
                shape.last_chunk(index, delta, choice, logprobs, usage)
                if step == last
                else shape.chunk(index, delta, logprobs, usage)
            )
            yield Event(data, step, 1, int(step < thinking))
        if last < 0:
            delta = b'{"content":""}' if isinstance(shape, VllmChunks) else b"{}"
            usage = self._chunk_usage(choice.tokens)
            yield Event(shape.last_chunk(index, delta, choice, b"null", usage), choice.tokens)

    def _deltas(self, choice: Choice) -> Iterator[tuple[bytes, bytes]]:
        """Gives (delta, logprobs) for each token."""
        name = self._reasoning_field.encode()
        for piece in choice.reasoning:
            yield (b'{"%b":%b}' % (name, encode_json(piece)) if self._show_reasoning else b"{}"), b"null"
        for piece in choice.content:
            logprobs = encode_json({"content": [self._logprob(piece)]}) if self._logprobs_wanted else b"null"
            yield b'{"content":%b}' % encode_json(piece), logprobs
        for position, call in enumerate(choice.calls):
            opening = {"id": call.id, "type": "function", "index": position}
            yield _tool_delta({**opening, "function": {"name": call.name, "arguments": ""}}), b"null"
            for piece in call.arguments:
                yield _tool_delta({"index": position, "function": {"arguments": piece}}), b"null"

    def _usage_event(self) -> bytes:
        return self._shape.usage_chunk(encode_json(self.generation.usage()))

    def _logprob(self, piece: str) -> dict[str, object]:
        dice = Dice.thrown_by(piece)
        chosen = -round(dice.unit() * 0.9, 4)
        return {
            **_logprob_entry(piece, chosen),
            "top_logprobs": [
                _logprob_entry(alternative, chosen - rank * 1.25)
                for rank, alternative in enumerate(_alternatives(piece, self._alternatives))
            ],
        }


def _tool_call(call: PlannedCall) -> dict[str, object]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": "".join(call.arguments)}}


def _tool_delta(call: dict[str, object]) -> bytes:
    return b'{"tool_calls":[%b]}' % encode_json(call)


def _logprob_entry(token: str, logprob: float) -> dict[str, object]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _alternatives(piece: str, count: int) -> Sequence[str]:
    return [piece, *(f"{piece}{suffix}" for suffix in "abcdefghijklmnopqrst")][:count]
