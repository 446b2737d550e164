"""Reads documents into models, and says of everything that does not fit where it stands and what to write instead."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Final, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from moa_api.fields import PATTERN_HINTS
from moa_api.wording import Problem, kind, nearest, path_of, shown, suggestion

M = TypeVar("M", bound=BaseModel)

_UNREADABLE: Final = object()


def read(model: type[M], document: object) -> tuple[M, list[Problem]]:
    """Reads a document, by the names documents use.

    Args:
        model: What the document should be.
        document: What a JSON or YAML parser returned.

    Returns:
        The model and no problems; or every problem of shape, and a model that lacks what could not be read.
    """
    try:
        return model.model_validate(document, by_alias=True, by_name=False), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
    return salvage(model, document), [_explain(model, detail) for detail in details if not _is_echo(detail)]


def _is_echo(detail: ErrorDetails) -> bool:
    """Whether a list seems too short only because entries of it, reported on their own, were not counted."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def salvage(model: type[M], document: object) -> M:
    """Reads what can be read.

    Args:
        model: What the document should be.
        document: What a JSON or YAML parser returned.

    Returns:
        An instance without validation. An attribute that could not be read is absent: using it raises AttributeError,
        unlike one that was left out, which has its default.
    """
    values: dict[str, object] = dict.fromkeys(model.model_fields, _UNREADABLE)
    if isinstance(document, dict):
        misspelled = _misspelled(model, document)
        for name in model.model_fields.keys() - misspelled:
            values[name] = _salvage_field(model, name, document)
    instance = model.model_construct(_fields_set=set(values), **values)
    for name, value in values.items():
        if value is _UNREADABLE:
            del instance.__dict__[name]
    return instance


def _default(field: FieldInfo) -> object:
    return _UNREADABLE if field.is_required() else field.get_default(call_default_factory=True, validated_data={})


def _misspelled(model: type[BaseModel], document: Mapping[object, object]) -> set[str]:
    """Returns the attributes that are left out under their own name but seem to be there under a similar one."""
    names = {
        alias: name for name, field in model.model_fields.items() if (alias := field.alias or name) not in document
    }
    unknown = (key for key in document if isinstance(key, str) and key not in _fields(model))
    return {names[near] for key in unknown if (near := nearest(key, names))}


def _salvage_field(model: type[BaseModel], name: str, document: Mapping[object, object]) -> object:
    field = model.model_fields[name]
    value = document.get(field.alias or name)
    if value is None:
        return _default(field)
    section, repeated = _section_of(field)
    if section is None:
        return _leaf(model, name, value)
    if repeated:
        return tuple(salvage(section, entry) for entry in value) if isinstance(value, list | tuple) else _UNREADABLE
    return salvage(section, value) if isinstance(value, dict) else _UNREADABLE


def _section_of(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """Returns the model that a field holds, if any, and whether it holds a list of them."""
    annotation = field.annotation
    candidates = [annotation, *get_args(annotation)]
    section = next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)
    return section, Ellipsis in candidates


def _leaf(model: type[BaseModel], name: str, value: object) -> object:
    try:
        return _adapter(model, name).validate_python(value)
    except ValidationError:
        return _UNREADABLE


@cache
def _adapter(model: type[BaseModel], name: str) -> TypeAdapter[object]:
    return TypeAdapter(model.model_fields[name].rebuild_annotation(), config={"strict": True, "allow_inf_nan": False})


class _Fault(NamedTuple):
    """What pydantic found wrong at one place of a document."""

    model: type[BaseModel]
    steps: Sequence[int | str]
    value: object
    context: Mapping[str, object]
    message: str

    @property
    def name(self) -> str:
        return str(self.steps[-1])

    @property
    def section(self) -> type[BaseModel]:
        """The model that holds the field."""
        section = self.model
        for step in self.steps[:-1]:
            if isinstance(step, str):
                section = _section_of(_fields(section)[step])[0] or section
        return section

    @property
    def field(self) -> FieldInfo:
        """The field, or the one that holds the list entry."""
        name = next(step for step in reversed(self.steps) if isinstance(step, str))
        return _fields(self.section)[name]


def _fields(section: type[BaseModel]) -> Mapping[str, FieldInfo]:
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _explain(model: type[BaseModel], detail: ErrorDetails) -> Problem:
    fault = _Fault(model, detail["loc"], detail["input"], detail.get("ctx", {}), detail["msg"])
    return Problem(path_of(fault.steps), _WORDS.get(detail["type"], _as_said)(fault))


def _as_said(fault: _Fault) -> str:
    return str(fault.context.get("text", fault.message))


def _missing(fault: _Fault) -> str:
    sentence = (fault.field.description or "").split(". ")[0].rstrip(".")
    return f"required ({sentence[:1].lower()}{sentence[1:]})"


def _unknown_field(fault: _Fault) -> str:
    return f"unknown field; {suggestion(fault.name, _fields(fault.section))}"


def _key_type(_fault: _Fault) -> str:
    return "a field's name is text; put it in quotes"


def _not_one_of(fault: _Fault) -> str:
    choices = _literals(fault.field.annotation)
    if isinstance(fault.value, str):
        return f"{shown(fault.value)} is no choice; {suggestion(fault.value, choices)}"
    return f"expected text; got {_got(fault.value)}; {suggestion('', choices)}"


def _literals(annotation: object) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for argument in get_args(annotation) for choice in _literals(argument)]


def _pattern(fault: _Fault) -> str:
    return f"{shown(fault.value)} does not fit; {PATTERN_HINTS[str(fault.context['pattern'])]}"


def _bounds(fault: _Fault) -> str:
    words = {"ge": "{} at least", "le": "{} at most", "gt": "more than {}"}
    bound = next(text.format(_number(fault.context[key])) for key, text in words.items() if key in fault.context)
    return f"{shown(fault.value)} is out of bounds; write {bound}"


def _number(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _empty_text(fault: _Fault) -> str:
    return "empty; write some text" if fault.field.is_required() else "empty; write some text, or leave the field out"


def _long_text(fault: _Fault) -> str:
    return f"too long; write {fault.context['max_length']} characters at most"


def _few(fault: _Fault) -> str:
    return f"too few entries; write {fault.context['min_length']} at least"


def _many(fault: _Fault) -> str:
    return f"too many entries; write {fault.context['max_length']} at most"


def _expected(words: str) -> Callable[[_Fault], str]:
    return lambda fault: f"expected {words}; got {_got(fault.value)}"


def _got(value: object) -> str:
    return f"{kind(value)} ({shown(value)})" if isinstance(value, str | int | float) else kind(value)


_WORDS: Final[Mapping[str, Callable[[_Fault], str]]] = {
    "bool_type": _expected("true or false without quotes"),
    "dict_type": _expected("an object"),
    "extra_forbidden": _unknown_field,
    "finite_number": _expected("a finite number"),
    "float_type": _expected("a number without quotes"),
    "greater_than": _bounds,
    "greater_than_equal": _bounds,
    "int_type": _expected("a whole number without quotes"),
    "invalid_key": _key_type,
    "less_than_equal": _bounds,
    "literal_error": _not_one_of,
    "missing": _missing,
    "model_type": _expected("an object"),
    "string_pattern_mismatch": _pattern,
    "string_too_long": _long_text,
    "string_too_short": _empty_text,
    "string_type": _expected("text in quotes"),
    "string_unicode": _expected("text in valid Unicode"),
    "too_long": _many,
    "too_short": _few,
    "tuple_type": _expected("a list"),
}
