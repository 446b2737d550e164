"""One record, one line that nothing in it can forge, and nothing secret in an exception."""

import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa_router.telemetry import logs
from moa_router.telemetry.logs import ConsoleFormatter, JsonFormatter, configure

SECRET = "sk-very-secret"

Error = TypeVar("Error", bound=Exception)


@pytest.fixture
def restored(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """Undo what `configure` does to the process."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logs._QUIET)]
    levels = [logger.level for logger in loggers]
    handlers = list(logging.getLogger().handlers)
    try:
        with warnings.catch_warnings():
            yield capsys
            logging.captureWarnings(capture=False)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        logging.getLogger().handlers = handlers


def record(
    message: str = "hello", *args: object, error: BaseException | None = None, **extra: object
) -> logging.LogRecord:
    made = logging.LogRecord("moa_router.test", logging.WARNING, __file__, 1, message, args, None)
    made.exc_info = (type(error), error, error.__traceback__) if error is not None else None
    vars(made).update(extra)
    return made


def as_json(made: logging.LogRecord) -> dict[str, object]:
    line = JsonFormatter().format(made)
    assert line.isascii()
    assert line.isprintable()
    parsed: dict[str, object] = json.loads(line)
    return parsed


def raised(error: Error) -> Error:
    password = SECRET
    with pytest.raises(type(error)) as caught:
        raise error
    assert password
    return caught.value


def test_a_record_becomes_an_object_with_its_facts() -> None:
    line = as_json(record("fused %d of %s", 3, "4", request_id="req-1", calls=4, cost=0.5, degraded=False, tenant=None))

    time = line.pop("time")
    assert line == {
        "level": "warning",
        "logger": "moa_router.test",
        "message": "fused 3 of 4",
        "request_id": "req-1",
        "calls": 4,
        "cost": 0.5,
        "degraded": False,
        "tenant": None,
    }
    assert isinstance(time, str)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert datetime.fromisoformat(time).utcoffset() == timedelta(0)


def test_an_extra_cannot_replace_what_every_line_has() -> None:
    line = as_json(record("true", level="debug", logger="liar", time="never", exception="none"))

    assert (line["level"], line["logger"], line["message"]) == ("warning", "moa_router.test", "true")
    assert line["time"] != "never"
    assert "exception" not in line


def test_what_json_cannot_hold_becomes_text() -> None:
    line = as_json(record(endless=float("inf"), unknown=float("nan"), error=ValueError("no"), several=[1, "two"]))

    assert line["endless"] == "inf"
    assert line["unknown"] == "nan"
    assert line["several"] == "[1, 'two']"


HOSTILE = [
    'ok"}\n{"level":"error","message":"forged',
    "a\r\nb",
    "clear\x1b[2Jscreen",
    "next\u2028line\u2029and\x85more",
    "right\u202eto left",
    "lone\ud800surrogate",
    "nul\x00del\x7fcsi\x9b",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_record_forges_another_line(text: str) -> None:
    line = as_json(record(text, request_id=text))
    assert (line["message"], line["request_id"]) == (text, text)

    shown = ConsoleFormatter().format(record(text, request_id=text, error=raised(ValueError(text))))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]", shown)
    start, *rest = shown.split("\n")
    assert "WARNING" in start
    assert all(line.startswith("  ") for line in rest)


@settings(deadline=None)
@given(message=st.text(), value=st.text())
def test_any_text_is_one_line(message: str, value: str) -> None:
    line = as_json(record("%s", message, value=value))
    assert (line["message"], line["value"]) == (message, value)

    shown = ConsoleFormatter().format(record("%s", message, value=value))
    assert len(shown.splitlines()) == 1
    assert shown.encode("utf-8")


def test_a_value_cannot_forge_another_field_on_the_console() -> None:
    shown = ConsoleFormatter().format(record("hello", request_id='x outcome="ok"', profile="research"))

    assert shown.endswith(r'hello request_id="x outcome=\"ok\"" profile=research')


def test_an_exception_is_type_message_and_frames_without_variables() -> None:
    inner = raised(KeyError("missing"))
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("the profile cannot be read") from inner
    outer = caught.value

    line = as_json(record(error=outer))
    exception = line["exception"]
    assert isinstance(exception, dict)
    assert exception["type"] == "RuntimeError"
    assert exception["message"] == "the profile cannot be read"
    assert re.fullmatch(r".*test_logs\.py:\d+ test_an_exception_is_type_message.*", exception["frames"][-1])
    assert exception["cause"]["type"] == "KeyError"
    assert exception["cause"]["frames"][-1].endswith(" raised")
    shown = ConsoleFormatter().format(record(error=outer))
    assert "\n  RuntimeError: the profile cannot be read\n    at " in shown
    assert "\n    KeyError: 'missing'\n      at " in shown
    for text in (json.dumps(line), shown):
        assert SECRET not in text


def parse_profile(text: str, *, show_context: bool) -> None:
    try:
        json.loads(text)
    except ValueError:
        if show_context:
            raise RuntimeError("no profile")  # noqa: B904 - the context is what is tested
        raise RuntimeError("no profile") from None


@pytest.mark.parametrize("show_context", [True, False])
def test_a_context_is_shown_unless_suppressed(show_context: bool) -> None:
    with pytest.raises(RuntimeError) as caught:
        parse_profile("{", show_context=show_context)
    exception = as_json(record(error=caught.value))["exception"]

    assert isinstance(exception, dict)
    assert ("cause" in exception) == show_context


def test_members_of_an_exception_group_are_shown() -> None:
    members: list[Exception] = [ValueError("one"), raised(TimeoutError("two"))]
    group = raised(ExceptionGroup("two failed", members))

    exception = as_json(record(error=group))["exception"]
    assert isinstance(exception, dict)
    assert [member["type"] for member in exception["group"]] == ["ValueError", "TimeoutError"]
    shown = ConsoleFormatter().format(record(error=group))
    assert "    ValueError: one" in shown
    assert "    TimeoutError: two" in shown


def test_an_exception_that_causes_itself_ends() -> None:
    one, other = raised(ValueError("one")), raised(ValueError("other"))
    one.__cause__, other.__cause__ = other, one

    assert len(JsonFormatter().format(record(error=one))) < 20_000
    assert len(ConsoleFormatter().format(record(error=one)).splitlines()) < 40


def test_a_deep_recursion_is_cut() -> None:
    def deep(left: int) -> None:
        if left == 0:
            raise ValueError("bottom")
        deep(left - 1)

    with pytest.raises(ValueError, match="bottom") as caught:
        deep(200)
    exception = as_json(record(error=caught.value))["exception"]
    assert isinstance(exception, dict)
    assert len(exception["frames"]) == 40
    assert exception["frames"][-1].endswith(" deep")


def test_long_texts_are_cut() -> None:
    line = as_json(record("m" * 100_000, value="v" * 100_000, error=raised(ValueError("e" * 100_000))))

    assert len(json.dumps(line)) < 30_000
    assert str(line["message"]).endswith("… (100000 characters)")


def test_arguments_that_do_not_fit_are_left_out() -> None:
    assert as_json(record("%d calls", SECRET))["message"] == "%d calls (arguments do not fit)"


def test_configured_records_go_to_standard_error_by_level(restored: pytest.CaptureFixture[str]) -> None:
    configure("INFO", "json")
    logger = logging.getLogger("moa_router.test")
    logger.info("shown", extra={"profile": "research"})
    logger.debug("not shown")
    logging.getLogger("aiohttp.access").info("not shown")
    logging.getLogger("urllib3").warning("not shown")

    (line,) = map(json.loads, restored.readouterr().err.splitlines())
    assert (line["message"], line["profile"]) == ("shown", "research")


def test_configured_again_it_writes_once_in_the_new_way(restored: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    configure("debug", "console")
    logging.getLogger("moa_router.test").debug("once")

    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} DEBUG   moa_router\.test: once\n", restored.readouterr().err)


def test_warnings_become_records(restored: pytest.CaptureFixture[str]) -> None:
    configure()
    warnings.simplefilter("always")
    warnings.warn("this is old", DeprecationWarning, stacklevel=1)

    (line,) = map(json.loads, restored.readouterr().err.splitlines())
    assert line["logger"] == "py.warnings"
    assert "this is old" in line["message"]


def test_a_record_that_cannot_be_written_says_so_without_its_contents(restored: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError(SECRET)

    configure()
    logging.getLogger("moa_router.test").error("broken", extra={"value": Broken(), "key": SECRET})

    (line,) = map(json.loads, restored.readouterr().err.splitlines())
    assert line["message"] == "a record of moa_router.test could not be written"
    assert SECRET not in json.dumps(line)


@pytest.mark.parametrize(
    ("level", "form", "message"),
    [
        ("loud", "json", "there is no log level 'loud'; write one of debug, info, warning, error"),
        ("info", "xml", "there is no log format 'xml'; write one of json, console"),
    ],
)
def test_a_wrong_option_is_refused_with_the_right_ones(level: str, form: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        configure(level, form)


def test_a_process_logs_to_standard_error_only() -> None:
    code = "from moa_router.telemetry.logs import configure; import logging; configure(); logging.warning('hello')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert json.loads(result.stderr)["message"] == "hello"
    assert result.stdout == ""
