"""Checks on methods: arms that can be built, compared and packed, on a small task and without training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from qcore.errors import UsageError
from qcore.methods import Arm, Claim, Method, Phase
from qcore.nn import explain, pack
from qcore.testing.cases import SkipCheck, expect
from qcore.testing.inputs import generator, random_state_kept
from qcore.testing.subjects import Offer
from qcore.testing.tiny_task import TinyTask
from qcore.training.data import FoldTensors, as_floats


def make(offer: Offer) -> Method:
    """Return the method with its registry, as a run makes it."""
    method: Method = offer.make()
    method.registry = offer.registry
    return method


def task_for(offer: Offer) -> TinyTask:
    """Return a small task of the problem that the method's default task has, with images if it refuses features."""
    name = getattr(offer.spec, "default_task", "core/digits")
    problem = getattr(offer.registry.get("task", name), "problem", "classification")
    features = TinyTask(regression=problem == "regression")
    try:
        make(offer).check(features)
    except UsageError:
        return TinyTask(regression=problem == "regression", images=True)
    return features


def built(offer: Offer, task: TinyTask | None = None) -> Iterator[tuple[Arm, nn.Module, Tensor]]:
    """Yield (arm, untrained and calibrated network in eval mode, inputs) for every arm."""
    method, task = make(offer), task or task_for(offer)
    inputs, targets = as_floats(task.data.inputs), task.data.targets
    sources: dict[str, nn.Module] = {}
    for arm in method.arms():
        model = method.build(arm, task, generator(0), {name: sources[name] for name in arm.needs})
        fit_scalers = getattr(model, "fit_scalers", None)
        if callable(fit_scalers):
            fit_scalers(inputs, targets)
        model = method.calibrate(arm, model.eval(), FoldTensors(inputs, targets, inputs, targets)).eval()
        sources[arm.name] = pack(model, registry=offer.registry)
        yield arm, model, inputs


def check_arms_can_be_compared(offer: Offer) -> None:
    """Arms have names of their own, the baseline comes first and is one, and what an arm needs comes before it."""
    arms = make(offer).arms()
    expect(arms, "it has no arm")
    names = [arm.name for arm in arms]
    expect(len(set(names)) == len(names), f"two arms have one name: {names}")
    baselines = [arm.name for arm in arms if arm.baseline]
    expect(baselines == names[:1], f"the first arm, and only that, is the baseline, not {baselines}")
    for index, arm in enumerate(arms):
        expect(arm.name.isidentifier() and arm.name == arm.name.lower(), f"{arm.name!r} is no lower-case identifier")
        expect(arm.summary.strip() and "\n" not in arm.summary, f"arm {arm.name} has no summary of one line")
        for need in arm.needs:
            expect(need in names[:index], f"arm {arm.name} needs {need!r}, which does not come before it")


def check_phases_are_described(offer: Offer) -> None:
    """The training loop is the core's: an arm has a list of phases with names of their own."""
    method = make(offer)
    for arm in method.arms():
        phases = method.phases(arm)
        expect(all(isinstance(phase, Phase) for phase in phases), f"arm {arm.name}: {phases!r} holds more than phases")
        names = [phase.name for phase in phases]
        expect(len(set(names)) == len(names), f"arm {arm.name}: two phases have one name: {names}")


def check_claims_are_statements(offer: Offer) -> None:
    """Claims are printed with their verdicts: each has an id of its own, a sentence and a family."""
    claims = make(offer).claims()
    expect(all(isinstance(claim, Claim) for claim in claims), "it returns more than claims")
    ids = [claim.id for claim in claims]
    expect(len(set(ids)) == len(ids), f"two claims have one id: {ids}")
    for claim in claims:
        expect(claim.statement.strip() and claim.family.strip(), f"claim {claim.id} has no statement or no family")


def check_arms_predict(offer: Offer) -> None:
    """Every arm's network maps (rows, features), or images, to finite (rows, outputs)."""
    _predict(offer, task_for(offer))


def check_arms_predict_several_values(offer: Offer) -> None:
    """A regression may have several values a sample, of other units each: every arm returns all of them."""
    images = task_for(offer).images
    task = TinyTask(regression=True, images=images, outputs=4)
    try:
        make(offer).check(task)
    except UsageError as error:
        raise SkipCheck(f"it takes no regression: {error.message}") from error
    _predict(offer, task)


def _predict(offer: Offer, task: TinyTask) -> None:
    for arm, model, inputs in built(offer, task):
        with torch.no_grad():
            y = model(inputs)
        expect(tuple(y.shape) == (len(inputs), task.out_features), f"arm {arm.name} returns {tuple(y.shape)}")
        expect(bool(torch.isfinite(y).all()), f"arm {arm.name} returns NaN or infinity")


def check_packed_equals_eval(offer: Offer) -> None:
    """What is deployed is what was evaluated: on the reference backend, packed logits equal eval logits in each arm."""
    for arm, model, inputs in built(offer):
        with torch.no_grad():
            evaluated = model(inputs)
            packed = pack(model, backend="core/reference", registry=offer.registry)(inputs)
        bound = max((row["bound"] for row in explain(model).rows), default=0.0) * float(evaluated.abs().max())
        worst = float((packed - evaluated).abs().max())
        expect(worst <= bound, f"arm {arm.name}: packed differs by {worst:.3g}")


def check_builds_are_repeatable(offer: Offer) -> None:
    """All arms of a fold share a seed: a second build draws the same weights, and no global random state is used."""
    with random_state_kept():
        first, second = list(built(offer)), list(built(offer))
    for (arm, ours, _), (_, theirs, _) in zip(first, second, strict=True):
        other = theirs.state_dict()
        for name, value in ours.state_dict().items():
            expect(torch.equal(value, other[name]), f"arm {arm.name}: {name} differs in a second build")
