from __future__ import annotations

import re
from pathlib import Path

import torch

import qcore

README = Path(__file__).parents[1] / "README.md"


@torch.no_grad()
def test_the_python_example_runs_and_keeps_its_promises() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names: dict[str, torch.nn.Module] = {}
    exec(code, names)
    x = torch.randint(0, 256, (9, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    expected = names["four"].eval()(x)
    assert torch.equal(names["packed"](x), expected)
    folded = names["folded"](x)
    assert torch.allclose(folded, expected, rtol=1e-3, atol=0.05 * float(expected.abs().max()))
    assert torch.equal(names["fast"](x), folded)


def test_every_arm_is_in_the_readme() -> None:
    text = README.read_text()
    assert not [arm.name for arm in qcore.get("method", "true4bit").arms() if f"`{arm.name}`" not in text]
