"""JSON that satisfies a schema, as guided decoding would have produced it.

Covers what response formats and tool parameters are made of: types, `enum`, `const`, `properties`, `items`, bounds,
`anyOf`/`oneOf`/`allOf`, `$ref` into `$defs`. Patterns are not solved; formats are, where they are common.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, cast

from moa_simulator.dice import Dice
from moa_simulator.vocabulary import words

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Schema = Mapping[str, object]

_MAX_DEPTH: Final = 12
_OPTIONAL_DEPTH: Final = 4
"""How deep properties that are not required are still made, so that recursive schemas end."""
_INTEGER_STEP: Final = 1.0
_NUMBER_STEP: Final = 0.001
_RANGE: Final = 100.0
"""Width of a number's range where the schema leaves it open."""
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
    """Makes an instance of a JSON Schema; of the empty one, an object with an answer and a score."""
    if not schema:
        return {"answer": " ".join(words(dice, 8)), "score": dice.below(101)}
    return _Maker(schema, dice).make(schema, 0)


class _Maker:
    def __init__(self, root: object, dice: Dice) -> None:
        self._root = root
        self._dice = dice

    def make(self, schema: object, depth: int) -> Json:
        if depth > _MAX_DEPTH:
            return None
        plain = self._flattened(_mapping(schema))
        if "const" in plain:
            return cast("Json", plain["const"])
        if options := _items(plain.get("enum")):
            return cast("Json", self._dice.pick(options))
        return self._typed(plain, depth)

    def _flattened(self, schema: Schema, hops: int = 0) -> Schema:
        """Resolves references and combinators until none is left at the top."""
        if hops > _MAX_DEPTH:
            return {}
        rest = {key: value for key, value in schema.items() if key not in ("$ref", "allOf", "anyOf", "oneOf")}
        parts: list[object] = list(_items(schema.get("allOf")))
        if isinstance(reference := schema.get("$ref"), str):
            parts.append(self._at(reference))
        parts += [options[0] for key in ("anyOf", "oneOf") if (options := _items(schema.get(key)))]
        for part in parts:
            rest = _merge(rest, self._flattened(_mapping(part), hops + 1))
        return rest

    def _at(self, reference: str) -> object:
        place: object = self._root
        for step in filter(None, reference.removeprefix("#").split("/")):
            place = _mapping(place).get(step.replace("~1", "/").replace("~0", "~"), {})
        return place

    def _typed(self, schema: Schema, depth: int) -> Json:
        match _kind(schema):
            case "string":
                return _string(schema, self._dice)
            case "integer":
                return round(_number(schema, self._dice, _INTEGER_STEP))
            case "number":
                return _number(schema, self._dice, _NUMBER_STEP)
            case "boolean":
                return self._dice.below(2) == 1
            case "array":
                return self._array(schema, depth)
        return self._object(schema, depth) if _kind(schema) == "object" else None

    def _array(self, schema: Schema, depth: int) -> Json:
        least = _whole(schema.get("minItems"), 1)
        length = max(least, min(2, _whole(schema.get("maxItems"), 2)))
        made = [self.make(part, depth + 1) for part in _items(schema.get("prefixItems"))]
        while len(made) < length and schema.get("items") is not False:
            made.append(self.make(schema.get("items", {"type": "string"}), depth + 1))
        return made

    def _object(self, schema: Schema, depth: int) -> Json:
        properties = _mapping(schema.get("properties"))
        names = [name for name in _items(schema.get("required")) if isinstance(name, str)]
        if depth < _OPTIONAL_DEPTH:
            names += [name for name in properties if name not in names]
        return {name: self.make(properties.get(name, {"type": "string"}), depth + 1) for name in names}


def _kind(schema: Schema) -> object:
    kind = schema.get("type", "object" if "properties" in schema or "required" in schema else "string")
    return kind[0] if isinstance(kind, list) and kind else kind


def _string(schema: Schema, dice: Dice) -> str:
    form = schema.get("format")
    if isinstance(form, str) and form in _FORMATS:
        return _FORMATS[form]
    text = " ".join(words(dice, 4))
    least = _whole(schema.get("minLength"), 0)
    return text.ljust(least, "x")[: max(least, _whole(schema.get("maxLength"), len(text)))]


def _number(schema: Schema, dice: Dice, step: float) -> float:
    step = _real(schema.get("multipleOf")) or step
    least, most = (
        _bound(schema, "minimum", "exclusiveMinimum", step),
        _bound(schema, "maximum", "exclusiveMaximum", -step),
    )
    if least is None:
        least = 0.0 if most is None else min(0.0, most)
    if most is None:
        most = least + _RANGE
    first, last = math.ceil(least / step), math.floor(most / step)
    if last < first:
        return (least + most) / 2
    return (first + dice.below(last - first + 1)) * step


def _bound(schema: Schema, inclusive: str, exclusive: str, inwards: float) -> float | None:
    beyond = _real(schema.get(exclusive))
    return _real(schema.get(inclusive)) if beyond is None else beyond + inwards


def _merge(left: Schema, right: Schema) -> dict[str, object]:
    merged = {**left, **right}
    if "properties" in left and "properties" in right:
        merged["properties"] = {**_mapping(left["properties"]), **_mapping(right["properties"])}
    if "required" in left and "required" in right:
        merged["required"] = [*_items(left["required"]), *_items(right["required"])]
    return merged


def _mapping(value: object) -> Schema:
    return value if isinstance(value, Mapping) else {}


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise


def _real(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
