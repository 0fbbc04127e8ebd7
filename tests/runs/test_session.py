from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qcore.errors import QcoreError, UsageError
from qcore.plugins import Framework
from qcore.runs import Job, Run, plan
from qcore.runs import run as resume

Start = Callable[..., Run]
Script = Callable[..., subprocess.Popen[str]]


def test_a_run_leaves_its_evidence_and_says_it_is_done(finished: Run) -> None:
    record = finished.record
    assert finished.status == record["status"] == "done"
    assert record["data"]["digest"].startswith("sha256:")
    assert {"core"} == set(record["plugins"])
    assert record["versions"]["torch"] and record["command"] and record["pid"]
    for job in finished.jobs():
        assert sorted(path.name for path in finished.folder(job).iterdir()) == [
            "history.jsonl",
            "model.safetensors",
            "result.json",
            "samples.safetensors",
        ]
    assert finished.folder(Job(1, 0, "ptq")) == finished.path / "ptq" / "fold-0-seed-1"


def test_one_seed_leaves_its_number_out_of_the_folder_s_name(tiny: Start) -> None:
    run = tiny("float")
    assert run.model_path("float", 1) == run.path / "float" / "fold-1" / "model.safetensors"
    assert run.model_path("float", 1).is_file()


def test_events_tell_of_every_job_and_count_them(tiny: Start) -> None:
    events: list[dict[str, Any]] = []
    tiny(progress=events.append)
    kinds = [event["kind"] for event in events]
    assert (kinds[0], kinds[-1]) == ("run_started", "run_finished")
    assert kinds.count("job_started") == kinds.count("job_finished") == 4
    assert kinds.count("epoch") == 4, "two epochs a float job; ptq trains nothing"
    assert [event["done"] for event in events if event["kind"] == "job_finished"] == [1, 2, 3, 4]
    assert {event["total"] for event in events} == {4}
    assert events[0]["path"]


def test_arms_of_one_fold_and_seed_start_from_the_same_numbers(tiny: Start, plugin: Path) -> None:
    run = tiny(str(plugin))
    # float and twin are the same recipe, so sharing initialisation and order makes them equal bit for bit
    one, two = (run.result(Job(0, 0, arm)) for arm in ("float", "twin"))
    assert one is not None and two is not None
    assert one["scores"] == two["scores"]
    assert one["scores"] != run.result(Job(0, 1, "float"))["scores"]  # type: ignore[index]


def test_a_directory_is_never_reused_silently(tiny: Start, tmp_path: Path) -> None:
    tiny("float")
    with pytest.raises(UsageError, match="not empty") as caught:
        tiny("float")
    assert "--resume" in (caught.value.hint or "")


