"""`capfilt completion`: what a shell needs to complete commands, options and their choices."""

import os
from typing import Annotated, Literal

import typer

from capfilt.cli.console import command

_ASKED = "_CAPFILT_COMPLETE"
"""Environment variable by which a shell's script asks for completions."""
_TAKEN_UP = {
    "bash": 'eval "$(%s completion bash)", also as a line of ~/.bashrc',
    "zsh": 'eval "$(%s completion zsh)", also as a line of ~/.zshrc behind compinit',
    "fish": "%s completion fish | source, also as a line of ~/.config/fish/config.fish",
}


def completion(
    shell: Annotated[
        Literal["bash", "zsh", "fish"], typer.Argument(help="The shell you use.", metavar="bash|zsh|fish")
    ],
) -> None:
    """Print the script by which a shell completes commands, options and choices; its last line says how it is used."""
    with command() as out:
        from typer.completion import get_completion_script  # type: ignore[attr-defined]  # imported there

        from components.common.programs import program

        script = get_completion_script(prog_name="capfilt", complete_var=_ASKED, shell=shell)
        used = _TAKEN_UP[shell] % program("capfilt")
        out.result({"shell": shell, "script": script}, f"{script}\n# {used}")


def know_shells() -> None:
    """Have Typer answer a shell that asks; without its own two options it knows none by itself."""
    if _ASKED in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]  # imported there

        completion_init()
