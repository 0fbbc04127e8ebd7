"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Backend", "Json", "ModelFile"]

Json = Annotated[bool, typer.Option("--json", help="Print the data alone, as JSON.")]
Backend = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="Run packed layers on this backend; it fails if it cannot.")
]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file, such as model.safetensors.")]
