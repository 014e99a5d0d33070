"""Groups of settings: immutable pydantic models, and one line for all that one of them refuses."""

import difflib
import re
from collections.abc import Sequence
from typing import Any, ClassVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from ..display import show


class Frozen(BaseModel):
    """Base of a recipe's groups: immutable, no unknown fields, no NaN or infinity.

    _later  names of fields that a group did not have from the start: with its default such a field is
           left out of what is written, so a recipe without it has the digest it had before
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    _later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        for name in self._later:
            if getattr(self, name) == fields[name].default:
                found.pop(name, None)
        return found


# How pydantic names the branches of a union in an error's place.
_BRANCH = re.compile(
    r"(constrained-|literal\[|function-|tuple\[|list\[|dict\[)|(int|float|str|bool)$"
)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Every wrong field of a `model` with its value and the rule it breaks, on one line.

    A field that does not exist is told with the nearest that does; what is wrong only because of
    another error is left out.
    """
    found = error.errors()
    places = [_fields_of(item["loc"], model) for item in found]
    lines = []
    for item, (name, _) in zip(found, places, strict=True):
        deeper = any(other != name and other.startswith(f"{name}.") for other, _ in places)
        if not (deeper and item["type"] in ("too_short", "missing")):
            lines.append(_line(item, name, model))
    return "; ".join(dict.fromkeys(lines))


def _line(item: Any, name: str, model: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        _, fields = _fields_of(item["loc"][:-1], model)
        wrong, group = str(item["loc"][-1]), f"{name.rpartition('.')[0]}." if "." in name else ""
        near = difflib.get_close_matches(wrong, fields, 1, 0.5)
        hint = f"did you mean {group}{near[0]}?" if near else f"fields are {', '.join(fields)}"
        return f"{name}={show(item.get('input'))}: no such field: {hint}"
    rule = item["msg"].removeprefix("Value error, ")
    if isinstance(item.get("input"), dict | list):  # a group that does not go together
        return f"{name}: {rule}"
    return f"{name}={show(item.get('input'))}: {rule}"


def _fields_of(loc: Sequence[str | int], model: type[BaseModel]) -> tuple[str, list[str]]:
    """The dotted name of a place, without pydantic's names of a union's branches; its fields."""
    names: list[str] = []
    here: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int):
            names.append(str(part))
        elif here is not None:
            names.append(part)
            field = here.model_fields.get(part)
            here = _model_in(field.annotation) if field else None
        elif not _BRANCH.match(part):  # a key of a mapping
            names.append(part)
    return ".".join(names) or "recipe", list(here.model_fields) if here else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model within an annotation such as `tuple[StageConfig, ...]` or `X | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := _model_in(a))), None)
