from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGES = """
import resource
import sys

import torch

from qcore.runs import worker

torch.set_num_threads(1)
if sys.argv[1] == "kept":
    worker._keep_freed_memory()
for turn in range(12):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_worker_s_tensors_take_memory_that_others_left() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("kept") < faults("returned") / 2
