"""The command ``qcore``: its global options, its commands, and how it ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import qcore
from qcore.cli.bench import bench
from qcore.cli.check import check
from qcore.cli.compare import compare
from qcore.cli.doctor import doctor
from qcore.cli.evaluate import evaluate
from qcore.cli.explain import explain
from qcore.cli.failures import INTERRUPTED, report_failure
from qcore.cli.info import info
from qcore.cli.inspect import inspect
from qcore.cli.listing import list_specs, plugins
from qcore.cli.pack import pack
from qcore.cli.predict import predict
from qcore.cli.run import run
from qcore.cli.session import Session

__all__ = ["app", "main"]

GLOBAL_FLAGS = ("--debug", "--quiet", "-q", "--no-plugins")
GLOBAL_OPTION = "--no-plugin"


class QcoreGroup(TyperGroup):
    """Takes the global options before or after the command's name, and turns every error into a message."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, hoist(args))

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (BrokenPipeError, SystemExit) as end:  # the reader has seen enough, as in `qcore list | head`
            if isinstance(end, SystemExit) and not isinstance(end.__context__, BrokenPipeError):  # rich makes it one
                raise
            _forget_stdout()
            raise typer.Exit(0) from None
        except (Exception, KeyboardInterrupt) as error:  # the process ends here
            if _belongs_to_typer(error):
                raise
            session = ctx.obj if isinstance(ctx.obj, Session) else Session()
            raise typer.Exit(report_failure(error, debug=session.debug, plugins=session.plugins)) from None


def _belongs_to_typer(error: BaseException) -> bool:
    return isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "format_message")


def _forget_stdout() -> None:
    """Point stdout nowhere, so that the interpreter does not complain about it at its end."""
    with contextlib.suppress(OSError, ValueError):  # stdout may be no file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def hoist(args: Sequence[str]) -> list[str]:
    """Return ``args`` with the global options first, so that they may stand anywhere."""
    first: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in GLOBAL_FLAGS or word.startswith(GLOBAL_OPTION + "="):
            first.append(word)
        elif word == GLOBAL_OPTION:
            first += [word, *(value for value in [next(words, None)] if value is not None)]
        else:
            rest.append(word)
    return first + rest


app = typer.Typer(
    cls=QcoreGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, compare, pack and run low-bit neural networks. Methods are plugins.",
    epilog="Exit codes: 0 done, 1 failed, 2 bad usage, 3 plugin, 4 backend, 5 data, 130 interrupted.",
)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"qcore {qcore.__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="Load no installed plugin.")] = False,
    no_plugin: Annotated[
        list[str] | None, typer.Option("--no-plugin", metavar="NAME", help="Leave this plugin out; repeatable.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", envvar="QCORE_DEBUG", help="Show tracebacks.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Read the global options."""
    context.obj = Session(no_plugins=no_plugins, disable=tuple(no_plugin or ()), debug=debug, quiet=quiet)


app.command("run")(run)
app.command("list")(list_specs)
app.command("info")(info)
app.command("plugins")(plugins)
app.command("doctor")(doctor)
app.command("check")(check)
app.command("bench")(bench)
app.command("compare")(compare)
app.command("eval")(evaluate)
app.command("predict")(predict)
app.command("pack")(pack)
app.command("inspect")(inspect)
app.command("explain")(explain)


def main() -> None:
    """Run the command line."""
    # Two busy processes on a few cores otherwise spin against each other; it must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="qcore")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
