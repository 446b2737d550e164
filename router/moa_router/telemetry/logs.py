r"""Log records as lines on standard error: JSON for machines, one object a line, or text for people.

The rule of every logging call of this router: **never a prompt, a completion, a key, a header's value or an upstream's
text**. Log what happened in words of ours and put facts into ``extra`` (``request_id``, ``trace_id``, ``profile``,
``upstream``, ``outcome``, numbers). Exceptions are written as type, message and frames, never with local variables;
an exception whose message quotes foreign text is to be logged by its type.

Whatever gets into a record, it cannot forge another: control characters, line separators and the marks that reorder
text are escaped in both formats, and what is too long is cut.
"""

import contextlib
import json
import logging
import math
import re
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, get_args

Level = Literal["debug", "info", "warning", "error"]
"""The least severe level to write."""

Format = Literal["json", "console"]
"""``json`` for collectors, ``console`` for eyes."""

Value = str | int | float | bool | None
"""What a field of a log line may be."""

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_CORE: Final = frozenset({"time", "level", "logger", "message", "exception"})
_LONGEST = 8192
_FRAMES = 40
_NESTING = 6
_MEMBERS = 10

_BARE: Final = re.compile(r'[^\s"=]+')
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_QUIET: Final = {
    "aiohttp.access": logging.WARNING,
    "asyncio": logging.WARNING,
    "opentelemetry": logging.WARNING,
    "urllib3": logging.ERROR,
}
"""Loggers of others that say too much at ``debug`` and ``info``."""


def configure(level: Level | str = "info", format: Format | str = "json") -> None:  # noqa: A002 - the option's name
    """Write every log record of the process, and every warning, to standard error.

    May be called again, to change either.

    Args:
        level: The least severe level to write, in any case.
        format: ``json`` or ``console``.

    Raises:
        ValueError: There is no such level or format.
    """
    if level.lower() not in get_args(Level):
        raise ValueError(f"there is no log level {level!r}; write one of {', '.join(get_args(Level))}")
    if format not in get_args(Format):
        raise ValueError(f"there is no log format {format!r}; write one of {', '.join(get_args(Format))}")
    root = logging.getLogger()
    for former in [handler for handler in root.handlers if isinstance(handler, _StandardError)]:
        root.removeHandler(former)
    handler = _StandardError(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else ConsoleFormatter())
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII.

    ``time`` (RFC 3339, UTC, milliseconds), ``level``, ``logger``, ``message``, then the record's extras, then
    ``exception`` (``type``, ``message``, ``frames``, innermost last; ``cause`` and ``group`` of the same shape).
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(_message(record)),
        }
        line.update((key, value) for key, value in _extras(record).items() if key not in _CORE)
        error = _exception(record)
        if error is not None:
            line["exception"] = _describe(error)
        return json.dumps(line, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


class ConsoleFormatter(logging.Formatter):
    """A line for eyes: UTC time, level, logger, message, ``key=value``; an exception follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, and a few more for an exception."""
        start = f"{_time(record)[11:23]} {record.levelname:<7} {record.name}: {_escape(_cut(_message(record)))}"
        fields = [f"{key}={_token(value)}" for key, value in _extras(record).items()]
        error = _exception(record)
        return "\n".join([" ".join([start, *fields]), *(_lines(error) if error is not None else [])])


class _StandardError(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        # The default prints the record's arguments and a traceback: neither one line nor fit to be seen.
        line = {"level": "error", "logger": __name__, "message": f"a record of {record.name} could not be written"}
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(json.dumps(line) + "\n")


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} (arguments do not fit)"


def _extras(record: logging.LogRecord) -> dict[str, Value]:
    return {key: _plain(value) for key, value in vars(record).items() if key not in _STANDARD}


def _plain(value: object) -> Value:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"


def _escape(text: str) -> str:
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def _token(value: Value) -> str:
    text = _escape(str(value))
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _exception(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _describe(error: BaseException, depth: int = 0) -> dict[str, object]:
    described: dict[str, object] = {"type": _type(error), "message": _cut(str(error)), "frames": _frames(error)}
    if depth < _NESTING:
        cause = _cause(error)
        if cause is not None:
            described["cause"] = _describe(cause, depth + 1)
        if isinstance(error, BaseExceptionGroup):
            described["group"] = [_describe(member, depth + 1) for member in error.exceptions[:_MEMBERS]]
    return described


def _lines(error: BaseException, depth: int = 0) -> Iterator[str]:
    indent = "  " * (depth + 1)
    yield f"{indent}{_type(error)}: {_escape(_cut(str(error)))}"
    yield from (f"{indent}  at {_escape(frame)}" for frame in _frames(error))
    if depth < _NESTING:
        cause = _cause(error)
        if cause is not None:
            yield from _lines(cause, depth + 1)
        if isinstance(error, BaseExceptionGroup):
            for member in error.exceptions[:_MEMBERS]:
                yield from _lines(member, depth + 1)


def _type(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _frames(error: BaseException) -> list[str]:
    frames = traceback.walk_tb(error.__traceback__)
    return [f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}" for frame, line in frames][-_FRAMES:]
