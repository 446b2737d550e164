"""Configuration: what is accepted, and what a mistake is told."""

from pathlib import Path

import pytest

from moa_simulator import ConfigError, ModelConfig, SimulatorConfig


def test_flag_with_settings() -> None:
    model = ModelConfig.from_flag("Qwen/Qwen3-32B,ttft=0.2,tokens=7,vision=false,chunks=llamacpp")
    assert model.name == "Qwen/Qwen3-32B"
    assert (model.ttft, model.tokens, model.vision, model.chunks) == (0.2, 7, False, "llamacpp")


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("m,ttft", "--model m: 'ttft' is not key=value, write for example ttft=0.2"),
        ("m,speed=3", "--model m: speed: no such setting; there are name, ttft, inter_token"),
        ("m,ttft=-1", "--model m: ttft: Input should be greater than or equal to 0"),
        (",ttft=1", "--model : name: String should have at least 1 character"),
    ],
)
def test_a_wrong_flag_is_told_what_to_write(flag: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_flag(flag)
    assert str(caught.value).startswith(told)


def test_file_with_models_and_rules(tmp_path: Path) -> None:
    file = tmp_path / "sim.yaml"
    file.write_text(
        """
        models:
        - {name: qwen, ttft: 0.1, max_concurrent: 4}
        - name: vision
        rules:
        - match: {model: qwen, stream: true, contains: hello}
          times: 2
          action: {status: {code: 429, headers: {retry-after: "3"}}}
        - action: {reply: "fine", delay: 0.5}
        """
    )
    config = SimulatorConfig.from_file(file)
    assert [model.name for model in config.models] == ["qwen", "vision"]
    first, second = config.rules
    assert first.times == 2
    assert first.action.status is not None
    assert first.action.status.headers == {"retry-after": "3"}
    assert second.action.reply is not None
    assert second.action.reply.words(3) == "fine"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("models: [{name: a}, {name: a}]", "two models are named 'a'; give each its own name"),
        ("models: [{name: a, ttft: soon}]", "models.0.ttft: Input should be a valid number"),
        ("modles: []", "modles: no such setting; there are models, rules"),
        ("rules: [{action: {reset: {}, hang: {}}}]", "reset and hang exclude each other; write one rule for each"),
        ("rules: [{action: {explode: 1}}]", "rules.0.action.explode: Extra inputs are not permitted"),
        ("models: [", "not YAML"),
    ],
)
def test_a_wrong_file_is_told_where_and_why(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "sim.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        SimulatorConfig.from_file(file)
    assert told in str(caught.value)
    assert str(caught.value).startswith(str(file))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        SimulatorConfig.from_file(tmp_path / "none.yaml")


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "sim.yaml").touch()
    assert SimulatorConfig.from_file(tmp_path / "sim.yaml") == SimulatorConfig()
