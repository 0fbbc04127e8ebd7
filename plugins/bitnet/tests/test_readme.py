from __future__ import annotations

import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_runs_and_keeps_its_promise() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names: dict[str, torch.nn.Module] = {}
    exec(code, names)
    x = torch.randn(9, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(names["packed"](x), names["ternary"].eval()(x))
