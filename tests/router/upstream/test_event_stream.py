"""The event-stream parser against the standard's own words, written down slowly."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moa_router.upstream.event_stream import DONE, EventSplitter, EventTooLarge, data_of

unhurried = settings(deadline=None)
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'

#: Made of what matters to the parser: line endings in every mix, the BOM and its halves, colons, spaces, NUL, UTF-8.
PIECES = st.sampled_from(
    [
        b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n",
        b"data: ", b"data:", b"data", b"data:  two", b":", b": comment", b"event: x", b"id: 7", b"datax: y",
        b" data: z",
        b"\xef\xbb\xbf", b"\xef", b"\xbb\xbf", b"\0", b"x", b" ", "\N{SNOWMAN}".encode(), "\N{GRINNING FACE}".encode(),
        b'{"a": 1}', b"[DONE]", "\N{LINE SEPARATOR}".encode(), b"\x0b", b"\x0c", b"\x85",
    ]
)  # fmt: skip
STREAMS = st.lists(PIECES, max_size=40).map(b"".join) | st.binary(max_size=60)


def lines_of(stream: bytes) -> tuple[list[bytes], bytes]:
    """The standard's `stream`: lines, and what has no end yet. One byte at a time, BOM taken off first."""
    rest = stream.removeprefix(b"\xef\xbb\xbf")
    lines, line, index = [], b"", 0
    while index < len(rest):
        byte = rest[index : index + 1]
        index += 1
        if byte == b"\r" and rest[index : index + 1] == b"\n":
            index += 1
        if byte in {b"\r", b"\n"}:
            lines.append(line)
            line = b""
        else:
            line += byte
    return lines, line


def raw_events(stream: bytes) -> tuple[list[bytes], bytes]:
    """What a splitter has to find: runs of lines up to a blank one; and the rest."""
    lines, unfinished = lines_of(stream)
    events, pending = [], b""
    for line in lines:
        if line:
            pending += line + b"\n"
        elif pending:
            events.append(pending + b"\n")
            pending = b""
    return events, pending + unfinished


def dispatched(stream: bytes) -> list[bytes]:
    """What the standard dispatches: the data of each event that has some field `data`."""
    data: list[bytes] = []
    found = []
    for line in lines_of(stream)[0]:
        if not line:
            if data:
                found.append(b"\n".join(data))
            data = []
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value[1:] if value[:1] == b" " else value)
    return found


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


def fed(pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    splitter = EventSplitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return events, splitter.close()


@unhurried
@given(STREAMS, st.lists(st.integers(min_value=0), max_size=12))
@example(b"data: a\n\n\n", [8])
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [9, 10, 11])
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2])
def test_any_split_gives_what_the_standard_says(stream: bytes, cuts: list[int]) -> None:
    events, rest = fed(split(stream, cuts))
    expected, unfinished = raw_events(stream)
    assert events == expected
    assert [data for event in events if (data := data_of(event)) is not None] == dispatched(stream)
    assert rest == unfinished


@unhurried
@given(STREAMS)
def test_byte_by_byte(stream: bytes) -> None:
    assert fed([stream[index : index + 1] for index in range(len(stream))])[0] == raw_events(stream)[0]


@unhurried
@given(st.lists(STREAMS, max_size=6))
def test_whole_events_at_once_and_event_by_event_are_the_same(streams: list[bytes]) -> None:
    """The path for pieces that end with an event, taken with the parser warm."""
    pieces = [CHUNK, *(stream + b"\n\n" for stream in streams)]
    assert fed(pieces)[0] == raw_events(b"".join(pieces))[0]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_line_endings_become_line_feeds(end: bytes) -> None:
    stream = end.join([b"event: x", b"data: one", b"data: two", b"", b"data: [DONE]", b"", b""])
    assert fed([stream]) == ([b"event: x\ndata: one\ndata: two\n\n", b"data: [DONE]\n\n"], b"")


