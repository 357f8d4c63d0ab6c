"""What decides a result is declared at the field: everything does, but what says why not.

A result is found again by a digest of what decides it. Settings that change only speed, memory, places or what is told
are marked `json_schema_extra=harmless("why")` where they are defined; `seeding.digest_of` takes `deciding(config)` of
each config it is given.

Fields at their default are part of a digest: were they left out, a default that changes would let old results pass for
new ones. A field that is added later, and at one value changes nothing of what there was, names that value (`at`):
only then is it left out, so that earlier results are found.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

_KEY = "harmless"
_ANY = ["any value"]  # a list: no setting of ours is one, and JSON has it


class Harmless(NamedTuple):
    """Why a field does not decide."""

    why: str
    to: str | None
    """The one result that it does not decide; None: no result at all."""
    at: Any
    """The one value at which it does not decide, as JSON; `_ANY`: at every value."""

    @property
    def always(self) -> bool:
        """Whether it decides nothing, whatever its value."""
        return self.to is None and self.at == _ANY

    def covers(self, plain: Any, result: str | None) -> bool:
        """Whether a field of this value, as JSON, does not decide the result."""
        return self.to in (None, result) and self.at in (_ANY, plain)


def harmless(why: str, *, to: str | None = None, at: Any = _ANY) -> JsonDict:
    """The marker of a field that does not decide: `Field(..., json_schema_extra=harmless("only the speed"))`.

    Args:
        why: the reason, for readers.
        to: the one result that it does not decide, where it decides others: see `deciding`.
        at: the one value at which it does not decide, where it does at others: everything was so before it was added.
    """
    if not why.strip():
        raise ValueError("a field that does not decide says why")
    return {_KEY: {"why": why, "to": to, "at": to_jsonable_python(at)}}


def why_harmless(field: FieldInfo) -> Harmless | None:
    """The mark of a field; None: it decides everything."""
    extra = field.json_schema_extra
    mark = extra.get(_KEY) if isinstance(extra, Mapping) else None
    return Harmless(**mark) if isinstance(mark, dict) else None  # type: ignore[arg-type]


def deciding(config: BaseModel, result: str | None = None) -> dict[str, Any]:
    """The fields of a config that decide, nested ones too, as plain JSON.

    Args:
        config: any model.
        result: what is decided, where fields are harmless to one result alone; None: whatever comes of the config.
    """
    fields, found = type(config).model_fields, {}
    for name, plain in config.model_dump(mode="json").items():
        mark = why_harmless(fields[name])
        if mark is None or not mark.covers(plain, result):
            found[name] = _part(getattr(config, name), plain, result)
    return found


def _part(value: Any, plain: Any, result: str | None) -> Any:
    """What decides of a field's value, given also as JSON."""
    if isinstance(value, BaseModel):
        return deciding(value, result)
    if isinstance(value, Mapping):
        return {name: _part(one, plain[name], result) for one, name in zip(value.values(), plain, strict=True)}
    if isinstance(value, (list, tuple)):
        return [_part(one, known, result) for one, known in zip(value, plain, strict=True)]
    return plain
