"""Checks on routers: shares that add up, and decisions that depend on the sample alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from qcore.nn import set_generator
from qcore.routers import Router, Routing
from qcore.testing.cases import SkipCheck, expect
from qcore.testing.inputs import generator, normal, random_state_kept, same_bits
from qcore.testing.subjects import Offer, expect_json_config

TOLERANCE = 1e-6
"""Float32 sums of a few shares round by less than this."""

_BATCHES = (2, 7, 64, 129)


def ready(offer: Offer) -> Router:
    """Return a new router in eval mode, with calibration data seen and, where it takes one, a generator of its own."""
    router: Router = offer.make()
    set_generator(router, generator(3))
    router.eval()
    router.calibrate(normal((96, router.config.in_features), torch.float32, seed=5))
    return router


def samples(router: Router) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, inputs (rows, in_features)): batches of any size and hard values."""
    features = router.config.in_features
    for rows in (0, 1, *_BATCHES):
        yield f"{rows} rows", normal((rows, features), torch.float32, seed=rows)
    x = normal((9, features), torch.float32, seed=11)
    yield "zeros", torch.zeros(5, features)
    yield "large", x * 1e4
    yield "small", x * 1e-12
    yield "one row many times", x[:1].expand(8, -1)
    yield "transposed", normal((features, 5), torch.float32, seed=13).t()


def route(router: Router, x: Tensor) -> Routing:
    """Route without gradient."""
    with torch.no_grad():
        routing: Routing = router(x)
    return routing


def check_shapes_and_dtypes(offer: Offer) -> None:
    """The mixture relies on it: weights and probabilities are float32 (rows, experts), uncertainty float32 (rows,)."""
    router = ready(offer)
    for name, x in samples(router):
        routing = route(router, x)
        wanted = (len(x), router.experts)
        for key in ("weights", "probabilities"):
            value = getattr(routing, key)
            expect(tuple(value.shape) == wanted, f"{name}: {key} have shape {tuple(value.shape)}, not {wanted}")
            expect(value.dtype == torch.float32, f"{name}: {key} are {value.dtype}")
        for key, value in routing.extras.items():
            expect(len(value) == len(x), f"{name}: {key} has {len(value)} rows for {len(x)} samples")


def check_weights_are_shares(offer: Offer) -> None:
    """A mixture is a weighted mean: in eval mode weights are >= 0 and sum to 1, over at least one expert a sample."""
    router = ready(offer)
    for name, x in samples(router):
        weights = route(router, x).weights
        expect(bool((weights >= 0).all()), f"{name}: a weight is negative")
        off = (weights.sum(dim=1) - 1).abs()
        expect(bool((off <= TOLERANCE).all()), f"{name}: the weights of a row do not sum to 1")


def check_probabilities_sum_to_one(offer: Offer) -> None:
    """Evidence is drawn from them: probabilities lie in [0, 1] and each row sums to 1."""
    router = ready(offer)
    for name, x in samples(router):
        p = route(router, x).probabilities
        expect(bool(((p >= 0) & (p <= 1)).all()), f"{name}: a probability is outside [0, 1]")
        off = (p.sum(dim=1) - 1).abs()
        expect(bool((off <= TOLERANCE).all()), f"{name}: the probabilities of a row do not sum to 1")


def check_rows_do_not_depend_on_their_batch(offer: Offer) -> None:
    """A sample gets one answer: each row routed alone is routed as in any batch."""
    router = ready(offer)
    for name, x in samples(router):
        together = route(router, x)
        for row in range(min(len(x), 32)):
            _same_route(route(router, x[row : row + 1]), together, row, f"{name}: row {row} alone")
    x = normal((max(_BATCHES), router.config.in_features), torch.float32, seed=17)
    whole = route(router, x)
    for size in _BATCHES:
        for start in range(0, len(x), size):
            part = route(router, x[start : start + size])
            for row in (0, len(part.weights) - 1):
                _same_route(_row(part, row), whole, start + row, f"row {start + row} in batches of {size}")


