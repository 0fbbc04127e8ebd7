"""Every kernel against the reference on a GPU, by several processes at once: ``python device/check.py --out DIR``.

Each process takes its share of the calls of :mod:`problems`, one after another. One that dies, as it does after an
illegal address, or that takes too long over a call, is started anew behind that call. ``DIR/check.json`` is written
while they run.
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

SLOWEST_S = 90.0
"""Longest time of one call, compiling its kernels included; the first also imports torch."""


def work(index: int, workers: int, start: int, path: Path, device: str, only: str) -> None:
    """Run this process's calls from number ``start`` on; note each in ``path`` before and after."""
    import torch
    from problems import tasks

    share = [task for task in tasks(device, index, workers) if re.search(only, task[0])]
    with path.open("a") as log:
        for number, (name, run) in enumerate(share[start:], start):
            _note(log, {"number": number, "name": name})
            torch.manual_seed(number)
            began = time.perf_counter()
            note: dict[str, Any] = {"number": number, "name": name, "ok": True}
            fatal = False
            try:
                said = run()
                if device == "cuda":
                    torch.cuda.synchronize()
                note["note"] = said if isinstance(said, str) else None
            except Exception as error:  # the other calls' results must not be lost
                message = f"{type(error).__name__}: {error}"
                note |= {"ok": type(error).__name__ == "SkipCheck", "note": message[:1500]}
                fatal = "CUDA error" in message or "illegal" in message
            _note(log, note | {"seconds": round(time.perf_counter() - began, 3)})
            if fatal:
                sys.exit(3)
        _note(log, {"done": True, "number": len(share)})


def _note(log: Any, record: dict[str, Any]) -> None:
    log.write(json.dumps(record) + "\n")
    log.flush()


class Worker:
    """One process and what it has noted."""

    def __init__(self, index: int, workers: int, folder: Path, device: str, only: str) -> None:
        self.index, self.workers, self.options = index, workers, ["--device", device, "--only", only]
        self.path = folder / f"{index}.jsonl"
        self.path.touch()
        self.errors = folder / f"{index}.err"
        self.lost: list[dict[str, Any]] = []
        self.done = False
        self.start(0)

    def start(self, number: int) -> None:
        """Start the process at its call of that number."""
        where = ["--worker", f"{self.index}/{self.workers}", "--start", str(number), "--log", str(self.path)]
        command = [sys.executable, __file__, *self.options, *where]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(command, stdout=errors, stderr=errors, env=environment)
        self.since, self.size = time.monotonic(), self.path.stat().st_size

    def records(self) -> list[dict[str, Any]]:
        """Return what is noted so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines() if line.endswith("}")]

    def look(self) -> None:
        """Start the process anew if it died or is stuck."""
        if self.done:
            return
        size = self.path.stat().st_size
        if size != self.size:
            self.size, self.since = size, time.monotonic()
        ended, stuck = self.process.poll() is not None, time.monotonic() - self.since > SLOWEST_S
        if not ended and not stuck:
            return
        records = self.records()
        if records and records[-1].get("done"):
            self.done = True
            return
        if stuck:
            self.process.kill()
            self.process.wait()
        error = self.errors.read_text()[-800:]
        last = records[-1] if records else {"number": -1, "name": "before the first call"}
        if "ok" not in last:
            self.lost.append(
                {**last, "ok": False, "note": f"{'took too long' if stuck else 'the process died'} {error}"}
            )
        if len(self.lost) > 5:
            self.done = True
            return
        self.start(last["number"] + 1)

    def results(self) -> list[dict[str, Any]]:
        """Return the calls that ended."""
        return [record for record in self.records() if "ok" in record] + self.lost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--seconds", type=float, default=200.0, help="time for all of it")
    parser.add_argument("--workers", type=int, default=min(14, max(1, (os.cpu_count() or 2) - 2)))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default="", help="regular expression: calls to run")
    parser.add_argument("--worker")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--log", type=Path)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    if given.worker:
        index, workers = map(int, given.worker.split("/"))
        work(index, workers, given.start, given.log, given.device, given.only)
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    return supervise(given.out, given.seconds, given.workers, given.device, given.only)


def supervise(out: Path, seconds: float, workers: int, device: str, only: str) -> int:
    """Run all calls, and return whether any failed."""
    began, folder = time.monotonic(), Path(tempfile.mkdtemp())
    team = [Worker(i, workers, folder, device, only) for i in range(workers)]
    while time.monotonic() - began < seconds and not all(worker.done for worker in team):
        time.sleep(0.5)
        for worker in team:
            worker.look()
    complete = all(worker.done for worker in team)
    for worker in team:
        if worker.process.poll() is None:
            worker.process.kill()
    results = [result for worker in team for result in worker.results()]
    failed = [result for result in results if not result["ok"]]
    noted = sorted({result["note"] for result in results if result["ok"] and result.get("note")})
    summary = {
        "complete": complete,
        "seconds": round(time.monotonic() - began, 1),
        "calls": len(results),
        "failed": len(failed),
        "notes": noted,
        "failures": sorted(failed, key=lambda result: result["name"]),
        "slowest": sorted(results, key=lambda result: -result.get("seconds", 0.0))[:15],
    }
    (out / "check.json").write_text(json.dumps(summary, indent=1))
    sys.stdout.write(f"{len(results)} calls, {len(failed)} failed, complete: {complete}, {summary['seconds']} s\n")
    for result in summary["failures"][:25]:
        sys.stdout.write(f"FAILED {result['name']}: {(result['note'] or '')[:300]}\n")
    return 1 if failed or not complete else 0


if __name__ == "__main__":
    sys.exit(main())
