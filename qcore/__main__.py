"""``python -m qcore``."""

from __future__ import annotations

from qcore.cli import main

if __name__ == "__main__":
    main()
