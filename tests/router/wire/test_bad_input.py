"""Rules of the wire: whatever arrives, the answer is an OpenAI error, and the next client is served."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from tests.router.wire.harness import (
    DEADLINE,
    Json,
    Profile,
    Reply,
    Router,
    Simulator,
    StartRouter,
    asked,
    user,
)

GOOD = json.dumps(asked()).encode()
PATH = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"


@contextmanager
def connected(router: Router) -> Iterator[socket.socket]:
    place = urlsplit(router.url)
    with socket.create_connection((place.hostname, place.port), timeout=DEADLINE) as connection:
        yield connection


def read_reply(connection: socket.socket) -> Reply:
    """One response with a content-length."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        assert more, f"closed within a head: {data!r}"
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        more = connection.recv(65536)
        assert more, f"closed within a body: {body!r}"
        body += more
    return Reply(int(first.split()[1]), headers, body)


def talk(router: Router, data: bytes) -> tuple[Reply, bool]:
    """Send these bytes; the reply, and whether the connection stays open."""
    with connected(router) as connection:
        connection.sendall(data)
        reply = read_reply(connection)
        connection.settimeout(0.2)
        try:
            stays = connection.recv(1) != b""
        except TimeoutError:
            stays = True
        return reply, stays


def post(body: bytes, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"{PATH}content-length: {len(body)}\r\n{lines}\r\n".encode() + body


@pytest.fixture(autouse=True)
def _serves_on(small: Router) -> Iterator[None]:
    """After whatever was sent, a good request is served."""
    yield
    assert small.post(GOOD).status == 200


# -- JSON --------------------------------------------------------------------------------------------------------------

BAD_JSON = {
    "nothing": b"",
    "blank": b" \n",
    "half": GOOD[:-1],
    "more": GOOD + b"}",
    "two": GOOD + GOOD,
    "array": b"[" + GOOD + b"]",
    "text": b'"hi"',
    "number": b"7",
    "null": b"null",
    "single quotes": GOOD.replace(b'"', b"'"),
    "trailing comma": GOOD[:-1] + b",}",
    "comment": GOOD + b"// hi",
    "NaN": GOOD[:-1] + b',"temperature":NaN}',
    "Infinity": GOOD[:-1] + b',"temperature":-Infinity}',
    "beyond all numbers": GOOD[:-1] + b',"seed":1e999}',
    "octal": GOOD[:-1] + b',"seed":007}',
    "control character": GOOD.replace(b"Why", b"W\x01hy"),
    "NUL": GOOD.replace(b"Why", b"W\x00hy"),
    "bare newline": GOOD.replace(b"Why", b"W\nhy"),
    "not UTF-8": GOOD.replace(b"Why", b"W\xff\xfehy"),
    "overlong UTF-8": GOOD.replace(b"Why", b"W\xc0\xafhy"),
    "raw surrogate": GOOD.replace(b"Why", b"W\xed\xa0\x80hy"),
    "lone surrogate": GOOD.replace(b"Why", rb"W\ud800hy"),
    "low surrogate": GOOD.replace(b"Why", rb"W\udc00hy"),
    "UTF-16": json.dumps(asked()).encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "bad escape": GOOD.replace(b"Why", rb"W\xhy"),
    "deep array": b"[" * 200_000,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep field": GOOD[:-1] + b',"x":' + b"[" * 300 + b"]" * 300 + b"}",
    "form": b"model=research&messages=hi",
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_a_body_that_is_no_json_object_is_a_400(small: Router, simulator: Simulator, kind: str) -> None:
    reply = small.post(BAD_JSON[kind])
    assert reply.status == 400
    assert (reply.error["type"], reply.error["code"]) == ("invalid_request_error", "invalid_json")
    assert len(reply.body) < 400
    assert "Why" not in reply.body.decode()
    assert simulator.calls() == []


@pytest.mark.parametrize("depth", [8, 60])
def test_depth_within_the_limit_passes(small: Router, simulator: Simulator, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    assert small.post(GOOD[:-1] + f',"vendor":{deep}}}'.encode()).status == 200
    assert simulator.final().body.count(deep) == 1


def test_the_profile_sets_the_depth(router: StartRouter, profile: Profile) -> None:
    shallow = router(profile(limits={"maxJSONDepth": 8}))
    reply = shallow.post(GOOD[:-1] + b',"vendor":' + b"[" * 10 + b"]" * 10 + b"}")
    assert reply.status == 400
    assert "8" in reply.error["message"]
    # brackets within texts are no depth
    assert shallow.post(asked("[" * 500 + "{" * 500)).status == 200


def test_many_brackets_are_not_deep(small: Router) -> None:
    flat = [[number] for number in range(5_000)]
    assert small.post(asked(vendor=flat)).status == 200


def test_of_keys_given_twice_the_last_counts_everywhere(small: Router, simulator: Simulator) -> None:
    twice = (
        b'{"model":"nobody","stream":true,"messages":[],"messages":[{"role":"user","content":"no"}],"top_k":1,'
        b'"stream":false,"top_k":2,"messages":[{"role":"user","content":"yes"}],"model":"research"}'
    )
    reply = small.post(twice)
    assert reply.status == 200
    assert reply.json["model"] == "research"
    panel, final = simulator.settled()
    assert panel.fields["messages"] == [user("yes")]
    assert final.fields["messages"][0]["content"].startswith("yes\n\n")
    assert (final.body.count('"top_k"'), final.fields["top_k"]) == (1, 2)
    assert '"no"' not in panel.body + final.body


@pytest.mark.parametrize("value", ["-0", "1E-400", "123456789012345678901234567890", "0.1000"])
def test_numbers_are_passed_on_as_they_are_written(small: Router, simulator: Simulator, value: str) -> None:
    assert small.post(GOOD[:-1] + f',"vendor":[{value}]}}'.encode()).status == 200
    assert simulator.final().body.count(f'"vendor":[{value}]') == 1


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": None}],
        [{"role": "user"}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": [{"type": "text", "text": ""}]}],
        [{"role": "user", "content": "x" * 200_000}],
        [user("hi")] * 500,
        [{"role": "tool", "tool_call_id": "x", "content": "y"}],
        [{"role": "assistant", "content": "Once"}],
    ],
)
def test_odd_but_honest_conversations_are_served(small: Router, messages: list[Json]) -> None:
    reply = small.post({"model": "research", "messages": messages, "max_tokens": 5})
    # the simulator has a limit of its own
    assert reply.status == 200 or reply.error["code"] == "context_length_exceeded"


def test_content_that_is_no_content_is_the_upstreams_to_refuse(small: Router) -> None:
    reply = small.post({"model": "research", "messages": [{"role": "user", "content": {"a": 1}}]})
    assert reply.status == 400
    assert reply.error["code"] == "upstream_refused"


# -- size --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tight(router: StartRouter, profile: Profile) -> Router:
    return router(profile(limits={"maxBodyBytes": 4096, "maxHeaderBytes": 2048, "maxHeaderCount": 20}))


def padded(size: int) -> bytes:
    empty = json.dumps(asked("")).encode()
    return json.dumps(asked("x" * (size - len(empty)))).encode()


def test_a_body_of_the_limits_size_is_served(tight: Router) -> None:
    assert tight.post(padded(4096)).status == 200


def test_a_body_over_the_limit_is_a_413(tight: Router, simulator: Simulator) -> None:
    reply = tight.post(padded(4097))
    assert reply.status == 413
    assert (reply.error["type"], reply.error["code"]) == ("invalid_request_error", "body_too_large")
    assert "4096" in reply.error["message"]
    assert simulator.calls() == []


def test_a_body_that_claims_to_be_too_large_is_not_waited_for(tight: Router) -> None:
    reply, _ = talk(tight, f"{PATH}content-length: 99999999999\r\n\r\n".encode())
    assert (reply.status, reply.headers["connection"]) == (413, "close")


def test_a_body_that_grows_too_large_is_cut_off(tight: Router) -> None:
    chunks = b"".join(b"400\r\n%b\r\n" % (b"x" * 1024) for _ in range(5))
    reply, _ = talk(tight, f"{PATH}transfer-encoding: chunked\r\n\r\n".encode() + chunks)
    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert reply.error["code"] == "body_too_large"


def test_a_body_in_chunks_is_served(small: Router) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (GOOD[:1], GOOD[1:40], GOOD[40:]))
    reply, stays = talk(small, f"{PATH}transfer-encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n")
    assert (reply.status, stays) == (200, True)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x-own"])
