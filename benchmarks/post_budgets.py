"""Budgets without training: MobileNetV2 with ImageNet weights, calibrated on half of 1,000 images, tested on the other.

``QCORE_DATA=FOLDER python benchmarks/post_budgets.py`` needs the packed weights and images of ``hetero_diffq``'s task
``imagenet_sample``. Writes ``benchmarks/results/post_budgets.json`` and ``.md``. Scores are agreement with the float
network's first answer on images that nothing was fitted on, not accuracy on ImageNet.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from common import write
from torch import Tensor, nn

import qcore
from qcore.export import to_bytes
from qcore_hetero_diffq.budget.activations import trace_inputs
from qcore_hetero_diffq.errors import BudgetInfeasible
from qcore_hetero_diffq.network import inputs_of
from qcore_hetero_diffq.post import Fitted, prepare

WEIGHTS = "mobilenet_v2_imagenet/mobilenet_v2_int8pc.npz"
BUDGETS = ("4MB", "3.5MB", "3MB", "2.5MB", "2MB", "1.75MB", "1.5MB")
WIDTHS = ((8, 8), (6, 8), (5, 8), (4, 8), (6, 6), (5, 5), (4, 4))
COUNTING = "peak"
BATCH = 16


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gradients", type=int, default=160, help="images that gradients are noted of")
    parser.add_argument("--tested", type=int, default=500, help="images that networks are compared on")
    arguments = parser.parse_args()
    pixels = qcore.get("task", "hetero_diffq/imagenet_sample").data.inputs
    fitted_on, tested = pixels[0::2][: arguments.gradients].float(), pixels[1::2][: arguments.tested]
    weights = Path(os.environ["QCORE_DATA"]) / WEIGHTS
    model = qcore.get(
        "model",
        "hetero_diffq/mobilenet_v2",
        preprocessing="symmetric",
        padding="tensorflow",
        norm=False,
        out_features=1001,
        weights=str(weights),
    ).eval()
    expected = logits(model, tested)
    fitted = prepare(model, list(fitted_on.split(BATCH)))
    sizes = trace_inputs(fitted.model, tested[:1].float())

    def row(name: str, kind: str, network: nn.Module) -> dict[str, Any]:
        widths = {path: float(quantizer.bits().detach()) for path, quantizer in inputs_of(network).items()}
        inputs = {counting: sizes.nbits(widths, counting) / 8 for counting in ("sum", "peak")}
        found = logits(qcore.compile_plan(qcore.pack(network)), tested)
        five = (found.topk(5).indices == expected.argmax(dim=1, keepdim=True)).any(dim=1)
        return {
            "name": name,
            "kind": kind,
            "file_nbytes": len(to_bytes(network)),
            "activation_nbytes": inputs,
            "agreement": float((found.argmax(dim=1) == expected.argmax(dim=1)).double().mean()),
            "among_five": float(five.double().mean()),
        }

    rows = [row(f"W{bits}A{inputs}", "uniform", fitted.uniform(bits, inputs)) for bits, inputs in WIDTHS]
    rows += [budget_row(fitted, text, row) for text in BUDGETS]
    rows += [equal_row(fitted, other, row) for other in rows if other["kind"] == "uniform"]
    command = shlex.join(["python", "benchmarks/post_budgets.py", *sys.argv[1:]])
    data = {"counting": COUNTING, "fitted_on": len(fitted_on), "tested": len(tested), "rows": rows}
    write("post_budgets", command, data, table(rows, len(fitted_on), len(tested)))


def budget_row(fitted: Fitted, text: str, row: Any) -> dict[str, Any]:
    """Return what a budget for file and activations together gives, or how much it would take."""
    try:
        return {**row(text, "mixed", fitted.to_budget(text, of="both", counting=COUNTING)), "budget": text}
    except BudgetInfeasible as error:
        return {"name": text, "kind": "infeasible", "budget": text, "smallest_nbytes": error.smallest_nbytes}


def equal_row(fitted: Fitted, other: dict[str, Any], row: Any) -> dict[str, Any]:
    """Return what mixed widths give in as many bytes as a uniform network takes."""
    nbytes = other["file_nbytes"] + int(other["activation_nbytes"][COUNTING])
    name = f"mixed, as many bytes as {other['name']}"
    return {**row(name, "equal", fitted.to_budget(f"{nbytes}B", of="both", counting=COUNTING)), "budget": f"{nbytes}B"}


@torch.no_grad()
def logits(model: nn.Module, pixels: Tensor) -> Tensor:
    """Return what ``model`` says of images, bytes (n, 3, 224, 224)."""
    return torch.cat([model(batch.float()) for batch in pixels.split(BATCH)])


def table(rows: list[dict[str, Any]], fitted_on: int, tested: int) -> str:
    """Return the results as text."""
    lines = [
        f"MobileNetV2 1.0/224, fitted on {fitted_on} images. Agreement with the float network's first answer on",
        f"{tested} others, and how often that answer is among the first five. Bytes of the file, and of activations",
        "that live at one time (of all layers together); budgets count the file and the former.",
        "",
        "| network | file kB | activations kB | together kB | budget | agreement | among 5 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["kind"] == "infeasible":
            least = f"{row['smallest_nbytes'] / 1e3:.0f} at least"
            lines.append(f"| {row['name']} | - | - | {least} | {row['budget']} | - | - |")
            continue
        peak, total = row["activation_nbytes"]["peak"], row["activation_nbytes"]["sum"]
        together = (row["file_nbytes"] + peak) / 1e3
        lines.append(
            f"| {row['name']} | {row['file_nbytes'] / 1e3:.0f} | {peak / 1e3:.0f} ({total / 1e3:.0f}) | {together:.0f} "
            f"| {row.get('budget', '-')} | {row['agreement']:.3f} | {row['among_five']:.3f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