def check_eval_is_deterministic(offer: Offer) -> None:
    """A run can be repeated: in eval mode a second call, and a second router of the same seed, decide the same."""
    first, second = ready(offer), ready(offer)
    for name, x in samples(first):
        routing = route(first, x)
        for other in (route(first, x), route(second, x)):
            expect(same_bits(routing.weights, other.weights), f"{name}: other weights")
            expect(same_bits(routing.probabilities, other.probabilities), f"{name}: other probabilities")


def check_random_state_is_left_alone(offer: Offer) -> None:
    """Seeds belong to the run: neither making, nor calibrating, nor routing may use a global random state."""
    with random_state_kept():
        router = ready(offer)
        x = normal((8, router.config.in_features), torch.float32)
        route(router, x)
        route(router.train(), x)


def check_uncertainty_is_nats(offer: Offer) -> None:
    """Precision follows it: uncertainty is finite, >= 0 and one a sample, where the spec says that there is one."""
    router = ready(offer)
    promised = bool(getattr(offer.spec, "uncertainty", False))
    for name, x in samples(router):
        u = route(router, x).uncertainty
        if u is None:
            expect(not promised, f"{name}: the spec promises an uncertainty, and there is none")
            continue
        expect(tuple(u.shape) == (len(x),), f"{name}: uncertainty has shape {tuple(u.shape)}")
        expect(u.dtype == torch.float32, f"{name}: uncertainty is {u.dtype}")
        expect(bool(torch.isfinite(u).all()), f"{name}: an uncertainty is NaN or infinite")
        expect(bool((u >= 0).all()), f"{name}: an uncertainty is negative")


def check_state_round_trip(offer: Offer) -> None:
    """A file holds it all: a new router that loads the state, strictly and uncalibrated, decides the same."""
    router = ready(offer)
    other: Router = offer.make()
    other.load_state_dict({key: value.clone() for key, value in router.state_dict().items()})
    other.eval()
    for name, x in samples(router):
        ours, theirs = route(router, x), route(other, x)
        expect(same_bits(ours.weights, theirs.weights), f"{name}: the copy routes otherwise")


def check_input_is_untouched(offer: Offer) -> None:
    """Experts see the same samples: the router may not write into them."""
    router = ready(offer)
    for name, x in samples(router):
        before = x.clone()
        route(router, x)
        expect(torch.equal(before, x), f"{name}: the input was changed")


def check_gradient_reaches_the_router(offer: Offer) -> None:
    """It can be trained through its choice: in training the weights carry a finite gradient to its parameters."""
    router = ready(offer).train()
    parameters = {name: p for name, p in router.named_parameters() if p.requires_grad}
    if not parameters:
        raise SkipCheck("the router has nothing to train")
    routing = router(normal((64, router.config.in_features), torch.float32))
    upstream = normal(tuple(routing.weights.shape), torch.float32, seed=7)
    (routing.weights * upstream).sum().backward()
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    expect(gradients, "no parameter gets a gradient from the weights")
    for name, gradient in gradients.items():
        expect(bool(torch.isfinite(gradient).all()), f"the gradient of {name} is NaN or infinite")


def check_config_is_json(offer: Offer) -> None:
    """Files name their routers: the config survives JSON, and refuses keys it does not know."""
    expect_json_config(offer)


def _row(routing: Routing, row: int) -> Routing:
    rows = slice(row, row + 1) if row >= 0 else slice(row, None)
    u = routing.uncertainty
    return Routing(routing.weights[rows], routing.probabilities[rows], None if u is None else u[rows])


def _same_route(alone: Routing, batch: Routing, row: int, where: str) -> None:
    other = _row(batch, row)
    expect(torch.equal(alone.weights != 0, other.weights != 0), f"{where}: other experts are chosen")
    expect(torch.equal(alone.experts, other.experts), f"{where}: another expert is chosen")
    for key in ("weights", "probabilities", "uncertainty"):
        ours, theirs = getattr(alone, key), getattr(other, key)
        if ours is not None:
            worst = float((ours - theirs).abs().max())
            expect(worst <= TOLERANCE, f"{where}: {key} differ by {worst:.2e}")
