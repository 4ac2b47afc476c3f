"""The typer program, made of the list of commands."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import typer

_ABOUT = "Services on Dapr, run on your own machine: sidecars, control plane, backends and apps, without a container engine."


def program(commands: Mapping[str, str]) -> typer.Typer:
    """Load each command's function and put them together."""
    app = typer.Typer(
        name="apibase",
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
        app.command(name)(getattr(import_module(module), function))
    return app


def _print_version(wanted: bool) -> None:  # noqa: FBT001  (typer calls it so)
    if wanted:
        typer.echo(f"apibase {version('apibase')}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,  # noqa: FBT002
) -> None:
    """Take the options that stand before a command."""
