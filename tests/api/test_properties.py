"""What holds for any document, and for any valid profile."""

from collections.abc import Iterator
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.api.table import GOOD, edited

from moa_api.v1alpha1 import (
    ProfileError,
    dump_profile,
    format_duration,
    load_profile,
    parse_duration,
)

unhurried = settings(deadline=None)


def _paths(value: object, path: str = "") -> Iterator[str]:
    if path:
        yield path
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _paths(each, f"{path}.{name}" if path else str(name))
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _paths(entry, f"{path}[{index}]")


def _names(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _names(each)


FIELDS = st.sampled_from(sorted({name for row in GOOD for name in _names(row.document)}))
WORDS = st.sampled_from(["qwen", "2s", "50%", "Auto", "First", "APIKey", "/v1", "https://host", "\ud800", "x" * 300])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | WORDS
KEYS = FIELDS | st.text(max_size=8) | st.integers() | st.none()
VALUES = st.recursive(SCALARS, lambda each: st.lists(each, max_size=4) | st.dictionaries(KEYS, each, max_size=4))


@st.composite
def damaged_profiles(draw: st.DrawFn) -> object:
    """A good profile with something else in up to four places."""
    document = draw(st.sampled_from(GOOD)).document
    places = draw(st.lists(st.sampled_from(sorted(_paths(document))), min_size=1, max_size=4, unique=True))
    innermost_first = sorted(places, key=len, reverse=True)
    return edited(document, {place: draw(VALUES) for place in innermost_first})


def _read_or_refused(document: object) -> None:
    try:
        profile = load_profile(document)
    except ProfileError as error:
        problems = error.problems
    else:
        assert load_profile(dump_profile(profile)) == profile
        return
    assert problems
    assert all(": " in problem and problem.isprintable() for problem in problems)
    assert len(set(problems)) == len(problems)


@unhurried
@given(VALUES)
def test_any_document_is_read_or_refused(document: object) -> None:
    _read_or_refused(document)


@unhurried
@given(damaged_profiles())
def test_any_damage_is_read_or_refused(document: object) -> None:
    _read_or_refused(document)


NANOSECONDS = st.integers(min_value=0, max_value=24 * 3600 * 10**9)


@unhurried
@given(NANOSECONDS)
def test_a_duration_is_written_as_it_is_read(nanoseconds: int) -> None:
    seconds = nanoseconds / 10**9
    assert float(parse_duration(format_duration(seconds))) == seconds


@unhurried
@given(st.integers(0, 99), st.integers(0, 99), st.decimals(0, 99, places=3), st.integers(0, 999))
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: Decimal, milliseconds: int) -> None:
    text = f"{hours}h{minutes}m{seconds}s{milliseconds}ms"
    assert parse_duration(text) == hours * 3600 + minutes * 60 + seconds + Decimal(milliseconds) / 1000


SHARES = st.integers(1, 100).map(lambda percent: f"{percent}%")


@st.composite
def valid_profiles(draw: st.DrawFn) -> dict[str, object]:
    """A profile of free choice within the bounds of the API."""
    names = draw(st.lists(st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True), min_size=1, unique=True))
    names = names[:24]
    name = st.sampled_from(names)
    duration = st.integers(1, 3_600_000).map(lambda milliseconds: f"{milliseconds}ms")
    endpoint = st.just({"url": "https://host:8443", "tls": {}}) | st.builds(
        lambda port: {"service": {"name": "vllm", "port": port}}, st.integers(1, 65535)
    )
    price = st.decimals(0, 1000, places=4).map(float)
    member = st.fixed_dictionaries(
        {"upstream": name},
        optional={
            "samples": st.integers(1, 2),
            "temperature": st.floats(0, 2),
            "topP": st.floats(0, 1, exclude_min=True),
            "timeout": duration,
            "weight": st.floats(0, 100, exclude_min=True),
            "role": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
        },
    )
    upstreams = [
        {
            "name": each,
            "model": f"org/{each}",
            **draw(endpoint),
            **draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "contextLength": st.integers(256, 10**6),
                        "pricing": st.fixed_dictionaries({"inputPerMillion": price, "outputPerMillion": price}),
                        "parameters": st.dictionaries(st.from_regex(r"x[a-z]{1,5}", fullmatch=True), st.floats(0, 1)),
                    },
                )
            ),
        }
        for each in names
    ]
    return {
        "apiVersion": "moa-operator.io/v1alpha1",
        "kind": "MoAProfile",
        "metadata": {"name": names[0]},
        "spec": {
            "upstreams": upstreams,
            "panel": {
                "members": draw(st.lists(member, min_size=1, max_size=8)),
                "layers": draw(st.integers(1, 4)),
                "quorum": draw(st.none() | SHARES | st.just(1)),
                "grace": draw(duration),
            },
            "aggregator": {"upstream": draw(name), "strategy": draw(st.sampled_from(["Synthesize", "First"]))},
            "gate": {"single": draw(st.none() | name)},
            "timeouts": {"request": "1h", "connect": draw(duration), "member": draw(duration)},
        },
    }


@unhurried
@given(valid_profiles())
def test_any_valid_profile_is_read_and_written_back_as_its_equal(document: dict[str, object]) -> None:
    profile = load_profile(document)
    assert load_profile(dump_profile(profile)) == profile
