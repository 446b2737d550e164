"""Refusals, in the words of vLLM and llama.cpp."""

import msgspec


class RefusalError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: For the client.
        kind: The error's `type`.
        param: The field at fault.
    """

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        """Writes the error as vLLM does."""
        return error_body(self.status, self.message, self.kind, self.param)


def error_body(status: int, message: str, kind: str, param: str | None = None) -> bytes:
    """Writes an error as vLLM does: `code` is the status, as a number."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status}})


def unknown_model(model: str) -> RefusalError:
    """The model is not served here."""
    return RefusalError(404, f"The model `{model}` does not exist.", "NotFoundError", "model")


def context_overflow(limit: int, prompt: int, output: int) -> RefusalError:
    """Prompt and answer together exceed the model's length."""
    return RefusalError(
        400,
        f"This model's maximum context length is {limit} tokens. However, you requested {output} output tokens and "
        f"your prompt contains {prompt} input tokens, for a total of {prompt + output} tokens. Please reduce the "
        "length of the input prompt or the number of requested output tokens.",
        param="input_tokens",
    )


def no_images(model: str) -> RefusalError:
    """The model reads text only."""
    return RefusalError(400, f"{model} is not a multimodal model")


def no_tools(choice: str) -> RefusalError:
    """The server was started without a tool-call parser."""
    return RefusalError(
        400,
        f'"{choice}" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        param="tool_choice",
    )


def one_choice_only() -> RefusalError:
    """The server gives one choice (llama.cpp's words: vLLM itself never refuses)."""
    return RefusalError(400, "Only one completion choice is allowed", "invalid_request_error", "n")


def no_structured_output() -> RefusalError:
    """The server has no grammar back end."""
    return RefusalError(400, "Structured outputs are not supported by this model", param="response_format")


def overloaded(waiting: int) -> RefusalError:
    """The waiting queue is full (the simulator's own: vLLM's has no bound)."""
    return RefusalError(503, f"The server is overloaded: {waiting} requests are waiting", "ServiceUnavailableError")
