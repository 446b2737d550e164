"""JSON that satisfies a schema, as guided decoding would have produced it.

Covers what response formats and tool parameters are made of: types, `enum`, `const`, `properties`, `items`, bounds,
`anyOf`/`oneOf`/`allOf`, `$ref` into `$defs`. Patterns are not solved; formats are, where they are common.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from moa_simulator.dice import Dice
from moa_simulator.vocabulary import words

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_MAX_DEPTH: Final = 12
_FORMATS: Final[Mapping[str, str]] = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "ipv4": "192.0.2.1",
}


def instance(schema: object, dice: Dice) -> Json:
    """Makes an instance of a schema; of something that is no schema, an object with an answer."""
    return _Maker(schema, dice).make(schema, 0)


class _Maker:
    def __init__(self, root: object, dice: Dice) -> None:
        self._root = root
        self._dice = dice

    def make(self, schema: object, depth: int) -> Json:
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return " ".join(words(self._dice, 3))
        schema = self._resolved(schema)
        if "const" in schema:
            return _json(schema["const"])
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return _json(self._dice.pick(schema["enum"]))
        for keyword in ("anyOf", "oneOf"):
            if isinstance(schema.get(keyword), list) and schema[keyword]:
                return self.make({**_without(schema, keyword), **_mapping(schema[keyword][0])}, depth + 1)
        return self._typed(schema, depth)

    def _resolved(self, schema: Mapping[str, object]) -> Mapping[str, object]:
        for _ in range(_MAX_DEPTH):
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                break
            schema = {**_without(schema, "$ref"), **_mapping(self._at(reference))}
        merged = dict(schema)
        parts = merged.pop("allOf", None)
        if not isinstance(parts, list):
            return schema
        for part in parts:
            merged = _merge(merged, self._resolved(_mapping(part)))
        return merged

    def _at(self, reference: str) -> object:
        place: object = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            place = _mapping(place).get(step.replace("~1", "/").replace("~0", "~"), {}) if step else place
        return place

    def _typed(self, schema: Mapping[str, object], depth: int) -> Json:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = kind[0] if kind else None
        match kind:
            case "string":
                return self._string(schema)
            case "integer":
                return round(self._number(schema, step=1))
            case "number":
                return self._number(schema, step=0)
            case "boolean":
                return self._dice.below(2) == 1
            case "null":
                return None
            case "array":
                return self._array(schema, depth)
            case _:
                return self._object(schema, depth)

    def _string(self, schema: Mapping[str, object]) -> str:
        form = schema.get("format")
        if isinstance(form, str) and form in _FORMATS:
            return _FORMATS[form]
        text = " ".join(words(self._dice, 4))
        least, most = _whole(schema.get("minLength"), 0), _whole(schema.get("maxLength"), len(text))
        return text.ljust(least, "x")[: max(most, least)]

    def _number(self, schema: Mapping[str, object], step: int) -> float:
        multiple = _real(schema.get("multipleOf"), float(step))
        least = _real(
            schema.get("minimum"), _real(schema.get("exclusiveMinimum"), 0.0) if "maximum" not in schema else 0.0
        )
        if "exclusiveMinimum" in schema:
            least = _real(schema["exclusiveMinimum"], least) + (multiple or 0.001)
        most = _real(schema.get("maximum"), max(least, 0.0) + 100)
        if "exclusiveMaximum" in schema:
            most = _real(schema["exclusiveMaximum"], most) - (multiple or 0.001)
        least = min(least, most) if "minimum" not in schema and "exclusiveMinimum" not in schema else least
        if not multiple:
            return round(least + self._dice.unit() * (most - least), 3) if most > least else least
        first = -(-least // multiple)
        return (first + self._dice.below(int(max(0, most // multiple - first)) + 1)) * multiple

    def _array(self, schema: Mapping[str, object], depth: int) -> Json:
        least = _whole(schema.get("minItems"), 1)
        length = max(least, min(2, _whole(schema.get("maxItems"), 2)))
        prefix = schema.get("prefixItems")
        items: list[Json] = [self.make(part, depth + 1) for part in prefix] if isinstance(prefix, list) else []
        while len(items) < length and schema.get("items") is not False:
            items.append(self.make(schema.get("items", {"type": "string"}), depth + 1))
        return items

    def _object(self, schema: Mapping[str, object], depth: int) -> Json:
        properties = _mapping(schema.get("properties"))
        required = schema.get("required")
        names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        if depth < _MAX_DEPTH // 2:
            names += [name for name in properties if name not in names]
        made: dict[str, Json] = {name: self.make(properties.get(name, {"type": "string"}), depth + 1) for name in names}
        if made or "properties" in schema or depth:
            return made
        return {"answer": " ".join(words(self._dice, 8)), "score": self._dice.below(101)}


def _merge(left: Mapping[str, object], right: Mapping[str, object]) -> dict[str, object]:
    merged = {**left, **right}
    if "properties" in left and "properties" in right:
        merged["properties"] = {**_mapping(left["properties"]), **_mapping(right["properties"])}
    if "required" in left and "required" in right:
        merged["required"] = [*_items(left["required"]), *_items(right["required"])]
    return merged


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _without(schema: Mapping[str, object], keyword: str) -> dict[str, object]:
    return {key: value for key, value in schema.items() if key != keyword}


def _json(value: object) -> Json:
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    assert value is None or isinstance(value, bool | int | float | str)
    return value


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise


def _real(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise
