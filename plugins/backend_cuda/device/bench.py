"""The backend's speed on a GPU: ``python device/bench.py --out DIR``.

Each section of :mod:`sections` is a process of its own. They warm up together, compiling what they time, and are then
timed one after another. One that fails or hangs costs its own rows. ``DIR/bench.json`` is written as rows come.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SECTION_S = 20.0
"""Longest time that a section is timed."""
_ROWS = 5
"""Rows of a section that are printed."""


def run_section(name: str, folder: Path, number: int) -> None:
    """Run one section: warm up, wait for the parent's turn, time."""
    import torch
    from sections import SECTIONS

    rows = folder / f"{number}.jsonl"

    def wait() -> None:
        torch.cuda.synchronize()
        (folder / f"{number}.ready").touch()
        while not (folder / f"{number}.go").exists():
            time.sleep(0.02)

    with rows.open("a") as log:
        try:
            for row in SECTIONS[name](wait):
                log.write(json.dumps(row) + "\n")
                log.flush()
        except Exception as error:  # its other rows, and the other sections, must not be lost
            log.write(json.dumps({"name": "section", "error": f"{type(error).__name__}: {error}"[:1500]}) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--seconds", type=float, default=115.0, help="time for all of it")
    parser.add_argument("--warm", type=float, default=55.0, help="time after which what is not warm is left for last")
    parser.add_argument("--only", default="", help="regular expression: sections to time")
    parser.add_argument("--section")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--number", type=int, default=0)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    if given.section:
        run_section(given.section, given.folder, given.number)
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    return supervise(given.out, given.seconds, given.warm, given.only)


def supervise(out: Path, seconds: float, warm: float, only: str) -> int:
    """Run the sections that ``only`` finds; return whether any failed."""
    from sections import SECTIONS

    began, folder = time.monotonic(), Path(tempfile.mkdtemp())
    names = [name for name in SECTIONS if re.search(only, name)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = []
    for number, name in enumerate(names):
        command = [sys.executable, __file__, "--section", name, "--folder", str(folder), "--number", str(number)]
        with (folder / f"{number}.err").open("w") as errors:
            processes.append(subprocess.Popen(command, stdout=errors, stderr=errors, env=environment))
    report: dict[str, Any] = {"machine": machine(), "sections": {}}
    left = list(range(len(names)))
    while left and time.monotonic() - began < seconds:
        waiting = [n for n in left if (folder / f"{n}.ready").exists() or processes[n].poll() is not None]
        if len(waiting) < len(left) and time.monotonic() - began < warm or not waiting:
            time.sleep(0.1)
            continue
        number = waiting[0]
        left.remove(number)
        alone = len(waiting) == len(left) + 1
        report["sections"][names[number]] = timed(folder, number, processes[number]) | {"alone": alone}
        (out / "bench.json").write_text(json.dumps(report, indent=1))
    for number, process in enumerate(processes):
        if process.poll() is None:
            process.kill()
        if names[number] not in report["sections"]:
            report["sections"][names[number]] = {"error": "no time was left", "rows": [], "seconds": 0.0}
    report["seconds"] = round(time.monotonic() - began, 1)
    (out / "bench.json").write_text(json.dumps(report, indent=1))
    sys.stdout.write(table(report))
    return int(any("error" in section for section in report["sections"].values()))


def timed(folder: Path, number: int, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Give a section its turn, and return its rows."""
    began = time.monotonic()
    (folder / f"{number}.go").touch()
    found: dict[str, Any] = {}
    try:
        code = process.wait(SECTION_S)
        if code:
            found["error"] = f"exit status {code} {(folder / f'{number}.err').read_text()[-1500:]}"
    except subprocess.TimeoutExpired:
        process.kill()
        found["error"] = f"not done after {SECTION_S} s"
    rows = folder / f"{number}.jsonl"
    lines = rows.read_text().splitlines() if rows.exists() else []
    return found | {"rows": [json.loads(line) for line in lines], "seconds": round(time.monotonic() - began, 1)}


def machine() -> dict[str, str]:
    """Return what it ran on."""
    import torch
    import triton

    asked = "name,driver_version,clocks.sm,clocks.mem,temperature.gpu"
    try:
        done = subprocess.run(["nvidia-smi", f"--query-gpu={asked}", "--format=csv"], capture_output=True, text=True)
        told = done.stdout
    except OSError as error:
        told = str(error)
    return {"torch": torch.__version__, "triton": triton.__version__, "cuda": str(torch.version.cuda), "gpu": told}


def table(report: dict[str, Any]) -> str:
    """Return each section's fastest rows, its base and default, and errors, as text; the file has all rows."""
    lines = [report["machine"]["gpu"].strip()]
    for name, section in report["sections"].items():
        lines.append(f"{name} ({section['seconds']} s) {section.get('error', '')[-300:]}")
        rows = sorted((row for row in section["rows"] if "error" not in row), key=lambda row: row.get("us", 0.0))
        kept = [row for place, row in enumerate(rows) if place < _ROWS or row["name"] == "bf16" or row.get("default")]
        lines += [_line(row) for row in kept]
        failed = [row for row in section["rows"] if "error" in row]
        lines += [f"  {row['name']} ERROR {row['error'][:120]}" for row in failed[:3]]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    keys = ("us", "x_base", "tb_per_s", "t_per_s", "waits", "peak_nbytes", "nbytes")
    numbers = [f"{key} {row[key]:.4g}" for key in keys if key in row and (key != "nbytes" or "peak_nbytes" in row)]
    return f"  {row['name']}{' *' if row.get('default') else ''}  {'  '.join(numbers)}"


if __name__ == "__main__":
    sys.exit(main())
