from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qcore.errors import QcoreError
from qcore.export import inspect, load
from qcore.plugins import Framework
from qcore.runs import Job, Run
from qcore.runs.planning import make_work
from qcore.training import outputs

Start = Callable[..., Run]


def test_every_arm_s_saved_model_gives_the_logits_of_the_trained_one(finished: Run) -> None:
    for job in finished.jobs():
        result = finished.result(job)
        assert result is not None
        assert result["packed"] == {"equal": True, "max_abs_difference": 0.0, "bound": 0.0}


def test_the_file_scores_what_the_result_says(finished: Run, framework: Framework) -> None:
    work = make_work(finished.config, framework)
    for job in finished.jobs():
        test = work.folds[job.fold].test
        model = load(finished.folder(job) / "model.safetensors", registry=framework.registry)
        scores = work.task.scores(outputs(model, work.task.data.inputs[test]), work.task.data.targets[test])
        assert scores == finished.result(job)["scores"]  # type: ignore[index]


def test_the_file_names_task_classes_features_and_arm(finished: Run) -> None:
    extra = inspect(finished.model_path("ptq", 1, 1)).extra
    assert extra["task"] == "core/breast_cancer"
    assert extra["classes"] == ["malignant", "benign"]
    assert len(extra["features"]) == 30
    assert (extra["arm"], extra["fold"], extra["seed"]) == ("ptq", 1, 1)


def test_ptq_packs_all_but_the_head_and_is_smaller_in_bytes_that_exist(finished: Run) -> None:
    quantized, plain = finished.result(Job(0, 0, "ptq")), finished.result(Job(0, 0, "float"))
    assert quantized is not None and plain is not None
    assert [row["layer"] for row in quantized["kernels"]] == ["blocks.0.linear"]
    assert plain["kernels"] == []
    assert plain["size"]["effective_bits"] == 32
    assert quantized["size"]["weight_nbytes"] < plain["size"]["weight_nbytes"] / 2
    path = finished.model_path("ptq")
    assert quantized["size"]["file_nbytes"] == path.stat().st_size


def test_the_test_part_is_nothing_that_training_or_stopping_saw(finished: Run) -> None:
    result = finished.result(Job(0, 0, "float"))
    assert result is not None
    assert sum(result["samples"].values()) == 569
    history = finished.history("float")
    best = max(history, key=lambda row: row["validation"])
    assert result["validation"]["f1_weighted"] == pytest.approx(best["validation"])


def test_a_method_that_observes_the_wrong_number_of_rows_is_told_so(tiny: Start, tmp_path: Path) -> None:
    file = tmp_path / "short.py"
    file.write_text(
        "from qcore.hookspecs import hookimpl\n"
        "from qcore.registry import MethodSpec\n"
        "@hookimpl\n"
        "def qcore_methods():\n"
        "    return [MethodSpec(name='short', target=__name__ + ':Short', config='qcore.methods.config:FloatConfig',\n"
        "                       summary='for a test')]\n"
        "from qcore.methods.float_baseline import FloatMethod\n"
        "class Short(FloatMethod):\n"
        "    def observe(self, arm, model, inputs):\n"
        "        return {'first': inputs[:3, 0]}\n",
        encoding="utf-8",
    )
    with pytest.raises(QcoreError, match=r"'first' of shape \(3,\)"):
        tiny(str(file))


def test_a_method_observes_a_model_that_has_just_seen_the_test_part(tiny: Start, tmp_path: Path) -> None:
    file = tmp_path / "routed.py"
    file.write_text(
        "from qcore.hookspecs import hookimpl\n"
        "from qcore.registry import MethodSpec\n"
        "@hookimpl\n"
        "def qcore_methods():\n"
        "    return [MethodSpec(name='routed', target=__name__ + ':Routed', summary='for a test',\n"
        "                       config='qcore.methods.config:FloatConfig')]\n"
        "from qcore.methods.float_baseline import FloatMethod\n"
        "class Routed(FloatMethod):\n"
        "    def build(self, arm, task, generator, sources):\n"
        "        from torch import nn\n"
        "        from qcore.nn import MixtureOfExperts\n"
        "        router = self.registry.make('router', 'core/topk', in_features=30, experts=2)\n"
        "        experts = [self.network(task, generator, hidden=(4,)) for _ in range(2)]\n"
        "        return MixtureOfExperts(experts, router)\n"
        "    def observe(self, arm, model, inputs):\n"
        "        return {'probabilities': model.last_routing.probabilities}\n",
        encoding="utf-8",
    )
    run = tiny(str(file), folds=3)
    assert run.samples("float", 0, 0)["probabilities"].shape == (190, 2)


def test_a_run_leaves_the_global_random_state_and_the_threads_alone(tiny: Start) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    tiny("float")
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
