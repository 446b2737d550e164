"""A question that is not answered as it should be."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from moa_router.demo.ask import ask
from moa_router.demo.errors import DemoError

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "demo"}


@contextlib.contextmanager
def answering(status: int, body: bytes, content_type: str = "text/event-stream") -> Iterator[str]:
    """A server that gives one fixed answer; its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def events(*chunks: dict[str, Any], done: bool = True) -> bytes:
    end = b"data: [DONE]\n\n" if done else b""
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + end


def chunk(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], **more}


def fail(base_url: str) -> tuple[str, list[str]]:
    """What the failure says, and what had been shown by then."""
    shown: list[str] = []
    with pytest.raises(DemoError) as failed:
        ask(base_url, "demo", "Hello", shown.append, shown.append)
    return str(failed.value), shown


def test_by_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    message, shown = fail(f"http://127.0.0.1:{port}/v1")
    assert message.startswith("the question was not answered: ")
    assert shown == []


def test_but_with_an_error() -> None:
    error = {"error": {"message": "No model answered.", "type": "server_error", "code": None, "param": None}}
    with answering(502, json.dumps(error).encode(), "application/json") as base_url:
        message, _ = fail(base_url)
    assert "No model answered." in message


def test_to_its_end() -> None:
    with answering(200, events(chunk({"content": "Hel"}), done=False)) as base_url:
        assert fail(base_url) == ("the answer broke off", ["Hel"])


def test_with_an_error_in_the_middle() -> None:
    broken = events(chunk({"content": "Hel"}), {"error": {"message": "The answer broke off: reset."}}, done=False)
    with answering(200, broken) as base_url:
        message, shown = fail(base_url)
    assert "The answer broke off: reset." in message
    assert shown == ["Hel"]


@pytest.mark.parametrize("more", [{}, {"moa": {"degraded": [], "stages": 3}}])
def test_with_what_was_done_for_it(more: dict[str, Any]) -> None:
    with answering(200, events(chunk({"reasoning_content": "Hm"}), chunk({}, "stop", **more))) as base_url:
        message, shown = fail(base_url)
    assert message.startswith("the answer does not say as it should what was done for it: ")
    assert shown == ["Hm"]
