"""Start-up: the command and the import, against `import torch` and an empty interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys

from common import interleaved, ratio, write

ROUNDS = 12
CASES = {
    "python -c pass": ["-c", "pass"],
    "import qcore": ["-c", "import qcore"],
    "qcore --help": ["-m", "qcore", "--help"],
    "qcore plugins": ["-m", "qcore", "plugins"],
    "qcore list": ["-m", "qcore", "list"],
    "import torch": ["-c", "import torch"],
}


def main() -> None:
    def call(arguments: list[str]) -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    times = interleaved({name: lambda a=a: call(a) for name, a in CASES.items()}, rounds=ROUNDS)
    rows = {
        name: {
            "median_s": statistics.median(values),
            "least_s": min(values),
            "to_pass": ratio(values, times["python -c pass"]),
            "to_torch": ratio(values, times["import torch"]),
        }
        for name, values in times.items()
    }
    lines = ["| case | median s | least s | x `pass` | share of `import torch` |", "|---|---|---|---|---|"]
    lines += [
        f"| `{name}` | {row['median_s']:.3f} | {row['least_s']:.3f} | {row['to_pass']['ratio']:.1f} "
        f"| {row['to_torch']['ratio']:.3f} |"
        for name, row in rows.items()
    ]
    write("startup", "python benchmarks/startup.py", {"rounds": ROUNDS, "cases": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
