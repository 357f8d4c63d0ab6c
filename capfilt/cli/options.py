"""Options of a command from the fields of a config: type, default, bounds and help are written once, at the field.

A command lists the fields it shows, and gets what was typed as a `Given`:

    CAPTIONING = Shown(CapfiltConfig, "captions_per_image", Option("decoding.method", "--decoding"), "decoding.top_p")

    @CAPTIONING
    def caption(model: Model, given: Given[CapfiltConfig], as_json: Json = False) -> None:
        with command(as_json=as_json) as out:
            config = given.config()
"""

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Optional, TypeVar, cast, get_args, get_origin

import typer
from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic.fields import FieldInfo

from components.common.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

Json = Annotated[bool, typer.Option("--json", help="Exactly one JSON document on stdout; logs go to stderr.")]
Model = Annotated[str, typer.Option(help="Model folder (Hugging Face form or ours), local or s3://.")]

ThresholdOf = Annotated[
    list[str] | None,
    typer.Option(
        help="For whom the thresholds were found: NAME=DIGEST of the scorer behind a score (8 characters at least), "
        "once per score; refused if it is another here."
    ),
]

TextFilter = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SETTING",
        help="Drop texts by themselves, before they are scored: language=en, words=3..40, characters=10..300, "
        "block=FILE of words and phrases; once for each.",
    ),
]

_GIVEN = "given"  # the parameter of a command that its options are gathered in
_OWN: Any = object()


@dataclass(frozen=True)
class Option:
    """A field as an option.

    Attributes:
        key: its place in the config, e.g. `decoding.top_p`.
        name: as it is typed; by default the field's name with dashes.
        default: instead of the field's own; with None, an option that is not typed leaves the field alone.
        help: instead of the field's description.
    """

    key: str
    name: str = ""
    default: Any = _OWN
    help: str = ""

    @property
    def typed(self) -> str:
        """The option as it is typed, e.g. `--top-p`."""
        return self.name or f"--{self.key.rpartition('.')[2].replace('_', '-')}"


class Shown(Generic[M]):
    """The fields of a config that a command shows, as a decorator of the command.

    Args:
        config: the config's class.
        options: fields in the order of `--help`; a key alone stands for an option of the field's own name.
        also: fields that the command has as options of its own making, for messages that speak of them.
    """

    def __init__(self, config: type[M], *options: Option | str, also: Sequence[str] = ()) -> None:
        self.model = config
        self._also = [Option(key) for key in also]
        self.options = [Option(one) if isinstance(one, str) else one for one in options]

    def __call__(self, command: Callable[..., None]) -> Callable[..., None]:
        """The command as typer sees it: its parameter `given` replaced by the options."""
        names = {_parameter(option): option for option in self.options}

        @functools.wraps(command)
        def with_options(**values: Any) -> None:
            typed = {option.key: values.pop(name) for name, option in names.items()}
            command(**values, **{_GIVEN: Given(self, typed)})

        own = inspect.signature(command).parameters.values()
        shown = [self._declared(name, option) for name, option in names.items()]
        parameters = [new for one in own for new in (shown if one.name == _GIVEN else [one])]
        keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        with_options.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        with_options.__annotations__ = {}
        return with_options

    def in_options(self, text: str) -> str:
        """A message with the names of settings as they are typed; what is `null` in a config is an option not typed."""
        text = re.sub(r"\bnull:", "default:", text)
        for option in sorted([*self.options, *self._also], key=lambda one: -len(one.key)):
            text = text.replace(f"`{option.key}`", option.typed)
            text = re.sub(rf"(?<![\w.-])config\.{re.escape(option.key)}\b", option.typed, text)  # as plans name it
            for name in (option.key, option.key.rpartition(".")[2]):
                if re.search("[_.]", name):  # `limit` may be a word of the sentence, `bad_share` only the setting
                    text = re.sub(rf"(?<![\w.-]){re.escape(name)}\b", option.typed, text)
        return text

    def _declared(self, name: str, option: Option) -> inspect.Parameter:
        """A parameter that typer makes this option of."""
        field = field_at(self.model, option.key)
        default = field.get_default(call_default_factory=True) if option.default is _OWN else option.default
        kind: Any = field.annotation if default is not None else Optional[field.annotation]  # noqa: UP045 - a value
        limits = bounds(field)
        text = self._help(option.help or field.description or "", limits)
        info = typer.Option(option.typed, help=text, min=limits.get("ge"), max=limits.get("le"), **_spelled(field))
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
        )

    def _help(self, description: str, limits: dict[str, float]) -> str:
        """The description as a sentence; typer shows inclusive bounds itself, the others are said here."""
        words = [f"{word} {limits[name]:g}" for name, word in (("gt", "above"), ("lt", "below")) if name in limits]
        text = self.in_options(description) + (f" ({', '.join(words)})" if words else "")
        first, _, rest = text.partition(" ")
        return f"{first.capitalize() if first.isalpha() else first} {rest}."


