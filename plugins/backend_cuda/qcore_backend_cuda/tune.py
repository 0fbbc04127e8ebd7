"""The choice of a configuration: what was measured on this GPU, else a default.

Nothing is measured unless it is asked for: with ``QCORE_CUDA_TUNE=1`` the first call of a layer of some shape times the
candidates and keeps the fastest, in a file for each GPU below ``QCORE_CUDA_CACHE`` (else in the user's cache folder).
Later processes read it, whether they tune or not.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from triton.errors import TritonError

from qcore_backend_cuda.config import Config, candidates, default_config
from qcore_backend_cuda.weights import PackedWeight

__all__ = ["CACHE_VARIABLE", "TUNE_VARIABLE", "Tuned", "config_for", "key_of", "tune", "tuned"]

TUNE_VARIABLE = "QCORE_CUDA_TUNE"
CACHE_VARIABLE = "QCORE_CUDA_CACHE"
_LAYOUT = 2
"""Part of the file's name: raise it when kernels change so that old choices mean nothing."""
_CALLS = 15
_FLUSHED_NBYTES = 1 << 29


def config_for(weight: PackedWeight, count: int, dtype: torch.dtype) -> Config:
    """Return how to run ``count`` rows of inputs in ``dtype`` through ``weight``."""
    wide = not weight.integer and dtype is torch.float32
    device = weight.data.device
    if device.type == "cuda":
        found = tuned(device).get(key_of(weight, count, dtype))
        if found is not None:
            return found
    return default_config(count, weight.rows, weight.cols, integer=weight.integer, wide=wide, widths=weight.widths)


def key_of(weight: PackedWeight, count: int, dtype: torch.dtype) -> str:
    """Return the name of a kind of layer: what it computes, and its sizes to the next power of two."""
    widths = ",".join(str(bits) for bits in sorted(set(weight.widths)))
    kind = "int8" if weight.integer else str(dtype).removeprefix("torch.")
    extras = f" g{weight.group_size}" * bool(weight.group_size) + " z" * weight.has_zero
    rows, cols, inputs = (1 << (n - 1).bit_length() for n in (weight.rows, weight.cols, max(count, 1)))
    return f"{kind} {widths} bits{extras} {rows}x{cols} {inputs}"


@cache
def tuned(device: torch.device) -> Tuned:
    """Return what is known of the GPU ``device``; ``tuned.cache_clear()`` forgets it."""
    name = re.sub(r"\W+", "-", torch.cuda.get_device_name(device)).strip("-")
    return Tuned(_folder() / f"{name}-{_LAYOUT}.json")


def tune(weight: PackedWeight, count: int, dtype: torch.dtype, run: Callable[[Config], Any]) -> Config:
    """Time the candidates for a layer if that is asked for and was not done, and return what to run.

    Args:
        weight: the layer.
        count: rows of input.
        dtype: of the input.
        run: runs the layer in a configuration.
    """
    chosen = config_for(weight, count, dtype)
    device = weight.data.device
    if os.environ.get(TUNE_VARIABLE) != "1" or device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return chosen
    known, key = tuned(device), key_of(weight, count, dtype)
    if known.get(key) is not None:
        return chosen
    wide = not weight.integer and dtype is torch.float32
    tried = [chosen, *candidates(count, integer=weight.integer, wide=wide)]
    best = min(dict.fromkeys(tried), key=lambda config: _seconds(run, config))
    known.put(key, best)
    return best


class Tuned:
    """The configurations that were found on one GPU, in a file.

    A file that cannot be read counts as empty, one that cannot be written is not; neither is an error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, Config] = _read(path)

    def get(self, key: str) -> Config | None:
        """Return the configuration for a kind of layer, or None."""
        return self._found.get(key)

    def put(self, key: str, config: Config) -> None:
        """Keep a configuration, here and in the file, together with what other processes have put there."""
        self._found = {**_read(self.path), **self._found, key: config}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as file:
                json.dump({name: asdict(value) for name, value in self._found.items()}, file, indent=1)
            Path(file.name).replace(self.path)
        except OSError:
            return


def _read(path: Path) -> dict[str, Config]:
    try:
        return {name: Config(**value) for name, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _folder() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qcore-backend-cuda"


def _seconds(run: Callable[[Config], Any], config: Config) -> float:
    """Return the median time of some calls on cold caches; what this GPU cannot run takes for ever."""
    try:
        run(config)
        torch.cuda.synchronize()
    except (TritonError, RuntimeError):  # too much shared memory, say
        return float("inf")
    # Long enough to write that the host has enqueued the call before it is done.
    flushed = torch.empty(_FLUSHED_NBYTES, dtype=torch.uint8, device="cuda")
    times: list[float] = []
    for _ in range(_CALLS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        flushed.zero_()
        start.record()
        run(config)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)
