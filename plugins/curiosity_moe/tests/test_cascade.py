from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qcore_curiosity_moe.cascade import Cascade, margin


class Fixed(nn.Module):
    """Returns logits whose first class leads by as much as the input says, plus a mark of who answered."""

    def __init__(self, mark: float) -> None:
        super().__init__()
        self.mark = mark

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0], torch.zeros(len(x)), torch.full((len(x),), -50.0 - self.mark)], dim=1)


def rows() -> Tensor:
    return torch.linspace(0, 4, 21).unsqueeze(1)


def test_the_margin_is_the_lead_of_the_best_probability() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.4, 0.4]])
    assert torch.allclose(margin(p.log()), torch.tensor([0.5, 0.0]), atol=1e-6)


def test_nothing_goes_on_before_thresholds_are_set() -> None:
    _, reached, _ = Cascade([Fixed(0), Fixed(1)]).escalate(rows())
    assert (reached == 0).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_with_the_smallest_margins_goes_on(share: float) -> None:
    cascade = Cascade([Fixed(0), Fixed(1)])
    cascade.fit_thresholds(rows(), share)
    logits, reached, first = cascade.escalate(rows())
    assert int(reached.sum()) == int(share * 21)
    assert torch.equal(logits[:, 2], -50.0 - reached)
    assert torch.equal(cascade(rows()), logits)


def test_each_later_stage_sees_only_what_the_one_before_sent_on() -> None:
    cascade = Cascade([Fixed(0), Fixed(1), Fixed(2)])
    cascade.fit_thresholds(rows(), 0.5)
    _, reached, first = cascade.escalate(rows())
    assert torch.bincount(reached).tolist() == [11, 5, 5]
    assert first[reached == 2].max() < first[reached == 1].min()
    assert first[reached == 1].max() < first[reached == 0].min()
