"""Run every benchmark that needs no data: `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    ("startup.py",),
    ("qat_step.py",),
    ("overhead.py",),
    ("packed_layers.py",),
    ("packed_layers.py", "--threads", "2", "--rounds", "7"),
    ("packed_layers.py", "--cold", "--rounds", "9"),
    ("packed_layers.py", "--avx2", "--rounds", "7"),
    ("plan.py",),
    ("mobilenet.py",),
    ("mixed_rows.py",),
    ("neighbour.py",),
    ("true4bit_epoch.py",),
    ("true4bit_latency.py",),
    ("true4bit_resident_memory.py",),
    ("nmpqat_step.py",),
)


def main() -> None:
    here = Path(__file__).parent
    for script, *words in SCRIPTS:
        subprocess.run([sys.executable, str(here / script), *words], check=True)
    for result in sorted((here / "results").glob("*.md")):
        sys.stdout.write(result.read_text() + "\n")


if __name__ == "__main__":
    main()
