"""`/v1/embeddings`: unit vectors in which texts that share words lie close together."""

import base64
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

from moa_simulator.generate import Choice
from moa_simulator.protocol.answer import Answer, Event, Generation, encode_json
from moa_simulator.protocol.requests import EmbeddingRequest

_PROBES: Final = 4
"""Dimensions that one token touches."""


def embed(tokens: Sequence[str], dimensions: int) -> list[float]:
    """Embeds by feature hashing (Weinberger et al. 2009): deterministic, of length 1, case-blind."""
    vector = [0.0] * dimensions
    for token in tokens:
        hashed = zlib.crc32(token.strip().lower().encode())
        for probe in range(_PROBES):
            bits = zlib.crc32(bytes([probe]), hashed)
            vector[(bits >> 1) % dimensions] += 1.0 if bits & 1 else -1.0
    norm = math.sqrt(sum(value * value for value in vector))
    if norm == 0:
        return [1.0, *vector[1:]]
    return [value / norm for value in vector]


def as_base64(vector: Sequence[float]) -> str:
    """Packs a vector as the API's `encoding_format: base64` does: 32-bit floats, little-endian."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


class EmbeddingAnswer(Answer):
    """The answer to an embedding request; it has no tokens and never streams."""

    def __init__(self, generation: Generation, request: EmbeddingRequest) -> None:
        super().__init__(generation, streamed=False, usage_in_stream=False, usage_in_chunks=False)
        self._packed = request.encoding_format == "base64"
        self._dimensions = request.dimensions or generation.model.embedding_size

    def body(self) -> bytes:
        """Gives the vectors."""
        generation = self.generation
        answer: dict[str, object] = {
            "id": generation.id,
            "object": "list",
            "created": generation.created,
            "model": generation.model.name,
            "data": [
                {"index": number, "object": "embedding", "embedding": self._vector(prompt)}
                for number, prompt in enumerate(generation.prompts)
            ],
        }
        if generation.usage_reported:
            answer["usage"] = generation.usage()
        return encode_json(answer)

    def _vector(self, prompt: Sequence[str]) -> list[float] | str:
        vector = embed(prompt, self._dimensions)
        return as_base64(vector) if self._packed else vector

    def _choice_events(self, choice: Choice) -> Iterator[Event]:
        raise NotImplementedError("embeddings do not stream")

    def _usage_event(self) -> bytes:
        raise NotImplementedError("embeddings do not stream")
