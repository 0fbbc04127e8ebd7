"""The command ``qcore``. Nothing here imports torch before a command needs it."""

from __future__ import annotations

from qcore.cli.app import main

__all__ = ["main"]
