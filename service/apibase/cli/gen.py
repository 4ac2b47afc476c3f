"""`apibase gen`: code from contracts."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer


def gen(
    protos: Annotated[
        list[Path],
        typer.Option(
            metavar="FOLDER",
            help="Folder that import paths are relative to; give it again for more.",
            exists=True,
            file_okay=False,
        ),
    ] = [Path("protos")],  # noqa: B006 - typer's way
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the generated code; what an earlier run made there and no contract gives any more is removed.",
        ),
    ] = Path("generated"),
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 when generating would.")] = False,
) -> None:
    """Generate Python code, stubs and descriptors.binpb from the contracts.

    Imports such as dapr_contract/v1, buf/validate and google/type come with the installed packages.
    """
    from apibase.contract.codegen import CodegenError, generate  # noqa: PLC0415 - only where it is needed

    try:
        if check:
            with tempfile.TemporaryDirectory(prefix="apibase-gen-") as scratch:
                copy = Path(scratch) / "out"
                if out.is_dir():
                    shutil.copytree(out, copy)
                done = generate(protos, copy)
                stale = [out / path.relative_to(copy) for path in done.changed]
        else:
            done = generate(protos, out)
            stale = []
    except CodegenError as error:
        typer.echo(f"apibase gen: {error}", err=True)
        raise typer.Exit(1) from None
    if stale:
        typer.echo(
            f"apibase gen --check: {len(stale)} of the files in {out} are not what the contracts give; run `apibase gen`:",
            err=True,
        )
        for path in stale:
            typer.echo(f"  {path}", err=True)
        raise typer.Exit(1)
    typer.echo(
        f"{done.contracts} contracts, " + (f"{len(done.changed)} files changed" if done.changed else "nothing changed")
    )
