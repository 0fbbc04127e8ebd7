from __future__ import annotations

import torch
from torch import nn

from qcore_true4bit.resident import ResidentConfig, make_resident, state_nbytes

ROWS, COLS = 32, 512


def trained(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, COLS)).sum().backward()
    optimizer.step()
    return optimizer


def test_a_float_network_with_adamw_takes_12_bytes_a_parameter() -> None:
    model = nn.Linear(COLS, ROWS)
    found = state_nbytes(model, [trained(model)])
    count = ROWS * COLS + ROWS
    assert found.weights == found.gradients == 4 * count
    assert found.optimizer == 8 * count + 2 * 4  # and the step of both parameters
    assert found.total == found.weights + found.optimizer


def test_every_byte_of_a_resident_layer_is_counted() -> None:
    for residual, extra in ((False, 0), (True, ROWS * COLS)):
        model = make_resident(nn.Linear(COLS, ROWS), ResidentConfig(residual=residual), torch.Generator())
        found = state_nbytes(model, [trained(model)])
        assert found.weights == ROWS * COLS // 2 + 3 * 4 * ROWS
        moments = ROWS * COLS + 4 * (2 * ROWS + ROWS + COLS) + 8
        adamw = 2 * (2 * 4 * ROWS + 4)
        assert found.optimizer == moments + adamw + extra
        assert found.gradients == 2 * 4 * ROWS


def test_a_shared_tensor_counts_once() -> None:
    layer = nn.Linear(8, 8, bias=False)
    other = nn.Linear(8, 8, bias=False)
    other.weight = layer.weight
    assert state_nbytes(nn.Sequential(layer, other)).weights == 256
