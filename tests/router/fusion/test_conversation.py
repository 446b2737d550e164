"""The conversation as bytes: however it is spelled, its beginning stays, and a tail is merged where it belongs."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa_router.fusion.conversation import Conversation

Json = dict[str, Any]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
scalars = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | texts
keys = st.sampled_from(["content", "name", "meta", "x"]) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)
parts = st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", "input_audio"])}, optional={"text": texts})
extras = st.dictionaries(keys.filter(lambda key: key not in {"content", "role"}), values, max_size=3)
roles = st.sampled_from(["system", "user", "assistant", "tool", "developer"])


@st.composite
def messages(draw: st.DrawFn, role: st.SearchStrategy[str] = roles) -> Json:
    return {**draw(extras), "role": draw(role), "content": draw(texts | st.lists(parts, max_size=3) | st.none())}


conversations = st.lists(messages(), min_size=1, max_size=4)
spellings = st.randoms(use_true_random=False)


@dataclass
class Speller:
    """Writes JSON the many ways it may be written."""

    random: Random

    def space(self) -> str:
        return "".join(self.random.choices(" \t\r\n", k=self.random.choice([0, 0, 1, 3])))

    def text(self, text: str, *, plain: bool = False) -> str:
        return '"' + "".join(self._character(character, plain=plain) for character in text) + '"'

    def value(self, value: object, *, plain_keys: bool = False) -> str:
        match value:
            case str():
                return self.text(value)
            case dict():
                members = [
                    self.text(key, plain=plain_keys) + self.space() + ":" + self.space() + self.value(member)
                    for key, member in value.items()
                ]
                return "{" + self._list(members) + "}"
            case list():
                return "[" + self._list([self.value(item) for item in value]) + "]"
            case _:
                return json.dumps(value)

    def messages(self, given_messages: list[Json], *, plain_keys: bool = True) -> bytes:
        shuffled = []
        for message in given_messages:
            items = list(message.items())
            self.random.shuffle(items)
            shuffled.append(self.value(dict(items), plain_keys=plain_keys))
        return f"[{self._list(shuffled)}]".encode()

    def _list(self, items: list[str]) -> str:
        return self.space() + ",".join(self.space() + item + self.space() for item in items)

    def _character(self, character: str, *, plain: bool) -> str:
        short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "/": "\\/"}
        if character in '"\\' or (character in short and self.random.random() < 0.5):
            return short[character]
        if ord(character) < 0x20 or (not plain and self.random.random() < 0.2):
            return json.dumps(character)[1:-1] if ord(character) > 0x7E else f"\\u{ord(character):04x}"
        return character


def conversation(raw: bytes) -> Conversation:
    return Conversation(raw, orjson.loads(raw))


def looks_twice(message: Json) -> bool:
    """Whether something in a message may look just like its content."""
    return '"content"' in json.dumps({key: value for key, value in message.items() if key != "content"})


def merged(given_messages: list[Json], tail: str) -> list[Json]:
    """What is to come out."""
    *before, last = given_messages
    match last:
        case {"role": "user", "content": str(content)}:
            return [*before, {**last, "content": f"{content}\n\n{tail}" if content else tail}]
        case {"role": "user", "content": list(content)}:
            return [*before, {**last, "content": [*content, {"type": "text", "text": tail}]}]
        case _:
            return added(given_messages, tail)


def added(given_messages: list[Json], tail: str) -> list[Json]:
    return [*given_messages, {"role": "user", "content": tail}]


def common_prefix(one: bytes, other: bytes) -> int:
    return next((index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


@given(conversations, texts.filter(bool), spellings)
def test_the_tail_goes_where_it_belongs(given_messages: list[Json], tail: str, random: Random) -> None:
    raw = Speller(random).messages(given_messages)
    found = json.loads(b"".join(conversation(raw).with_tail(tail)))
    expected = merged(given_messages, tail)
    assert found == expected or (looks_twice(given_messages[-1]) and found == added(given_messages, tail))


@pytest.mark.parametrize("dumps", [orjson.dumps, lambda value: json.dumps(value).encode()], ids=["compact", "spaced"])
@given(conversations, texts.filter(bool))
def test_the_usual_spellings(dumps: Callable[[object], bytes], given_messages: list[Json], tail: str) -> None:
    small = json.loads(re.sub(r"\d{10,}", "7", json.dumps(given_messages)))
    raw = dumps(small)
    found = json.loads(b"".join(conversation(raw).with_tail(tail)))
    assert found == merged(small, tail) or (looks_twice(small[-1]) and found == added(small, tail))


@given(conversations, texts.filter(bool), spellings)
def test_however_keys_are_spelled_nothing_is_lost(given_messages: list[Json], tail: str, random: Random) -> None:
    raw = Speller(random).messages(given_messages, plain_keys=False)
    found = json.loads(b"".join(conversation(raw).with_tail(tail)))
    assert found in (merged(given_messages, tail), added(given_messages, tail))


@given(st.lists(messages(), max_size=3), messages(st.just("user")), texts.filter(bool), spellings)
def test_bytes_up_to_the_end_of_the_last_content_stay(
    history: list[Json], last: Json, tail: str, random: Random
) -> None:
    speller = Speller(random)
    before = speller.messages(history).rstrip()[:-1] + (b"," if history else b"")
    content = speller.value(last["content"]).encode()
    head = b'{"role":"user",' + speller.space().encode() + b'"content":'
    raw = before + head + content + b"," + speller.value({"name": last.get("name")}).encode()[1:] + b" ]"
    whole = b"".join(conversation(raw).with_tail(tail))
    kept = len(before + head + content.rstrip(b']"').rstrip())
    assert common_prefix(raw, whole) >= kept


@given(conversations, spellings)
def test_nothing_to_add_changes_nothing(given_messages: list[Json], random: Random) -> None:
    raw = Speller(random).messages(given_messages)
    assert b"".join(conversation(raw).with_tail("")) == raw


@given(conversations, texts.filter(bool), texts.filter(bool), spellings)
def test_all_stages_share_everything_but_their_tails(
    given_messages: list[Json], one: str, other: str, random: Random
) -> None:
    same = conversation(Speller(random).messages(given_messages))
    (head, _, rest), (other_head, _, other_rest) = same.with_tail(one), same.with_tail(other)
    assert (head, rest) == (other_head, other_rest)


@pytest.mark.parametrize(
    "message",
    [
        r'{"role":"user","cont\u0065nt":"hi","meta":{"content":"hi"}}',
        '{"role":"user","content":"hi","meta":{"content":"hi"}}',
        '{"content":"hi","content":"hi","role":"user"}',
        '{"role":"user","content":null}',
        '{"role":"user"}',
        '{"role":"user","content":{"content":"hi"}}',
        '{"role":"user","content":7}',
    ],
)
def test_a_turn_of_our_own_where_the_place_is_in_doubt(message: str) -> None:
    raw = f"[{message}]".encode()
    whole = b"".join(conversation(raw).with_tail("tail"))
    assert whole == raw[:-1] + b',{"role":"user","content":"tail"}]'


@pytest.mark.parametrize(
    ("content", "sees"),
    [
        ('"an image_url"', False),
        ('[{"type":"text","text":"image_url"}]', False),
        ('[{"type":"image_url","image_url":{"url":"x"}}]', True),
        ('[{"type":"text","text":"x"},{"type":"image","image":"x"}]', True),
        ('[{"type":"input_image","image_url":"x"}]', True),
        (r'[{"type":"im\u0061ge_url","image_url":{"url":"x"}}]', True),
        ("null", False),
    ],
)
def test_images_are_seen(content: str, *, sees: bool) -> None:
    raw = f'[{{"role":"user","content":{content}}},{{"role":"assistant","content":"ok"}}]'.encode()
    assert conversation(raw).has_images is sees


def test_parts_can_be_read_by_any_parser() -> None:
    raw = b'[{"role":"user","content":[]}]'
    whole = b"".join(conversation(raw).with_tail('quote " and \\ and \n'))
    assert msgspec.json.decode(whole) == orjson.loads(whole) == json.loads(whole)