def test_a_compressed_body_is_a_400_that_says_so(small: Router, encoding: str) -> None:
    reply = small.post(GOOD, {"content-encoding": encoding})
    assert reply.status == 400
    assert reply.error["code"] == "unsupported_encoding"


@pytest.mark.parametrize("headers", [[f"x-{number}: y" for number in range(40)], ["x-long: " + "y" * 4000]])
def test_too_many_or_too_large_headers_are_a_400(tight: Router, simulator: Simulator, headers: list[str]) -> None:
    reply, stays = talk(tight, post(GOOD, *headers))
    assert (reply.status, stays) == (400, False)
    assert reply.error["code"] == "invalid_http"
    assert simulator.calls() == []


def test_headers_within_the_limits_are_served(tight: Router) -> None:
    assert (
        talk(tight, post(GOOD, *[f"x-{number}: y" for number in range(10)], "x-long: " + "y" * 1500))[0].status == 200
    )


# -- HTTP --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET /v1/mo dels HTTP/1.1\r\nhost: x\r\n\r\n",
        PATH.encode() + b"content-length: -1\r\n\r\n",
        PATH.encode() + b"content-length: 1x\r\n\r\n",
        PATH.encode() + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        PATH.encode() + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        PATH.encode() + b"no colon here\r\n\r\n",
        PATH.encode() + b"x\x00y: z\r\n\r\n",
        PATH.encode() + b"x: a\r\n folded\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_400_and_the_end_of_the_connection(
    small: Router, simulator: Simulator, data: bytes
) -> None:
    reply, stays = talk(small, data)
    assert (reply.status, stays) == (400, False)
    assert reply.headers["content-type"] == "application/json"
    assert (reply.error["type"], reply.error["code"]) == ("invalid_request_error", "invalid_http")
    assert simulator.calls() == []


