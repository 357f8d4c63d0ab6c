"""Wrong usage answered like everything else that is wrong: one line, exit code 2, one JSON document with --json."""

import sys
from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup
from typer.exceptions import Abort, TyperException

from capfilt.cli.console import INTERRUPTED, fit_terminal, tell


class OneLineUsage(TyperGroup):
    """Typer's application, but that it says in one line what was typed wrong, and fits its output to the terminal."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line (by default `sys.argv`) and end the process with its exit code.

        Args:
            args: what was typed, without the program's name.
            prog_name: the program's name, for `--help`.
            complete_var: environment variable by which a shell asks for completions.
            standalone_mode: False to get the exit code back instead.
            windows_expand_args: without meaning here: `args` is always given on.
            extra: for the context of the command.
        """
        typed = list(sys.argv[1:] if args is None else args)
        fit_terminal()
        try:
            code = super().main(typed, prog_name, complete_var, False, windows_expand_args, **extra)
        except TyperException as error:
            code = error.exit_code
            if words := _words(error):
                tell(words, kind="ConfigError", as_json="--json" in typed)
        except Abort:
            code = INTERRUPTED
        if not standalone_mode:
            return code
        sys.exit(code or 0)


def _words(error: TyperException) -> str:
    """`--top-p: 2 is too much (capfilt caption --help)` without what typer says around it; empty if it has spoken."""
    message, context = " ".join(error.format_message().split()), getattr(error, "ctx", None)
    message = message.replace("Value error, ", "").removesuffix(".")
    if message.startswith("Invalid value for '"):
        option, _, fault = message.removeprefix("Invalid value for '").partition("': ")
        message = f"{option}: {fault}"
    return f"{message} ({context.command_path} --help)" if message and context is not None else message
