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
    assert names["widths"].tolist() == [1] * 64
    x = torch.randn(9, 20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(names["packed"](x), names["model"].eval()(x))


def test_every_arm_is_in_the_readme() -> None:
    text = README.read_text()
    assert not [arm.name for arm in qcore.get("method", "nmpqat").arms() if f"`{arm.name}`" not in text]