def test_a_return_completes_an_event_without_waiting_for_a_line_feed() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\r\n\r") == [b"data: a\n\n"]
    assert splitter.feed(b"\ndata: b\r\n\r\n") == [b"data: b\n\n"]


def test_whole_events_come_out_as_they_came() -> None:
    splitter = EventSplitter()
    splitter.feed(CHUNK)
    assert splitter.feed(CHUNK)[0] is CHUNK


def test_the_rest_of_a_cut_stream() -> None:
    splitter = EventSplitter()
    assert splitter.feed(CHUNK + b"data: half") == [CHUNK]
    assert splitter.close() == b"data: half"
    assert splitter.close() == b""


def test_characters_cut_anywhere() -> None:
    event = "data: \N{GRINNING FACE}\N{SNOWMAN}é\n\n".encode()
    for cut in range(len(event) + 1):
        assert fed([event[:cut], event[cut:]])[0] == [event]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    "pieces",
    [
        [b"data: " + b"x" * 100 + b"\n\n"],
        [b"data: " + b"x" * 100],
        [b"data: ", *[b"x"] * 100],
        [b"data: x\n\ndata: " + b"x" * 100 + b"\n\n"],
        [b"data: " + b"x" * 100 + b"\r\n\r\n"],
        [b"data: x" * 20 + b"\n\ndata: x\n\n"],
    ],
)
def test_a_large_event_is_refused(pieces: list[bytes], *, warm: bool) -> None:
    splitter = EventSplitter(max_event_bytes=64)
    if warm:
        assert splitter.feed(b"data: x\n\n") == [b"data: x\n\n"]
    with pytest.raises(EventTooLarge, match="larger than 64 bytes"):
        [splitter.feed(piece) for piece in pieces]


@unhurried
@given(STREAMS, st.lists(st.integers(min_value=0), max_size=12), st.integers(2, 24))
@example(b"data: x\n\n\ndata: xyz\n\n", [9, 10, 12], 11)
@example(b"data: x\n\n\ndata: xyz", [9, 10, 12], 9)
@example(b"\n\ndata: ", [], 2)
@example(b"\xef\xbb", [], 2)
def test_the_limit_is_the_same_for_any_split(stream: bytes, cuts: list[int], limit: int) -> None:
    """An unfinished event is refused when it cannot fit any more, at the latest with the piece after that."""
    events, rest = raw_events(stream)
    too_large = any(len(event) > limit for event in events)
    splitter = EventSplitter(max_event_bytes=limit)
    found: list[bytes] = []
    try:
        for piece in split(stream, cuts):
            found += splitter.feed(piece)
    except EventTooLarge:
        assert too_large or len(rest) >= limit
    else:
        assert not too_large
        assert found == events
        if len(rest) > limit:
            with pytest.raises(EventTooLarge):
                splitter.feed(b"x")


def test_the_limit_is_for_one_event_and_counts_its_end() -> None:
    event = b"data: " + b"x" * 56 + b"\n\n"
    splitter = EventSplitter(max_event_bytes=len(event))
    assert splitter.feed(event * 3) == [event] * 3
    assert splitter.feed(event) == [event]
    assert splitter.feed(event[:-1]) == []
    assert splitter.feed(event[-1:]) == [event]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: [DONE]\n\n", DONE),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: \n\n", b""),
        (b"data:\n\n", b""),
        (b"data\n\n", b""),
        (b"data: a\ndata:b\ndata: \n\n", b"a\nb\n"),
        (b": comment\ndata: a\nid: 7\nretry: 10\n\n", b"a"),
        (b"event: x\ndata: a: b\n\n", b"a: b"),
        (b": keep-alive\n\n", None),
        (b"event: x\n\n", None),
        (b"Data: x\n\n", None),
        (b" data: x\n\n", None),
        (b"data: \0\n\n", b"\0"),
        (b"data: cut short", b"cut short"),
    ],
)
def test_data_of(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data
