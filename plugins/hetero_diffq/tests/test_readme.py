from __future__ import annotations

import re
from pathlib import Path

import torch

from qcore.plugins import default

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@torch.no_grad()
def test_the_python_example_runs_and_keeps_its_promises() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    names: dict[str, torch.nn.Module] = {}
    exec(code, names)
    expected = names["low_bit"](names["images"])
    assert torch.equal(names["packed"](names["images"]), expected)
    assert torch.allclose(names["fast"](names["images"]), expected, rtol=1e-3, atol=0.05 * float(expected.abs().max()))


def test_every_network_and_task_is_in_the_readme() -> None:
    registry = default().registry
    offers = [spec for spec in registry if spec.plugin == "hetero_diffq" and spec.kind in ("model", "task")]
    assert offers and not [spec.id for spec in offers if f"`{spec.id}`" not in TEXT]
