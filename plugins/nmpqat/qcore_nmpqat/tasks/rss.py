"""The task ``rss``: synthetic signal strengths of a radio network, drawn in code."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from qcore.tasks.base import TaskData
from qcore_nmpqat.tasks.base import TabularTask
from qcore_nmpqat.tasks.config import RssConfig

__all__ = ["BEST_MSE", "Rss"]

Floats = NDArray[np.float64]

SPACING: Final = 500.0
"""Distance of neighbouring sites in m, on a 3 x 3 grid; users are spread over the square around it."""

HEIGHT: Final = 23.5
"""Of a site's antenna above the user's, in m: 25 less 1.5, as in 3GPP TR 38.901 for urban macro cells."""

PRIMARY: Final = 2.1
SECONDARY: Final = (0.8, 2.6, 3.5)
"""Carriers in GHz."""

POWER: Final = 31.0
"""Of a reference signal at the antenna in dBm; it puts the mean near -97 dBm."""

SHADOW: Final = 8.0
CARRIER_SHADOW: Final = 2.5
NOISE: Final = 1.0
"""Deviations in dB: the shadow that a cell's carriers share, what a secondary carrier adds, and the measurement's."""

BEST_MSE: Final = CARRIER_SHADOW**2 + 2 * NOISE**2
"""What no prediction can be below by far, in dB^2: the own shadow of a carrier, and the noise of input and target."""


class Rss(TabularTask):
    """**Synthetic.** Signal strengths of 9 cells: from the primary carrier of each to its 3 secondary carriers.

    9 inputs and 27 outputs in dBm. The set of that shape in arXiv:2605.25054 comes from a simulator of Ericsson and is
    not public; this one stands in for it, drawn from published formulas. Never set its figures beside the paper's.

    A user stands anywhere in the square. The path to each of 9 sites is free with the probability of 3GPP TR 38.901,
    table 7.4.2-1 (urban macro), and loses, with ``d`` in m and ``f`` in GHz (table 7.4.1-1)::

        free:      28.00 + 22.00 log10(d) + 20 log10(f)
        blocked:   the larger of that and 13.54 + 39.08 log10(d) + 20 log10(f)

    All carriers of a cell share a shadow of 8 dB; each secondary one adds 2.5 dB of its own, and each measurement 1 dB
    of noise. So a secondary carrier is the primary one plus a constant and noise: a linear map is nearly the best one,
    with a mean squared error of about 8.25 dB^2 (``BEST_MSE``), beside a variance of about 240. What the task tests is
    how well a low-bit network carries numbers through, not how well it finds structure.
    """

    Config = RssConfig
    config: RssConfig

    def load(self) -> TaskData:
        """Return inputs (rows, 9) and targets (rows, 27) in dBm, float32: the same for the same rows and seed."""
        rows, seed = self.config.rows, self.config.seed
        inputs, targets = _draw(rows, np.random.default_rng(seed))
        return TaskData(
            inputs=torch.from_numpy(inputs.astype(np.float32)),
            targets=torch.from_numpy(targets.astype(np.float32)),
            feature_names=tuple(f"cell{cell}_primary" for cell in range(9)),
            target_names=tuple(f"cell{cell}_{f:g}GHz" for cell in range(9) for f in SECONDARY),
            source=f"synthetic: signal strengths drawn by nmpqat/rss, rows={rows}, seed={seed}",
        )


def _draw(rows: int, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Return signal strengths in dBm of the primary (rows, 9) and of the secondary carriers (rows, 27)."""
    users = generator.uniform(-1.5 * SPACING, 1.5 * SPACING, (rows, 1, 2))
    along = SPACING * np.arange(-1.0, 2.0)
    sites = np.stack(np.meshgrid(along, along), axis=-1).reshape(1, 9, 2)
    flat = np.sqrt(np.square(users - sites).sum(axis=2))
    loss = _loss(np.hypot(flat, HEIGHT), generator.random((rows, 9)) < _free(flat))
    received = POWER - loss + generator.normal(0.0, SHADOW, (rows, 9))
    primary = _measured(received - 20 * np.log10(PRIMARY), generator)
    own = generator.normal(0.0, CARRIER_SHADOW, (rows, 9, 3))
    secondary = _measured(received[:, :, None] - 20 * np.log10(SECONDARY) + own, generator)
    return primary, secondary.reshape(rows, 27)


def _free(flat: Floats) -> Floats:
    """Return how likely the path to a site at the distance ``flat`` in m is free."""
    near = 18.0 / np.maximum(flat, 18.0)
    return near + np.exp(-flat / 63.0) * (1.0 - near)


def _loss(distance: Floats, free: NDArray[np.bool_]) -> Floats:
    """Return the path loss in dB at 1 GHz."""
    clear = 28.0 + 22.0 * np.log10(distance)
    return np.where(free, clear, np.maximum(clear, 13.54 + 39.08 * np.log10(distance)))


def _measured(values: Floats, generator: np.random.Generator) -> Floats:
    return values + generator.normal(0.0, NOISE, values.shape)
