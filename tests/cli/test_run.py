"""``qcore run``: one real run, its options, and how it is interrupted."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import pytest

from qcore.errors import BackendError, UsageError


def test_a_run_prints_its_table_and_where_everything_is(finished):
    text = finished.result.stdout
    claims = [part for claim in finished.summary["claims"] for part in (claim["verdict"], claim["statement"][:20])]
    for part in ("f1_weighted", "float", "ptq", "kB on disk", *claims, f"report: {finished.path / 'report.html'}"):
        assert part in text
    assert "\x1b" not in text


def test_progress_goes_to_stderr_one_line_a_job(finished):
    lines = finished.result.stderr.splitlines()
    assert lines[0] == "4 jobs"
    assert [line.split()[0] for line in lines[1:]] == ["1/4", "2/4", "3/4", "4/4"]


def test_flags_reach_the_run(finished):
    record = json.loads((finished.path / "run.json").read_text())
    assert record["config"]["task"] == "core/table"
    assert record["config"]["task_options"]["group"] == "garden"
    assert (record["settings"]["epochs"], record["settings"]["hidden"]) == (2, [8])
    assert record["command"][0] == "qcore"


def test_a_finished_run_can_be_resumed_and_prints_its_summary_alone(qcore, finished):
    result = qcore("run", "--resume", finished.path, "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["arms"]["ptq"]["score"] == finished.summary["arms"]["ptq"]["score"]
    assert result.stderr == ""


def test_strict_fails_where_a_claim_fails(qcore, finished, monkeypatch):
    from qcore import runs

    claims = [{"id": "c", "statement": "it is so", "verdict": "fails", "value": 1.0, "test": "t"}]
    opened = runs.Run(finished.path)
    opened.__dict__["summary"] = {**finished.summary, "claims": claims}
    monkeypatch.setattr(runs, "run", lambda **options: opened, raising=False)
    assert qcore("run", "-p", "ptq").exit_code == 0
    assert qcore("run", "-p", "ptq", "--strict").exit_code == 1


def test_a_dry_run_prints_the_plan_and_writes_nothing(qcore, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("run", "-p", "ptq", "--data", table, "--target", "kind", "--drop-me")
    assert qcore(*words, "--dry-run").exit_code == 2
    result = qcore(*words[:-1], "--set", "task.drop=garden", "--arms", "float", "--seeds", "0,5", "--dry-run")
    assert result.exit_code == 2  # an option of the task that wants a list
    assert "drop" in result.stderr
    result = qcore(*words[:-1], "--group", "garden", "--arms", "float", "--seeds", "0,5", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert (plan["jobs"], plan["config"]["seeds"], [arm["name"] for arm in plan["arms"]]) == (10, [0, 5], ["float"])
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_is_readable(qcore):
    text = qcore("run", "-p", "ptq", "--task", "breast_cancer", "--dry-run").stdout
    for part in ("core/ptq", "core/breast_cancer", "2 arms × 5 folds × 1 seeds = 10", "epochs"):
        assert part in text
    facts = dict(line.split(maxsplit=1) for line in text.splitlines()[:9])
    assert (facts["device"], facts["precision"], facts["backend"]) == ("cpu", "32-true", "auto")


@pytest.fixture
def torn(finished, tmp_path):
    """A copy of the finished run that lacks a job."""
    path = shutil.copytree(finished.path, tmp_path / "torn")
    (path / "ptq" / "fold-1" / "result.json").unlink()
    return path


def test_a_dry_run_of_a_resumed_run_lists_what_is_left_to_do_and_writes_nothing(qcore, torn):
    before = (torn / "run.json").read_bytes()
    result = qcore("run", "--resume", torn, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "2 arms × 2 folds × 1 seeds = 4, 1 left to do" in result.stdout
    assert result.stdout.splitlines()[-1].split() == ["ptq", "1", "0"]
    plan = json.loads(qcore("run", "--resume", torn, "--dry-run", "--json").stdout)
    assert plan["left"] == [{"seed": 0, "fold": 1, "arm": "ptq"}]
    assert plan["config"]["folds"] == 2, "as it was started"
    assert plan["paths"]["out"] == str(torn)
    assert (torn / "run.json").read_bytes() == before


def test_a_dry_run_refuses_what_the_resumed_run_refuses(qcore, torn):
    result = qcore("run", "--resume", torn, "--dry-run", "--plugin", "float")
    assert result.exit_code == 2
    assert "plugin: 'core/ptq' then, 'core/float' now" in result.stderr
    result = qcore("run", "--resume", torn, "--dry-run", "--out", torn.with_name("other"))
    assert result.exit_code == 2
    assert "stays in its directory" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "needs a method"),
        (("-p", "ptqq"), 2, "'ptq'"),
        (("-p", "ptq", "--task", "digit"), 2, "core/digits"),
        (("-p", "ptq", "--set", "epoch=3"), 2, "epochs"),
        (("-p", "ptq", "--set", "epochs"), 2, "key=value"),
        (("-p", "ptq", "--arms", "flaot"), 2, "'float'"),
        (("-p", "ptq", "--folds", "1"), 2, "folds"),
        (("-p", "ptq", "--backend", "referense"), 2, "core/reference"),
        (("-p", "./none.py"), 3, "none.py"),
        (("-p", "ptq", "--data", "none.csv"), 5, "nothing at"),
        (("--resume", "nowhere"), 2, "is not a run"),
        (("--resume", "nowhere", "--dry-run"), 2, "is not a run"),
        (("-p", "ptq", "--device", "tpu", "--dry-run"), 2, "accelerator 'tpu' cannot be used"),
        (("-p", "ptq", "--config", "none.toml"), 2, "none.toml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_a_run_refuses_and_how(qcore, words, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = qcore("run", *words, env={"QCORE_DATA": None})
    assert result.exit_code == code, result.stderr
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_column_gets_its_close_match(qcore, table):
    result = qcore("run", "-p", "ptq", "--data", table, "--target", "kinds")
    assert result.exit_code == 2
    assert "'kind'" in result.stderr


@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=str)
def test_a_directory_that_is_used_is_not_used_again(qcore, finished, table, more):
    result = qcore("run", "-p", "ptq", "--data", table, "--target", "kind", "--out", finished.path, *more)
    assert result.exit_code == 2
    assert f"qcore run --resume {finished.path}" in result.stderr


def test_a_run_is_resumed_on_its_own_backend_alone(qcore, finished):
    result = qcore("run", "--resume", finished.path, "--backend", "reference")
    assert result.exit_code == 2
    assert "backend: 'auto' then, 'core/reference' now" in result.stderr


@pytest.mark.slow
def test_an_interrupt_leaves_what_is_finished_and_says_how_to_go_on(tmp_path):
    words = ["-p", "ptq", "--task", "digits", "--set", "epochs=30", "--set", "patience=null", "--workers", "1"]
    command = [sys.executable, "-m", "qcore", "run", *words, "--folds", "5", "--no-latency"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores interrupts, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(2)]  # the number of jobs, then the first job
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert lines[1].startswith("1/10")
    assert "Traceback" not in rest
    (directory,) = (tmp_path / "runs").iterdir()
    assert f"qcore run --resume runs/{directory.name}" in rest
    assert json.loads((directory / "run.json").read_text())["status"] == "interrupted"
    assert (directory / "float" / "fold-0" / "result.json").is_file()


@pytest.fixture
def run_that_stops(qcore, monkeypatch):
    """Start a run that a failure stops, and return how the command ends."""
    from qcore import runs

    def start(failure):
        def run(progress, **options):
            progress({"kind": "run_started", "path": "runs/one two", "done": 0, "total": 1})
            raise failure

        monkeypatch.setattr(runs, "run", run, raising=False)
        return qcore("run", "-p", "ptq")

    return start


@pytest.mark.parametrize(("failure", "code"), [(KeyboardInterrupt(), 130), (BackendError("cannot", "try"), 4)], ids=str)
def test_what_stops_a_started_run_says_how_to_go_on(run_that_stops, failure, code):
    result = run_that_stops(failure)
    assert result.exit_code == code
    assert result.stderr.rstrip().endswith("go on with: qcore run --resume 'runs/one two'")


def test_bad_usage_that_resuming_cannot_mend_gives_no_such_advice(run_that_stops):
    result = run_that_stops(UsageError("cannot", "try"))
    assert result.exit_code == 2
    assert result.stderr.endswith("error: cannot\nhint: try\n")


def test_a_device_that_is_not_there_gets_a_hint_in_the_words_of_the_command_line(qcore, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = qcore("run", "-p", "float", "--device", "tpu")
    assert result.exit_code == 2
    assert result.stderr.endswith("hint: try --device cpu\n")