def test_default_directories_of_one_second_do_not_collide(
    framework: Framework, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qcore.runs.opening import _fresh

    assert [_fresh(tmp_path / "a").name for _ in range(3)] == ["a", "a-2", "a-3"]


def test_a_failed_job_is_named_and_the_others_stand(tiny: Start, plugin: Path, tmp_path: Path) -> None:
    settings = {"epochs": 2, "hidden": [8], "trouble": "raise@twin"}
    with pytest.raises(QcoreError, match="arm twin, fold 0, seed 0: ZeroDivisionError: as asked"):
        tiny(str(plugin), settings=settings)
    run = Run(tmp_path / "run")
    assert run.status == "failed"
    assert "as asked" in run.record["error"]
    assert "as asked" in (run.folder(Job(0, 0, "twin")) / "error.txt").read_text()
    assert run.result(Job(0, 0, "again")) is not None
    with pytest.raises(QcoreError, match="no summary"):
        assert run.summary


def test_ctrl_c_leaves_finished_folds_and_a_resumable_run(
    tiny: Start, plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_times: Callable[[Any], Any]
) -> None:
    monkeypatch.setenv("PROBE_INTERRUPT", "1")
    with pytest.raises(KeyboardInterrupt):
        tiny(str(plugin))
    run = Run(tmp_path / "run")
    assert run.status == "interrupted"
    assert len(run.results()) == 1
    monkeypatch.delenv("PROBE_INTERRUPT")
    again = tiny(resume=run.path)
    whole = tiny(str(plugin), out=tmp_path / "whole")
    assert again.status == "done"
    assert without_times(again.summary) == without_times(whole.summary)


def test_a_killed_run_resumes_to_the_summary_of_one_that_was_not(
    tiny: Start, script: Script, plugin: Path, tmp_path: Path, without_times: Callable[[Any], Any]
) -> None:
    killed = script(plugin, tmp_path / "killed", PROBE_KILL="1")
    assert killed.wait(120) == -9, killed.communicate()[1]
    run = Run(tmp_path / "killed")
    assert run.record["status"] == "running" and run.status == "interrupted"
    assert len(run.results()) == 1
    stale = run.path / "float" / ".model.safetensors.x.tmp"
    stale.write_text("half a file")
    done: list[int] = []
    again = tiny(resume=run.path, progress=lambda event: done.append(event["done"]))
    whole = tiny(str(plugin), out=tmp_path / "whole", settings={"epochs": 2, "hidden": [8]})
    assert done[0] == 1, "what was finished is not done again"
    assert without_times(again.summary) == without_times(whole.summary)
    assert not stale.exists()
    assert len(again.record["resumed"]) == 1


def test_code_that_changed_between_start_and_resume_is_a_warning(tiny: Start) -> None:
    run = tiny("float")
    plugins = run.record["plugins"]
    run.update(plugins={"core": {**plugins["core"], "files_sha256": "other"}})
    events: list[dict[str, Any]] = []
    tiny(resume=run.path, progress=events.append)
    assert [event["message"] for event in events if event["kind"] == "warning"] == [
        "the code of core has changed since the run was started: its jobs mix the two"
    ]


def test_a_damaged_job_is_done_again_on_resume(tiny: Start, without_times: Callable[[Any], Any]) -> None:
    run = tiny("float")
    before = run.summary
    model = run.model_path("float", 0)
    content = model.read_bytes()
    model.write_bytes(content[:-8] + bytes(8))
    (run.folder(Job(0, 1, "float")) / "result.json").write_text('{"torn": ')
    assert run.results() == []
    again = tiny(resume=run.path)
    assert model.read_bytes() == content
    assert without_times(again.summary) == without_times(before)


def test_resuming_with_other_options_is_refused_and_says_which(tiny: Start) -> None:
    run = tiny("float")
    changes: list[dict[str, Any]] = [{"seeds": 2}, {"settings": {"epochs": 5}}, {"task": "digits"}]
    for options in changes:
        word = next(iter(options))
        with pytest.raises(UsageError, match=word):
            tiny(resume=run.path, **options)
    assert run.status == "done"
    assert tiny(resume=run.path, workers=2).status == "done"


def test_a_resumed_run_stays_on_the_backend_that_it_was_started_with(
    tiny: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QCORE_BACKEND", raising=False)
    run = tiny("float", backend="reference")
    assert run.config.backend == "core/reference"
    (run.folder(Job(0, 1, "float")) / "result.json").unlink()
    seen: list[str | None] = []
    tiny(resume=run.path, progress=lambda event: seen.append(os.environ.get("QCORE_BACKEND")))
    assert set(seen) == {"core/reference"}
    assert "QCORE_BACKEND" not in os.environ
    with pytest.raises(UsageError, match="backend: 'core/reference' then, 'auto' now"):
        tiny(resume=run.path, backend="auto")


def test_the_environment_names_the_backend_of_a_run_too(tiny: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_BACKEND", "reference")
    run = tiny("float")
    assert run.config.backend == "core/reference"
    assert os.environ["QCORE_BACKEND"] == "reference"
    assert tiny(resume=run.path).status == "done"


def test_a_record_that_tells_no_backend_is_resumed_on_any(tiny: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCORE_BACKEND", raising=False)
    run = tiny("float")
    config = {key: value for key, value in run.record["config"].items() if key != "backend"}
    run.update(config=config)
    assert run.config.backend == "auto"
    assert tiny(resume=run.path, backend="reference").config.backend == "core/reference"


def test_resuming_on_other_data_is_refused(tiny: Start, tmp_path: Path) -> None:
    import numpy as np

    file = tmp_path / "data.npz"
    features = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    np.savez(file, X=features, y=np.arange(40) % 2)
    options = {"task": "core/table", "task_options": {"data": str(file), "target": "y"}}
    run = tiny("float", **options)
    np.savez(file, X=features + 1, y=np.arange(40) % 2)
    with pytest.raises(UsageError, match="data: sha256"):
        tiny(resume=run.path)


def test_a_run_that_another_process_does_cannot_be_resumed(tiny: Start) -> None:
    run = tiny("float")
    run.update(status="running")
    with pytest.raises(UsageError, match=f"process {os.getpid()}"):
        tiny(resume=run.path)


def test_a_run_that_another_host_may_do_says_what_to_do_if_that_host_is_lost(tiny: Start) -> None:
    run = tiny("float")
    run.update(status="running", host="elsewhere")
    with pytest.raises(UsageError, match="on elsewhere") as caught:
        tiny(resume=run.path)
    assert "interrupted" in (caught.value.hint or "")
    run.update(status="interrupted")
    assert tiny(resume=run.path).status == "done"


def test_a_job_that_failed_leaves_no_traceback_once_it_is_done(
    tiny: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qcore.training import loop

    def broken(*words: Any, **options: Any) -> None:
        raise ZeroDivisionError("for once")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "batches", broken)
        with pytest.raises(QcoreError, match="for once"):
            tiny("float")
    trace = Run(tmp_path / "run").folder(Job(0, 0, "float")) / "error.txt"
    assert trace.is_file()
    assert tiny(resume=tmp_path / "run").status == "done"
    assert not trace.exists()


def test_a_directory_without_a_run_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.json"):
        Run(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"status": "done"}'])
def test_other_data_than_a_record_are_no_run(tiny: Start, tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match=r"run\.json is no record of a run"):
        tiny(resume=tmp_path)


def test_a_full_disk_fails_the_run_and_leaves_earlier_jobs_alone(
    tiny: Start, plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qcore.runs import job as job_module

    wrote = job_module.atomic_write_json

    def full(path: Path, data: Any) -> Path:
        if path.parent.parent.name == "twin":
            raise QcoreError(f"cannot write {path}: No space left on device")
        return wrote(path, data)

    monkeypatch.setattr(job_module, "atomic_write_json", full)
    with pytest.raises(QcoreError, match="No space left"):
        tiny(str(plugin))
    run = Run(tmp_path / "run")
    assert run.status == "failed"
    assert [row["arm"] for row in run.results()] == ["float", "again"]


def test_samples_carry_what_the_method_observes(tiny: Start, plugin: Path) -> None:
    run = tiny(str(plugin))
    samples = run.evidence().samples("again")
    data = plan("float", task="breast_cancer", framework=Framework(no_plugins=True, config={})).work.task.data
    assert sorted(samples["index"].tolist()) == list(range(569))
    assert set(samples) >= {"index", "fold", "seed", "target", "prediction", "confidence", "first", "even"}
    assert (samples["first"] == data.inputs[samples["index"], 0].numpy()).all()
    assert (samples["target"] == data.targets[samples["index"]].numpy()).all()
    claim = run.summary["claims"][0]
    assert (claim["verdict"], claim["value"]) == ("holds", 569.0)


def test_a_run_that_is_not_a_success_keeps_no_fake_zeroes(finished: Run) -> None:
    for arm in finished.summary["arms"].values():
        energy = arm["energy_j"]
        assert energy["value"] is None or energy["value"] > 0
        assert energy["value"] is not None or energy["reason"]
    assert json.dumps(finished.summary, allow_nan=False)


def test_a_device_that_is_not_there_is_refused_before_there_is_a_directory(tiny: Start, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="accelerator 'tpu' cannot be used"):
        tiny("float", device="tpu", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_whose_device_is_not_here_is_not_resumed_and_its_record_stands(tiny: Start) -> None:
    run = tiny("float")
    run.update(config={**run.record["config"], "device": "tpu"})
    assert tiny(resume=run.path).status == "done", "nothing is left to train"
    (run.folder(Job(0, 1, "float")) / "result.json").unlink()
    before = run.record
    with pytest.raises(UsageError, match="was started with --device tpu, and there is no such device here"):
        tiny(resume=run.path)
    assert run.record == before


def test_a_checkpoint_that_a_kill_left_beside_a_result_goes_when_the_run_is_opened(tiny: Start) -> None:
    done = tiny("float")
    left = done.folder(done.jobs()[0]) / "training.safetensors"
    left.write_bytes(b"x")
    resume(resume=done.path, report=False)
    assert not left.exists()
