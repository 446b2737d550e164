"""`/v1/completions`: plain text in, plain text out, several prompts at a time if need be."""

from collections.abc import Iterator

from moa_simulator.generate import Choice
from moa_simulator.protocol.answer import Answer, Event, Generation, encode_json
from moa_simulator.protocol.requests import CompletionRequest
from moa_simulator.tokens import tokenize


def prompts_of(given: str | list[str | int | list[int]]) -> list[list[str]]:
    """Reads the API's forms of a prompt: text or token ids, one or several."""
    if isinstance(given, str):
        return [list(tokenize(given))]
    ids = [item for item in given if isinstance(item, int)]
    if ids:
        return [[f"<{number}>" for number in ids]]
    return [
        list(tokenize(item)) if isinstance(item, str) else [f"<{number}>" for number in item]
        for item in given
        if not isinstance(item, int)
    ]


class CompletionAnswer(Answer):
    """The answer to a completion request."""

    def __init__(self, generation: Generation, request: CompletionRequest) -> None:
        super().__init__(
            generation,
            streamed=bool(request.stream),
            usage_in_stream=request.usage_wanted,
            usage_in_chunks=request.continuous_usage_wanted,
        )
        self._echo = request.echo
        self._head = b'data: {"id":%b,"object":"text_completion","created":%d,"model":%b,"choices":[' % (
            encode_json(generation.id),
            generation.created,
            encode_json(generation.model.name),
        )

    def body(self) -> bytes:
        """Gives the unstreamed answer."""
        generation = self.generation
        answer: dict[str, object] = {
            "id": generation.id,
            "object": "text_completion",
            "created": generation.created,
            "model": generation.model.name,
            "choices": [
                {
                    "index": choice.index,
                    "text": self._echoed(choice) + "".join(choice.content),
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                    "stop_reason": choice.stop_reason,
                    "prompt_logprobs": None,
                }
                for choice in generation.choices
            ],
            "service_tier": None,
            "system_fingerprint": None,
        }
        if generation.usage_reported:
            answer["usage"] = generation.usage()
        return encode_json({**answer, "kv_transfer_params": None})

    def _echoed(self, choice: Choice) -> str:
        return "".join(self.generation.prompts[choice.prompt]) if self._echo else ""

    def _choice_events(self, choice: Choice) -> Iterator[Event]:
        before = self._echoed(choice)
        last = choice.tokens - 1 if choice.finish_reason == "length" else choice.tokens
        for step, piece in enumerate(choice.content):
            yield Event(self._chunk(choice, before + piece, step + 1, finished=step == last), step, 1)
            before = ""
        if last == choice.tokens:
            yield Event(self._chunk(choice, before, choice.tokens, finished=True), choice.tokens)

    def _chunk(self, choice: Choice, text: str, tokens: int, *, finished: bool) -> bytes:
        finish = encode_json(choice.finish_reason) if finished else b"null"
        stop = encode_json(choice.stop_reason) if finished else b"null"
        return b'%b{"index":%d,"text":%b,"logprobs":null,"finish_reason":%b,"stop_reason":%b}]%b}\n\n' % (
            self._head,
            choice.index,
            encode_json(text),
            finish,
            stop,
            self._chunk_usage(tokens) or b',"usage":null',
        )

    def _usage_event(self) -> bytes:
        return b'%b],"usage":%b}\n\n' % (self._head, encode_json(self.generation.usage()))
