"""Checks on every spec: it names what exists, and its options are documented and strict."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING

from qcore.testing.cases import SkipCheck, expect
from qcore.testing.subjects import Offer

if TYPE_CHECKING:
    from pydantic import BaseModel

_BASES = {
    "quantizer": ("qcore.quantizers", "Quantizer"),
    "router": ("qcore.routers", "Router"),
    "backend": ("qcore.backends", "Backend"),
    "method": ("qcore.methods", "Method"),
    "task": ("qcore.tasks", "Task"),
}


def check_target_is_of_its_kind(offer: Offer) -> None:
    """What a spec names can be imported, and is a class or function of its kind."""
    target = offer.spec.load()
    expect(callable(target), f"{offer.spec.target} is not callable")
    if offer.spec.kind in _BASES:
        module, name = _BASES[offer.spec.kind]
        base = getattr(import_module(module), name)
        expect(inspect.isclass(target) and issubclass(target, base), f"{offer.spec.target} is no subclass of {name}")
        expect(not inspect.isabstract(target), f"{offer.spec.target} leaves methods of {name} undefined")


def check_target_is_documented(offer: Offer) -> None:
    """``qcore info`` prints it: the class or function has a docstring of its own."""
    target = offer.spec.load()
    expect((target.__doc__ or "").strip(), f"{offer.spec.target} has no docstring")


def check_config_is_frozen_and_strict(offer: Offer) -> None:
    """A typo must not pass for an option, and a config must not change under a running job."""
    model = _config(offer)
    expect(model.model_config.get("extra") == "forbid", f"{model.__name__} accepts unknown keys: set extra='forbid'")
    expect(model.model_config.get("frozen"), f"{model.__name__} can be changed: set frozen=True")


def check_config_is_the_classes_own(offer: Offer) -> None:
    """The spec and its class agree: ``Config`` of the class is the config model that the spec names."""
    model, target = _config(offer), offer.spec.load()
    if not hasattr(target, "Config"):
        raise SkipCheck("the target has no Config")
    expect(target.Config is model, f"the spec names {model.__name__}, the class {target.Config.__name__}")


def check_every_option_is_documented(offer: Offer) -> None:
    """``qcore info`` lists them: every field of the config has a description."""
    model = _config(offer)
    missing = [name for name, field in model.model_fields.items() if not (field.description or "").strip()]
    expect(not missing, f"without description: {', '.join(missing)}")


def _config(offer: Offer) -> type[BaseModel]:
    model = offer.spec.load_config()
    if model is None:
        raise SkipCheck("it takes no options")
    return model
