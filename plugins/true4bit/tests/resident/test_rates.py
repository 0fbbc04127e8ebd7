from __future__ import annotations

import math

import torch
from torch import nn

from qcore.methods import Progress
from qcore_true4bit.resident import ResidentConfig, ResidentRates, make_resident, set_rates


def model() -> nn.Module:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    return make_resident(network, ResidentConfig(), torch.Generator())


def test_set_rates_reaches_every_resident_layer() -> None:
    made = model()
    set_rates(made, lr=0.3, weight_decay=0.1)
    assert [(layer.lr, layer.weight_decay) for layer in (made[0], made[2])] == [(0.3, 0.1)] * 2


def test_rates_follow_the_schedule() -> None:
    made = model()
    rates = ResidentRates(0.2, lambda fraction: 0.5 * (1 + math.cos(math.pi * fraction)), 0.01)
    rates(made, Progress(step=5, steps=10, epoch=0, epochs=1))
    assert made[0].lr == 0.1 and made[0].weight_decay == 0.01
    ResidentRates(0.2)(made, Progress(step=5, steps=10, epoch=0, epochs=1))
    assert made[2].lr == 0.2 and made[2].weight_decay == 0.02
