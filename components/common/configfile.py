"""From a YAML file and `a.b=c` overrides to a checked config, with errors that name file, key and remedy."""

import difflib
import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from components.common.errors import ConfigError
from components.common.redact import find_credentials, redact

M = TypeVar("M", bound=BaseModel)


def read_config(model: type[M], path: Path, overrides: Sequence[str] = ()) -> M:
    """Read `path`, apply overrides in order, and validate.

    Numbers are YAML 1.2's, so that `010` is ten; `yes` and `2026-01-01` are texts.

    Args:
        model: the pydantic model of the whole file.
        path: a YAML file.
        overrides: `key.inner=value`, the value in YAML (`3`, `true`, `[1, 2]`, `null`, text).

    Raises:
        ConfigError: everything that is wrong, one line each, with the nearest valid name for an unknown key.
    """
    values = _read_yaml(path)
    for override in overrides:
        _apply(values, override)
    if refused := [f"{path}: {fault}" for fault in _credentials(values)]:
        raise ConfigError("\n".join(refused))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [fault for detail in error.errors() for fault in _explain(model, detail).splitlines()]
        lines = [f"{path}: {fault}" for fault in faults]
        raise ConfigError(redact("\n".join(dict.fromkeys(lines)))) from error


def _credentials(value: Any, name: str = "") -> Iterator[str]:
    """What is wrong with URIs that hold credentials: they would end up in logs, records and on pages."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _credentials(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _credentials(inner, f"{name}.{index}")
    elif isinstance(value, str) and (instead := find_credentials(value)) is not None:
        yield f"`{name}`: credentials in a URI are refused ({redact(value)}): set {instead} in the environment instead"


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():
        raise ConfigError(
            f"{path}: is no file; a config is read again by every process of a run, which a pipe does not allow: "
            "save it as a file, and name that"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such config file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        values = _parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(redact(f"{path}: not valid YAML: {_fault(error)}")) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping of settings, not {type(values).__name__}")
    return values


class _Loader(yaml.SafeLoader):
    """YAML's safe subset; a key given twice is refused rather than silently replaced.

    Plain scalars are read by YAML 1.2's core schema: PyYAML's own 1.1 makes 8 of `010`, 90 of `1:30`, False of `no`.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are unique."""
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number: decimal whatever it begins with, `0x` and `0o` hexadecimal and octal."""
        text = str(self.construct_scalar(node))
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


for _kind, _pattern, _starts in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     "-+.0123456789"),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_starts))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _fault(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the lines around it, which may hold what is secret."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    mark = error.problem_mark
    return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def _value(text: str) -> Any:
    """The value of an override. There are no comments: ` #` is part of a text, and refused in anything else."""
    node = yaml.compose(text, Loader=_Loader)
    end = 0 if node is None else node.end_mark.index
    if not text[end:].strip():
        return _parse(text)
    if isinstance(node, yaml.ScalarNode) and node.style is None:
        return text.strip()
    raise yaml.YAMLError(f"{text[end:].strip()!r} would be a comment; quote the value as a whole")


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `a.b=c` in nested mappings."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(
            f"--set {redact(override)}: write it as key.inner=value, for instance --set pretrain.steps=100"
        )
    try:
        value = _value(text)
    except yaml.YAMLError as error:
        raise ConfigError(redact(f"--set {override}: the value is not valid YAML: {_fault(error)}")) from error
    place = values
    for key in keys[:-1]:
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
        if not isinstance(place, dict):
            raise ConfigError(f"--set {redact(override)}: `{key}` is a value, not a group of settings")
    place[keys[-1]] = value


def _explain(model: type[BaseModel], detail: ErrorDetails) -> str:
    """One validation error in the user's words."""
    location = detail["loc"]
    name = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        return f"unknown key `{name}`{_nearest(model, location)}"
    if detail["type"] == "missing":
        return f"`{name}` is missing: {_description(model, location) or 'give it a value'}"
    if detail["type"] == "value_error":
        fault = detail["msg"].removeprefix("Value error, ")
        return f"`{name}`: {fault}" if name else fault
    if detail["type"] in ("model_type", "model_attributes_type") and (group := _model_at(model, location)) is not None:
        return f"`{name}` must be a group of settings ({', '.join(group.model_fields)}), not {detail['input']!r}"
    shown = repr(detail["input"])
    return f"`{name}`: {detail['msg']}, not {shown if len(shown) <= 80 else shown[:77] + '…'}"


def _nearest(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """`; did you mean …?` from the names valid at that place, else from all names of the config."""
    owner = _model_at(model, location[:-1])
    if owner is None:
        return ""
    wrong, prefix = str(location[-1]), [str(part) for part in location[:-1]]
    here = difflib.get_close_matches(wrong, owner.model_fields, n=1, cutoff=0.6)
    if here:
        return f"; did you mean `{'.'.join([*prefix, here[0]])}`?"
    elsewhere = [name for name in _all_names(model) if name.rpartition(".")[2] == wrong]
    if elsewhere:
        return f"; did you mean {' or '.join(f'`{name}`' for name in elsewhere[:3])}?"
    return f"; valid here: {', '.join(owner.model_fields)}"


def _description(model: type[BaseModel], location: tuple[int | str, ...]) -> str | None:
    owner = _model_at(model, location[:-1])
    field = owner.model_fields.get(str(location[-1])) if owner is not None else None
    return field.description if field is not None else None


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model that owns the keys at a place of the config."""
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None:
            if isinstance(part, int):  # an element of a tuple: its model was already taken from the annotation
                continue
            return None
        inner = _model_in(field.annotation)
        if inner is None:
            return None
        model = inner
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model in `Model`, `Model | None`, `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner)) is not None), None)


def _all_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for key, field in model.model_fields.items():
        names.append(prefix + key)
        if (inner := _model_in(field.annotation)) is not None:
            names += _all_names(inner, f"{prefix}{key}.")
    return names
