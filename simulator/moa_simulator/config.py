"""What can be configured, and how a mistake in it is reported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moa_simulator.rules import Rule

Seconds = Annotated[float, Field(ge=0, le=3600)]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the place and what is expected there."""


class ModelConfig(BaseModel):
    """One simulated model.

    Attributes:
        name: The name that requests use.
        ttft: Seconds from admission to the first token.
        inter_token: Seconds between decoding steps; 0 is as fast as the machine goes.
        prefill_per_token: Seconds added to `ttft` for each prompt token that was not in the prefix cache.
        max_concurrent: Requests that run at once; the others wait in order. None: no bound.
        max_waiting: Requests that may wait; one more is refused with 503. None: no bound, as in vLLM.
        max_model_len: Tokens of prompt and answer together.
        tokens: Length of an answer nobody bounded, in tokens.
        tokens_spread: How far, as a fraction of `tokens`, an answer's length may lie from it, drawn by seed.
        vision: Accepts images.
        tools: Accepts `tools`; False is vLLM without a tool-call parser.
        structured_output: Accepts `response_format` and guided decoding.
        multiple_choices: Accepts `n` above 1.
        continuous_usage: Honours `stream_options.continuous_usage_stats`; False ignores it.
        prompt_tokens_details: Reports cached tokens in `usage` (vLLM's `--enable-prompt-tokens-details`).
        reasoning_tokens: Tokens of reasoning before each answer; 0: only when `enable_thinking` asks for it.
        reasoning_field: Name of the reasoning text's field; newer vLLM says `reasoning`.
        chunks: Whose chunk bytes to imitate.
        image_tokens: Prompt tokens that one image costs.
        cache_blocks: Size of the prefix cache in blocks; 0 turns it off.
        embedding_size: Dimensions of an embedding.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    ttft: Seconds = 0.0
    inter_token: Seconds = 0.0
    prefill_per_token: Seconds = 0.0
    max_concurrent: int | None = Field(default=None, ge=1)
    max_waiting: int | None = Field(default=None, ge=0)
    max_model_len: int = Field(default=32_768, ge=1)
    tokens: int = Field(default=64, ge=1)
    tokens_spread: float = Field(default=0.25, ge=0, le=1)
    vision: bool = True
    tools: bool = True
    structured_output: bool = True
    multiple_choices: bool = True
    continuous_usage: bool = True
    prompt_tokens_details: bool = True
    reasoning_tokens: int = Field(default=0, ge=0)
    reasoning_field: Literal["reasoning_content", "reasoning"] = "reasoning_content"
    chunks: Literal["vllm", "llamacpp"] = "vllm"
    image_tokens: int = Field(default=256, ge=1)
    cache_blocks: int = Field(default=8192, ge=0)
    embedding_size: int = Field(default=64, ge=1, le=8192)

    @classmethod
    def from_flag(cls, text: str) -> Self:
        """Reads the command line's form, `NAME[,key=value…]`.

        Raises:
            ConfigError: A key is unknown, a value does not fit, or something is not `key=value`.
        """
        name, *settings = text.split(",")
        fields: dict[str, str] = {"name": name}
        for setting in settings:
            key, separator, value = setting.partition("=")
            if not separator:
                raise ConfigError(f"--model {name}: {setting!r} is not key=value, write for example ttft=0.2")
            fields[key.strip()] = value.strip()
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise ConfigError(_explain(f"--model {name}", error, known=list(cls.model_fields))) from None


class SimulatorConfig(BaseModel):
    """One simulated server.

    Attributes:
        models: The models it serves.
        rules: Faults and scripts in force from the start.
        record: Keep a record of every call; turn off for load.
        max_calls: How many records are kept, oldest dropped first.
        max_body: Largest request body accepted, in bytes.
        keep_alive: Seconds after which an idle connection is closed.
        api_key: When set, `/v1` paths want it as a bearer token.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[ModelConfig, ...] = Field(default=(ModelConfig(name="sim"),), min_length=1)
    rules: tuple[Rule, ...] = ()
    record: bool = True
    max_calls: int = Field(default=10_000, ge=1)
    max_body: int = Field(default=64 * 1024 * 1024, ge=1)
    keep_alive: Seconds = 75.0
    api_key: str | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [model.name for model in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two models are named {twice[0]!r}; give each its own name")
        return self

    def with_settings(self, settings: Mapping[str, object]) -> Self:
        """Gives a copy with other settings, checked as a whole.

        Raises:
            ConfigError: They do not fit.
        """
        try:
            return type(self).model_validate({**dict(self), **settings})
        except ValidationError as error:
            raise ConfigError(_explain("moa-sim", error, known=list(type(self).model_fields))) from None

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Reads a YAML file with this class's fields.

        Raises:
            ConfigError: The file cannot be read, is not YAML, or does not fit.
        """
        try:
            document = yaml.safe_load(path.read_text())
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not YAML: {error}") from None
        try:
            return cls.model_validate(document or {})
        except ValidationError as error:
            raise ConfigError(_explain(str(path), error, known=list(cls.model_fields))) from None


def _explain(source: str, error: ValidationError, known: list[str]) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"]
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
            message = f"no such setting; there are {', '.join(known)}"
        lines.append(f"{source}: {place}: {message}" if place else f"{source}: {message}")
    return "\n".join(lines)
