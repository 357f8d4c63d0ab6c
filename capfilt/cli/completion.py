"""`capfilt completion`: what a shell needs to complete commands, options and their choices."""

from typing import Annotated, Literal

import typer

from capfilt.cli.console import command

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

        script = get_completion_script(prog_name="capfilt", complete_var="_CAPFILT_COMPLETE", shell=shell)
        used = _TAKEN_UP[shell] % program("capfilt")
        out.result({"shell": shell, "script": script}, f"{script}\n# {used}")
