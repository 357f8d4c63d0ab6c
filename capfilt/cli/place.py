"""What `ui` and `doctor` are given: a config file, or the store of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.common.errors import ConfigError

if TYPE_CHECKING:
    from components.config import BootstrapConfig

Place = Annotated[
    str | None,
    typer.Argument(
        help="YAML config, or a run's store: a folder or s3://bucket/prefix; without one the sample's config.",
        metavar="CONFIG|STORE",
        show_default=False,
    ),
]


def is_store(place: str | None) -> bool:
    """Whether a place is meant as a store, by what it looks like; a config is a file."""
    return place is not None and ("://" in place or Path(place).is_dir())


def config_at(place: str | None, overrides: Sequence[str]) -> "BootstrapConfig":
    """The config of a file; of a store the sample's with that store, as nothing but its place is known.

    Raises:
        ConfigError: there is neither, or a setting is wrong.
    """
    from components.config import load_config

    if place is None or not is_store(place):
        if place is not None and not Path(place).exists():
            raise ConfigError(
                f"{place}: there is no such config file, and no store: give a YAML file, a folder or s3://…"
            )
        return load_config(None if place is None else Path(place).absolute(), overrides)
    return load_config(None, [*overrides, f"store={place}"])