@pytest.mark.parametrize("chunk", [b"zz\r\nhello\r\n", b"5\r\nhello!!\r\n", b"-5\r\nhello\r\n"])
def test_a_body_in_bad_chunks_is_a_400(small: Router, simulator: Simulator, chunk: bytes) -> None:
    reply, stays = talk(small, f"{PATH}transfer-encoding: chunked\r\n\r\n".encode() + chunk + b"0\r\n\r\n")
    assert (reply.status, stays) == (400, False)
    assert reply.error["type"] == "invalid_request_error"
    assert simulator.calls() == []


def test_a_client_that_leaves_within_its_body_is_no_error(small: Router, simulator: Simulator) -> None:
    for _ in range(3):
        with connected(small) as connection:
            connection.sendall(post(GOOD)[:-10])
    assert small.post(GOOD).status == 200
    assert len(simulator.settled()) == 2


def test_a_client_that_asks_first_is_told_to_go_on(small: Router) -> None:
    head = f"{PATH}content-length: {len(GOOD)}\r\nexpect: 100-continue\r\n\r\n".encode()
    with connected(small) as connection:
        connection.sendall(head)
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += connection.recv(1)
        assert received == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GOOD)
        assert read_reply(connection).status == 200


def test_a_client_that_asks_first_with_too_much_is_told_to_stop(tight: Router) -> None:
    reply, _ = talk(tight, f"{PATH}content-length: 1000000\r\nexpect: 100-continue\r\n\r\n".encode())
    assert (reply.status, reply.headers["connection"]) == (413, "close")


def test_requests_in_a_row_are_answered_in_order(small: Router) -> None:
    names = ["qwen", "research", "nobody", "research:single"]
    requests = [json.dumps({**asked(), "model": name}).encode() for name in names]
    *first, last = [post(request, f"x-request-id: {name}") for name, request in zip(names, requests, strict=True)]
    with connected(small) as connection:
        connection.sendall(b"".join(first) + last.replace(b"host: x", b"host: x\r\nconnection: close"))
        received = b""
        while data := connection.recv(65536):
            received += data
    assert re.findall(rb"x-request-id: (\S+)", received) == [name.encode() for name in names]
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200", b"404", b"200"]


@pytest.mark.parametrize("name", ["x-request-id", "x-moa-mode", "x-request-timeout", "traceparent", "authorization"])
@pytest.mark.parametrize("value", ["\xff\xfe", "a" * 5000, "{}", "%0d%0aset-cookie: x=1", "-1", "NaN"])
def test_no_header_value_does_harm(small: Router, name: str, value: str) -> None:
    reply, _ = talk(
        small, post(GOOD, f"{name}: x").replace(f"{name}: x".encode(), f"{name}: {value}".encode("latin-1"))
    )
    assert reply.status in {200, 400}
    assert "set-cookie" not in reply.headers
    if reply.status == 400:
        assert reply.error["type"] == "invalid_request_error"
    assert re.fullmatch(r"[\w.:/+=-]{1,128}", reply.headers["x-request-id"])
