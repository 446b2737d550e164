"""Identifiers of requests and answers."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def request_id(headers: Mapping[str, str]) -> str:
    """The client's `x-request-id`, if it is fit to be repeated in headers and logs; else a fresh one."""
    value = headers.get("x-request-id")
    return value if value is not None and _REQUEST_ID.fullmatch(value) else random_id()


def random_id() -> str:
    """An identifier to tell requests apart by; nobody gains anything by guessing one."""
    return f"{random.getrandbits(96):024x}"