class Given(Generic[M]):
    """What was typed: values by the keys of their fields."""

    def __init__(self, shown: Shown[M], values: dict[str, Any]) -> None:
        self.shown, self.values = shown, values

    def __getitem__(self, key: str) -> Any:
        """The value of one option."""
        return self.values[key]

    @contextlib.contextmanager
    def in_options(self) -> Iterator[None]:
        """Wrong settings that are found while the block works are told by the options' names as they are typed."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(self.shown.in_options(str(error))) from error

    def config(self, **more: Any) -> M:
        """The config of these options and `more`, checked; what is neither keeps its default.

        Raises:
            ConfigError: everything that is wrong, a line each, with the options' names as they are typed.
        """
        nested: dict[str, Any] = dict(more)
        for key, value in self.values.items():
            if value is not None:
                *groups, name = key.split(".")
                functools.reduce(lambda place, group: place.setdefault(group, {}), groups, nested)[name] = value
        try:
            return self.shown.model.model_validate(nested)
        except ValidationError as error:
            faults = [self._fault(tuple(one["loc"]), one["msg"], one["input"]) for one in error.errors()]
            raise ConfigError("\n".join(faults)) from error

    def _fault(self, place: tuple[int | str, ...], message: str, value: Any) -> str:
        key = ".".join(map(str, place))
        option = next((one for one in self.shown.options if one.key == key), None)
        if option is None:
            return self.shown.in_options(message.removeprefix("Value error, "))
        return f"{option.typed}: {message}, not {value}"


def named_values(given: list[str] | None, option: str) -> dict[str, str]:
    """`NAME=VALUE` options as a mapping.

    Raises:
        ConfigError: one is no such pair, or a name comes twice.
    """
    found: dict[str, str] = {}
    for one in given or ():
        name, _, value = one.partition("=")
        if not name or not value or name in found:
            raise ConfigError(f"{option} {one}: give NAME=VALUE, each name once")
        found[name] = value
    return found


def field_at(model: type[BaseModel], key: str) -> FieldInfo:
    """The field of a key such as `decoding.top_p`."""
    *groups, name = key.split(".")
    for group in groups:
        inner = model.model_fields[group].annotation
        inner = next((one for one in get_args(inner) if one is not type(None)), inner)  # a group may be left out
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            raise TypeError(f"{group} of {key} is no group of settings")
        model = inner
    return model.model_fields[name]


def _spelled(field: FieldInfo) -> dict[str, Any]:
    """How typer reads a choice whose field accepts several spellings; of any other, nothing."""
    before = next((one.func for one in field.metadata if isinstance(one, BeforeValidator)), None)
    if before is None or get_origin(field.annotation) is not Literal:
        return {}
    names, canonical = get_args(field.annotation), cast(Callable[[Any], Any], before)

    def read(typed: str) -> str:
        if (name := canonical(typed)) not in names:
            raise typer.BadParameter(f"{typed!r} is not one of {', '.join(map(repr, names))}.")
        return str(name)

    return {"parser": read, "metavar": f"<{'|'.join(names)}>", "autocompletion": lambda: names}


def _parameter(option: Option) -> str:
    return option.key.replace(".", "_")


def bounds(field: FieldInfo) -> dict[str, float]:
    """The limits of a number by pydantic's names: `ge`, `gt`, `le`, `lt`."""
    found = ((name, getattr(one, name, None)) for one in field.metadata for name in ("ge", "gt", "le", "lt"))
    return {name: limit for name, limit in found if limit is not None}


CAPTIONING = (
    Option("captions_per_image"),
    Option("decoding.method", "--decoding", default=None),
    Option("decoding.top_p"),
    Option("decoding.top_k"),
    Option("decoding.beams"),
    Option("decoding.min_length", default=None),
    Option("decoding.max_length", default=None),
    Option("decoding.repetition_penalty"),
    Option("decoding.prompt", default=None),
    Option("seed"),
    Option("precision", "--dtype"),
)
"""How captions are written: fields of CapfiltConfig that every command shows which writes some.

Those without a default have one by the captioner's family (docs/models.md), and one that is not typed must not seem so.
"""
