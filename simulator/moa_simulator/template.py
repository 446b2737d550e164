"""From a conversation to the prompt's tokens, the way a chat template does it.

Tools come first, then the turns in order between role markers (source: the ChatML templates of Qwen and SmolLM2, except
that their tools stand behind the system prompt's text). A prompt is a sequence of tokens, so equal beginnings of two
conversations are equal beginnings of two prompts, whatever follows.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from moa_simulator.protocol.requests import Message, Part, Tool
from moa_simulator.tokens import tokenize

_START, _END = "<|im_start|>", "<|im_end|>"


def render(messages: Sequence[Message], tools: Sequence[Tool], image_tokens: int) -> list[str]:
    """Renders a conversation, ending where the assistant's turn begins.

    Args:
        messages: The turns.
        tools: Tools on offer.
        image_tokens: How many tokens an image becomes.
    """
    prompt: list[str] = []
    if tools:
        prompt += (_START, "tools", "\n")
        for tool in tools:
            prompt += tokenize(msgspec.json.encode(tool).decode())
        prompt += (_END, "\n")
    for message in messages:
        prompt += (_START, message.role, "\n")
        if message.name:
            prompt += (*tokenize(message.name), ":\n")
        prompt += content_tokens(message.content, image_tokens)
        for call in message.tool_calls or ():
            prompt += tokenize(f"<tool_call>{call.function.name} {call.function.arguments}</tool_call>")
        prompt += (_END, "\n")
    prompt += (_START, "assistant", "\n")
    return prompt


def content_tokens(content: str | Sequence[Part] | None, image_tokens: int) -> Sequence[str]:
    """Renders a turn's content; each image becomes placeholders of its own, so different images share no block."""
    if content is None:
        return ()
    if isinstance(content, str):
        return tokenize(content)
    tokens: list[str] = []
    for part in content:
        tokens += _image(part, image_tokens) if is_image(part) else tokenize(part.text)
    return tokens


def is_image(part: Part) -> bool:
    """Says whether a piece of content is an image."""
    return part.type in ("image_url", "input_image", "image")


def text_of(content: str | Sequence[Part] | None) -> str:
    """Gives the text of a turn's content."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def _image(part: Part, image_tokens: int) -> list[str]:
    url = part.image_url.url if part.image_url is not None and not isinstance(part.image_url, str) else part.image_url
    digest = hashlib.blake2b((url or "").encode(), digest_size=8).hexdigest()
    return [f"<|image:{digest}|>"] * image_tokens
