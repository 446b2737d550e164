"""One question through the official OpenAI SDK, as any client would ask it."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from openai import DefaultHttpxClient, OpenAI, OpenAIError
from pydantic import ValidationError

from moa_router.demo.errors import DemoError
from moa_router.demo.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from openai.types.chat import ChatCompletionChunk

SYSTEM = "You are a helpful assistant. Answer briefly and in plain words."
#: The router's own deadline is shorter; this one is for a router that does not keep it.
_TIMEOUT_SECONDS = 400.0


@dataclass(slots=True, frozen=True)
class Answer:
    """A streamed answer that has ended.

    Attributes:
        report: what was done for it.
        seconds: how long it took.
        finish_reason: why it ended.
    """

    report: Report
    seconds: float
    finish_reason: str


def ask(
    base_url: str, model: str, question: str, on_candidates: Callable[[str], None], on_answer: Callable[[str], None]
) -> Answer:
    """Ask, and pass every piece of text on as it comes.

    Args:
        base_url: the endpoint, with its `/v1`.
        model: the model to name.
        question: what to ask.
        on_candidates: told the candidates' text, piece by piece.
        on_answer: told the answer's text, piece by piece.

    Raises:
        DemoError: the request failed, or the answer ended without saying what was done for it.
    """
    report: Report | None = None
    finish_reason = ""
    started = monotonic()
    # proxies of the environment are for other hosts than this one
    with (
        DefaultHttpxClient(trust_env=False) as http,
        OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=_TIMEOUT_SECONDS, http_client=http) as client,
    ):
        try:
            stream = client.chat.completions.create(
                model=model,
                messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}],
                stream=True,
            )
            for chunk in stream:
                _show(chunk, on_candidates, on_answer)
                if chunk.choices and chunk.choices[0].finish_reason is not None:
                    finish_reason = chunk.choices[0].finish_reason
                    report = Report.model_validate((chunk.model_extra or {}).get("moa"))
        except OpenAIError as error:
            raise DemoError(f"the question was not answered: {error}") from error
        except ValidationError as error:
            raise DemoError(f"the answer does not say as it should what was done for it: {error}") from error
    if report is None:
        raise DemoError("the answer broke off")
    return Answer(report, monotonic() - started, finish_reason)


def _show(chunk: ChatCompletionChunk, on_candidates: Callable[[str], None], on_answer: Callable[[str], None]) -> None:
    for choice in chunk.choices:
        # not a field of OpenAI's, but the one that servers and clients agreed upon
        reasoning = (choice.delta.model_extra or {}).get("reasoning_content")
        if isinstance(reasoning, str):
            on_candidates(reasoning)
        if choice.delta.content:
            on_answer(choice.delta.content)
