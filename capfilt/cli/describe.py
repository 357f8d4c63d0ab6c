"""`capfilt config describe`: every setting, from the fields that define it."""

from collections.abc import Iterator
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typer

from capfilt.cli.console import command
from capfilt.cli.options import Json, bounds
from components.common.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

app = typer.Typer(help="The settings of a bootstrap, and what they mean.", no_args_is_help=True)


class Setting(NamedTuple):
    """A key of the config."""

    key: str
    type: str
    default: Any
    """As JSON; the text `required` where there is none."""
    decides: bool
    """whether another value gives another result"""
    decides_not_because: str
    """why it does not; empty where it decides"""
    description: str
    """what it means, with its unit"""


@app.command()
def describe(
    key: Annotated[
        str | None,
        typer.Argument(help="A key, or a group of keys, e.g. capfilt.decoding; none: all.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """What a setting means: type, unit, default, and whether it decides the result or only speed and places.

    Each can be written into the config file or given as --set KEY=VALUE.
    """
    with command(as_json=as_json) as out:
        from capfilt.cli.tables import rendered

        found = settings(key)
        out.result([one._asdict() for one in found], lambda: rendered(*_told(found, key)))


def settings(key: str | None = None) -> list[Setting]:
    """The settings of a key or a group of keys; of all without one.

    Raises:
        ConfigError: there is no such key; says which are near.
    """
    from components.config import BootstrapConfig

    every = list(_below(BootstrapConfig, ""))
    found = [one for one in every if key is None or one.key == key or one.key.startswith(f"{key}.")]
    if not found:
        raise ConfigError(f"there is no setting {key}{_nearest(key or '', every)}")
    return found


def _below(config: "type[BaseModel]", group: str, why: str = "") -> Iterator[Setting]:
    """The settings of a config class; what does not decide has no part that does."""
    from components.common.identity import why_harmless

    for name, field in config.model_fields.items():
        key, mark, inner = f"{group}{name}", why_harmless(field), _config_in(field.annotation)
        reason = why or (mark.why if mark is not None and mark.always else "")
        if inner is not None:
            yield from _below(inner, f"{key}.", reason)
        else:
            yield Setting(key, _type(field), _default(field), not reason, reason, field.description or "")


def _config_in(annotation: Any) -> "type[BaseModel] | None":
    """The config class of a group of settings; None for a value, or a list or table of configs."""
    from pydantic import BaseModel

    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _type(field: "FieldInfo") -> str:
    """The type in words, with its bounds."""
    signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    limits = [f"{signs[name]} {limit:g}" for name, limit in bounds(field).items()]
    return ", ".join([_kind(field.annotation), *limits])


def _kind(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join("null" if one is type(None) else _kind(one) for one in parts)
    if origin is not None:
        inner = ", ".join("…" if one is ... else _kind(one) for one in parts)
        return f"{'list' if origin in (list, tuple, frozenset) else 'table'} of {inner.removesuffix(', …')}"
    return {str: "text", int: "whole number", float: "number", bool: "true | false", Any: "anything"}[annotation]


def _default(field: "FieldInfo") -> Any:
    from pydantic_core import to_jsonable_python

    if field.is_required():
        return "required"
    return to_jsonable_python(field.get_default(call_default_factory=True))


def _nearest(key: str, every: list[Setting]) -> str:
    """The keys that may be meant: by their spelling, or by their last part."""
    import difflib

    names = sorted({one.key for one in every} | {one.key.rpartition(".")[0] for one in every} - {""})
    same = [name for name in names if name.rpartition(".")[2] == key.rpartition(".")[2]]
    near = same[:5] or difflib.get_close_matches(key, names, n=3)
    return f": did you mean {' or '.join(near)}?" if near else "; `capfilt config describe` lists all"


def _told(found: list[Setting], key: str | None) -> Iterator[Any]:
    """A table of many; one alone in full."""
    from rich.padding import Padding
    from rich.text import Text

    from capfilt.cli.tables import facts, next_step, short

    one = found[0]
    if len(found) == 1:
        yield facts(
            {
                "setting": one.key,
                "means": one.description,
                "type": one.type,
                "default": short(one.default),
                "decides": "yes: another value is another result" if one.decides else f"no: {one.decides_not_because}",
            }
        )
        yield ""
        value = "VALUE" if one.default in ("required", None) else short(one.default)
        yield next_step(f"set it in the config file, or with --set {one.key}={value}")
        return
    for one in found:
        decides = "" if one.decides else "   (decides nothing)"
        yield Text.assemble((one.key, "bold"), f" = {short(one.default)}", (decides, "dim"))
        yield Padding(one.description, (0, 0, 0, 4))
    yield ""
    yield "Any value but the default gives another result, where it does not say `decides nothing`."
    yield next_step(("config", "describe", found[0].key))
