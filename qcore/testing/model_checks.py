"""Checks on registered networks: a file can rebuild them from their name and config."""

from __future__ import annotations

import copy
import json

import torch
from torch import nn

from qcore.nn import architecture_of, build_model
from qcore.testing.cases import expect
from qcore.testing.inputs import generator, random_state_kept
from qcore.testing.subjects import Offer


def build(offer: Offer, seed: int = 0) -> nn.Module:
    """Return the network, initialised from ``seed``."""
    return build_model(offer.spec.id, offer.options, generator(seed), registry=offer.registry)


def check_one_seed_gives_one_network(offer: Offer) -> None:
    """All arms of a fold start alike: one seed gives the same weights again, and no global random state is used."""
    with random_state_kept():
        first, second = build(offer).state_dict(), build(offer).state_dict()
    for name, value in first.items():
        expect(torch.equal(value, second[name]), f"{name} differs in a second build")


def check_seeds_differ(offer: Offer) -> None:
    """Seeds measure spread: another generator gives other weights."""
    first, second = build(offer, 0).state_dict(), build(offer, 1).state_dict()
    expect(any(not torch.equal(value, second[name]) for name, value in first.items()), "the generator is not used")


def check_rebuilt_from_its_architecture(offer: Offer) -> None:
    """Files name it: its architecture is JSON from which a network with the same state entries is built."""
    model = build(offer)
    architecture = architecture_of(model)
    expect(architecture is not None, "it carries no architecture")
    assert architecture is not None
    config = json.loads(json.dumps(architecture.config))
    again = build_model(architecture.model, config, generator(1), registry=offer.registry)
    again.load_state_dict(model.state_dict())
    expect(architecture_of(copy.deepcopy(again)) == architecture, "the architecture changes through JSON or a copy")
