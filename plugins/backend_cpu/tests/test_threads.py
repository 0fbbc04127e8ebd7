from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

from qcore.tensor.arithmetic import Conv2dShape
from qcore_backend_cpu.testing import TOKENS, kernels, make_weight


def test_any_number_of_threads_gives_the_same(isa: str, threads: int) -> None:
    for batch in (1, 5, 300):
        ours, reference = kernels(make_weight("int", 4, (300, 600)), TOKENS)
        x = torch.randn(batch, 600)
        assert torch.equal(ours.call(x), reference.call(x))
    ours, reference = kernels(make_weight("int", 4, (40, 8, 3, 3)), TOKENS, conv=Conv2dShape((1, 1), (1, 1)))
    x = torch.randn(5, 8, 32, 32)
    assert torch.equal(ours.call(x), reference.call(x))


def test_eight_callers_at_once_get_the_same(isa: str, threads: int) -> None:
    layers = [kernels(make_weight("int", bits, (200, 500)), TOKENS) for bits in (2, 4, 8)]
    inputs = [torch.randn(batch, 500) for batch in (1, 9, 70)]
    wanted = [[reference.call(x) for x in inputs] for _, reference in layers]

    def work(_: int) -> bool:
        return all(
            torch.equal(ours.call(x), y)
            for (ours, _), ys in zip(layers, wanted, strict=True)
            for x, y in zip(inputs, ys, strict=True)
            for _ in range(3)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


_FORK = """
import os, torch
from qcore_backend_cpu.testing import TOKENS, kernels, make_weight
torch.set_num_threads(2)
ours, reference = kernels(make_weight("int", 4, (300, 600)), TOKENS)
x = torch.randn(20, 600)
y = ours.call(x)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(ours.call(x), y) else 1)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_works_on() -> None:
    paths = os.pathsep.join(filter(None, sys.path))
    subprocess.run(
        [sys.executable, "-P", "-c", _FORK], check=True, timeout=120, env={**os.environ, "PYTHONPATH": paths}
    )
