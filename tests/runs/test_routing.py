from __future__ import annotations

import torch
from torch import nn

from qcore.nn import MixtureOfExperts
from qcore.plugins import Framework
from qcore.runs.routing import count_visits, unvisited


def test_visits_are_counted_over_all_batches_while_the_context_lasts(framework: Framework) -> None:
    router = framework.registry.make("router", "core/topk", in_features=4, experts=3)
    model = nn.Sequential(MixtureOfExperts([nn.Linear(4, 2) for _ in range(3)], router)).eval()
    inputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    with count_visits(model) as counts:
        for part in (inputs[:15], inputs[15:]):
            model(part)
    assert list(counts) == ["0"]
    assert sum(counts["0"]) == 20
    model(inputs)
    assert sum(counts["0"]) == 20
    experts = router(inputs).weights.argmax(dim=1)
    assert counts["0"] == torch.bincount(experts, minlength=3).tolist()


def test_a_model_without_a_mixture_counts_nothing() -> None:
    with count_visits(nn.Linear(2, 2)) as counts:
        assert counts == {}


def test_an_expert_that_no_sample_reaches_is_named() -> None:
    assert unvisited({"moe": [3, 0], "": [0]}) == [
        "expert 1 of moe is reached by no training sample",
        "expert 0 of the model is reached by no training sample",
    ]
