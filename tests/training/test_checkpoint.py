from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from qcore.nn import Dropout
from qcore.tasks.base import Task, TaskData
from qcore.training import FoldTensors, History, fit, make_fabric
from qcore.training.checkpoint import CheckpointFile
from qcore.training.loop import _Streams
from qcore.training.phases import OptimizerConfig, Phase

ROWS = 60
PHASES = (
    Phase(name="first", epochs=3, batch_size=16, optimizers=(OptimizerConfig(lr=0.05),), patience=2),
    Phase(
        name="second",
        epochs=4,
        batch_size=16,
        restore_best=False,
        optimizers=(
            OptimizerConfig(name="sgd", lr=0.05, momentum=0.9, params="0.*"),
            OptimizerConfig(name="adam", lr=0.01),
        ),
    ),
)


class Stopped(Exception):
    """Takes the place of a kill."""


class NoisyBlobs(Task):
    """Two classes that a line separates, jittered anew at each visit."""

    def load(self) -> TaskData:
        targets = torch.arange(ROWS) % 2
        inputs = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0)) + 2.0 * targets.unsqueeze(1)
        return TaskData(inputs=inputs, targets=targets, class_names=("a", "b"))

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs + 0.3 * torch.randn(inputs.shape, generator=generator)


class Counter(nn.Module):
    """Counts its calls in a buffer that no model file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return x * (1 + 0.001 * self.calls)


def network(width: int = 4) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), Dropout(0.2), Counter(), nn.Linear(width, 2))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5, generator=generator)
    return model


def train(model: nn.Module, file: CheckpointFile | None, stop_after: int | None = None) -> History:
    """Train through both phases; stop as if killed once ``stop_after`` epochs are reported and written."""
    found = NoisyBlobs().data
    data = FoldTensors(found.inputs[:40], found.targets[:40], found.inputs[40:], found.targets[40:])
    seen = 0

    def count(row: dict[str, object]) -> None:
        nonlocal seen
        seen += 1
        if stop_after is not None and seen > stop_after:
            raise Stopped

    return fit(
        model,
        PHASES,
        data,
        NoisyBlobs(),
        generator=torch.Generator().manual_seed(0),
        fabric=make_fabric("cpu"),
        on_epoch=count,
        checkpoint=file,
    )


def state(model: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers())]


@pytest.mark.parametrize("stop_after", range(7))
def test_a_killed_training_goes_on_with_the_same_numbers(tmp_path: Path, stop_after: int) -> None:
    whole = network()
    expected = train(whole, None)
    file = CheckpointFile(tmp_path / "job" / "training.safetensors", every_s=0)
    with pytest.raises(Stopped):
        train(network(), file, stop_after)
    resumed = network()
    history = train(resumed, CheckpointFile(file.path, every_s=0))
    assert history.rows == expected.rows
    assert history.best == expected.best
    assert history.state_nbytes == expected.state_nbytes
    for found, wanted in zip(state(resumed), state(whole), strict=True):
        assert torch.equal(found, wanted)


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "training.safetensors", every_s=0)
    with pytest.raises(Stopped):
        train(network(), file, stop_after=5)
    with pytest.raises(Stopped):
        train(network(), CheckpointFile(file.path, every_s=0), stop_after=1)
    assert file.read().data["epoch"] == 3  # of the second phase: the sixth, for the seventh was not written


def test_a_short_training_writes_none(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "training.safetensors")
    train(network(), file)
    assert not file.path.exists()


@pytest.mark.parametrize("damage", ["torn", "empty", "other"])
def test_a_checkpoint_that_cannot_be_used_is_reported_and_left_aside(tmp_path: Path, damage: str) -> None:
    file = CheckpointFile(tmp_path / "training.safetensors", every_s=0)
    with pytest.raises(Stopped):
        train(network(8 if damage == "other" else 4), file, stop_after=2)
    if damage != "other":
        whole = file.path.read_bytes()
        file.path.write_bytes(whole[: len(whole) // 2 if damage == "torn" else 0])
    expected = train(network(), None)
    with pytest.warns(UserWarning, match="starts anew"):
        found = train(network(), CheckpointFile(file.path, every_s=1e9))
    assert found.rows == expected.rows


@pytest.mark.parametrize("header", ["[]", "3", '{"version": 1}', '{"version": 0}', "{"])
def test_a_strange_header_starts_anew(tmp_path: Path, header: str) -> None:
    file = CheckpointFile(tmp_path / "training.safetensors", every_s=1e9)
    file.path.write_bytes(save({"model.x": torch.zeros(1)}, {"qcore_checkpoint": header}))
    with pytest.warns(UserWarning, match="starts anew"):
        train(network(), file)


def test_a_disk_that_takes_no_checkpoint_does_not_end_the_training(tmp_path: Path) -> None:
    (tmp_path / "job").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="no checkpoint was written"):
        history = train(network(), CheckpointFile(tmp_path / "job" / "training.safetensors", every_s=0))
    assert history.rows == train(network(), None).rows


def test_each_rank_takes_up_its_own_streams() -> None:
    ranks = [SimpleNamespace(global_rank=rank, device=torch.device("cpu")) for rank in range(3)]
    streams = [_Streams(torch.Generator().manual_seed(0), rank) for rank in ranks]
    states = {
        name: torch.stack([stream._named()[name].get_state() for stream in streams])
        for name in ("order", "noise", "augmentation")
    }
    drawn = [torch.rand(3, generator=stream.noise) for stream in streams]
    for stream, expected in zip(streams, drawn, strict=True):
        stream.restore(states)
        assert torch.equal(torch.rand(3, generator=stream.noise), expected)


def test_what_training_held_is_counted_in_bytes() -> None:
    held = train(network(), None).state_nbytes
    parameters, statistics = 3 * 4 + 4 + 4 + 4 + 4 * 2 + 2, 2 * 4
    assert held["weights"] == 4 * (parameters + statistics) + 8  # and BatchNorm's count of batches, int64
    # The first phase, AdamW: two moments and a step for each of six tensors; Counter's buffer is not saved.
    assert held["optimizer"] == 4 * (2 * parameters + 6) + 4
