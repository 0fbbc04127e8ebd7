"""Packed linear layers against torch fp32 and the peers that are installed: `qcore bench` with the table of issue 3.

``python benchmarks/packed_layers.py [--threads N] [--cold] [--avx2] [--rounds N]`` writes ``results/packed_layers*``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from common import write_report

from qcore.cli.console import say
from qcore.measure.bench.layers import Options, bench_layers
from qcore.measure.bench.plan import BATCHES, SHAPES, Weight
from qcore.measure.bench.table import markdown

WEIGHTS = (Weight(None), Weight(4), Weight(8), Weight(1), Weight(4, 128), Weight(4, 64), Weight(4, float_input=True))
STREAMED = SHAPES[:2], (1, 8), WEIGHTS[:5]
"""What ``--cold`` times: layers that do not fit the caches, at batches that are bound by memory."""

AVX2 = {
    "QCORE_CPU_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
"""What keeps us and torch's libraries to AVX2; onnxruntime heeds no such wish."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--avx2", action="store_true", help="keep to AVX2, where the libraries can be told to")
    words = parser.parse_args()
    if words.avx2 and os.environ.get("QCORE_CPU_ISA") != "avx2":  # they read it as they are loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **AVX2})
    shapes, batches, weights = STREAMED if words.cold else (SHAPES, BATCHES, WEIGHTS)
    options = Options(rounds=words.rounds, threads=words.threads, cold=words.cold)
    report = bench_layers(shapes, batches, weights, options, say)
    threads = "" if words.threads == 1 else f"_{words.threads}_threads"
    name = "packed_layers" + ("_cold" if words.cold else "") + ("_avx2" if words.avx2 else "") + threads
    command = shlex.join(["python", "benchmarks/packed_layers.py", *sys.argv[1:]])
    write_report(name, {"command": command, **report.as_dict()}, markdown(report, name, command))


if __name__ == "__main__":
    main()
