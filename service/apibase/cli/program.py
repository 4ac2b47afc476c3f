"""The typer program, made of the list of commands."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typer._click import Context

_ABOUT = (
    "Services on Dapr, run on your own machine: sidecars, control plane, backends and apps, without a container engine."
)


class _Group(TyperGroup):
    def get_params(self, ctx: Context) -> list[Any]:
        return _without_types_of_flags(super().get_params(ctx))


class _Command(TyperCommand):
    def get_params(self, ctx: Context) -> list[Any]:
        return _without_types_of_flags(super().get_params(ctx))


def program(commands: Mapping[str, str]) -> typer.Typer:
    """Load each command's function, or group of commands, and put them together."""
    app = typer.Typer(
        name="apibase",
        cls=_Group,
        help=_ABOUT,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name, reference in commands.items():
        module, _, function = reference.partition(":")
        command = getattr(import_module(module), function)
        if isinstance(command, typer.Typer):
            for each in command.registered_commands:
                each.cls = _Command
            app.add_typer(command, name=name, cls=_Group)
        else:
            # A command that leaves its words to somebody else says so.
            app.command(name, cls=_Command, context_settings=getattr(command, "context_settings", None))(command)
    return app


def _without_types_of_flags(parameters: list[Any]) -> list[Any]:
    """Take `<bool>` out of the help: a flag takes no value."""
    for each in parameters:
        if getattr(each, "is_flag", False):
            each.metavar = ""
    return parameters


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"apibase {version('apibase')}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""
