"""Chunks as llama.cpp writes them: choices first, and constants behind them that change with the clock."""

from collections.abc import Mapping

import pytest
from tests.router.fusion.test_relay import Stage

from moa_router.fusion.stages import relay
from moa_router.fusion.stages.relay import RELEARN_TOKENS, learn


def chunk(text: str, created: int) -> bytes:
    """A chunk whose text is escaped as no encoder of ours would: it shows which chunks were not decoded."""
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in text)
    return (
        b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"%b"}}],"created":%d,"id":"chatcmpl-x",'
        b'"model":"small","system_fingerprint":"b0-unknown","object":"chat.completion.chunk"}\n\n'
        % (escaped.encode(), created)
    )


def relayed_raw(stage: Stage) -> list[bool]:
    return [b"\\u00" in written for written in stage.client.written]


def test_are_relayed_without_decoding_within_a_second() -> None:
    with Stage() as stage:
        stage.feed(*(chunk("token ", 100) for _ in range(5)))
        assert relayed_raw(stage) == [False, True, True, True, True]


def test_are_soon_relayed_without_decoding_again_in_the_next() -> None:
    with Stage() as stage:
        stage.feed(*(chunk("token ", 100) for _ in range(RELEARN_TOKENS)))
        stage.feed(*(chunk("token ", 101) for _ in range(RELEARN_TOKENS)))
        raw = relayed_raw(stage)
        assert raw[1:RELEARN_TOKENS] == [True] * (RELEARN_TOKENS - 1)
        assert raw[RELEARN_TOKENS:] == [False, *[True] * (RELEARN_TOKENS - 1)]
        assert [c["choices"][0]["delta"]["content"] for c in stage.client.chunks] == ["token "] * len(raw)
        assert {c["created"] for c in stage.client.chunks} == {7}


def test_are_not_learned_one_by_one_when_each_is_different(monkeypatch: pytest.MonkeyPatch) -> None:
    learned = []

    def counted(event: bytes, decoded: Mapping[str, object], ours: bytes) -> relay.Shape | None:
        learned.append(event)
        return learn(event, decoded, ours)

    monkeypatch.setattr(relay, "learn", counted)
    with Stage() as stage:
        stage.feed(*(chunk("token ", second) for second in range(4 * RELEARN_TOKENS)))
        assert len(learned) == 4
        assert len(stage.client.chunks) == 4 * RELEARN_TOKENS
