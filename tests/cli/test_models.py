"""The commands that look at runs and model files."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from qcore.backends import find_backends


def test_eval_gives_the_recorded_scores_of_every_model_of_a_run(qcore, finished):
    result = qcore("eval", finished.path, "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert {(row["arm"], row["fold"]) for row in rows} == {(a, f) for a in ("float", "ptq") for f in (0, 1)}
    assert all(row["same"] and row["now"] == row["recorded"] for row in rows)


def test_eval_fails_where_a_model_scores_otherwise(qcore, finished, monkeypatch):
    from qcore.tasks.table import Table

    real = Table.scores
    monkeypatch.setattr(Table, "scores", lambda *words: {k: v - 0.1 for k, v in real(*words).items()})
    result = qcore("eval", finished.path)
    assert result.exit_code == 1
    assert "differs" in result.stdout


def test_eval_has_a_row_for_each_model_that_is_not_as_it_was_recorded(qcore, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.path, run)
    damaged, gone, unfinished = run / "ptq" / "fold-0", run / "ptq" / "fold-1", run / "float" / "fold-1"
    shutil.copy(run / "float" / "fold-0" / "model.safetensors", damaged / "model.safetensors")
    (gone / "model.safetensors").unlink()
    (unfinished / "result.json").unlink()
    result = qcore("eval", run)
    assert result.exit_code == 1, result.stdout
    for part in ("model.safetensors is not the one recorded", "model.safetensors cannot be read", "not finished"):
        assert part in result.stdout
    assert "1 of 4 models give the score that was recorded" in result.stdout
    rows = json.loads(qcore("eval", run, "--json").stdout)
    assert [row["problem"] is None for row in rows] == [row["same"] for row in rows] == [True, False, False, False]
    assert [row["now"] is None for row in rows] == [False, True, True, True]


def test_eval_scores_a_run_on_its_own_data_alone(qcore, finished, table):
    for words in (("--data", table), ("--target", "kind"), ("--target", "y")):
        result = qcore("eval", finished.path, *words)
        assert result.exit_code == 2, result.stdout
        assert "on its own data" in result.stderr


def test_eval_says_that_there_is_nothing_at_a_path(qcore, tmp_path):
    result = qcore("eval", tmp_path / "nope")
    assert result.exit_code == 2
    assert f"there is nothing at {tmp_path / 'nope'}" in result.stderr


def test_eval_finds_the_plugin_that_a_run_took_from_a_file(qcore, table, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from qcore.hookspecs import hookimpl\n"
        "from qcore.registry import MethodSpec\n"
        "@hookimpl\n"
        "def qcore_methods():\n"
        "    target, config = 'qcore.methods.float_baseline:FloatMethod', 'qcore.methods.config:FloatConfig'\n"
        "    return [MethodSpec(name='mine', target=target, config=config, summary='for a test')]\n"
    )
    words = ("--data", table, "--target", "kind", "--folds", "2", "--workers", "1", "--no-latency")
    made = qcore("run", "-p", plugin, *words, "--set", "epochs=1", "--out", tmp_path / "run")
    assert made.exit_code == 0, made.stderr
    found = qcore("eval", tmp_path / "run")
    assert found.exit_code == 0, found.stderr


def test_a_model_of_a_local_quantizer_tells_how_to_load_it_and_eval_of_its_run_does(qcore, table, tmp_path):
    plugin = tmp_path / "my_quant.py"
    plugin.write_text(
        "from qcore.hookspecs import hookimpl\n"
        "from qcore.quantizers.integer import IntQuantizer as Mine\n"
        "from qcore.registry import MethodSpec, QuantizerSpec\n"
        "@hookimpl\n"
        "def qcore_quantizers():\n"
        "    config = 'qcore.quantizers.config:IntConfig'\n"
        "    return [QuantizerSpec(name='q', target=__name__ + ':Mine', config=config, summary='for a test')]\n"
        "@hookimpl\n"
        "def qcore_methods():\n"
        "    target, config = 'qcore.methods.ptq:PtqMethod', 'qcore.methods.config:PtqConfig'\n"
        "    return [MethodSpec(name='my_quant', target=target, config=config, summary='for a test')]\n"
    )
    words = ("--data", table, "--target", "kind", "--folds", "2", "--workers", "1", "--no-latency")
    options = ("--set", "epochs=1", "--set", "quantizer=my_quant/q(bits=4)", "--out", tmp_path / "run")
    made = qcore("run", "-p", plugin, *words, *options)
    assert made.exit_code == 0, made.stderr
    found = qcore("eval", tmp_path / "run")
    assert found.exit_code == 0, found.stderr
    model = tmp_path / "run" / "ptq" / "fold-0" / "model.safetensors"
    for told in (qcore("inspect", model).stdout, qcore("predict", model, "--data", table).stderr):
        assert "pip install" not in told
        assert "qcore.plugins.default().add(PATH, 'my_quant')" in told
    assert json.loads(qcore("inspect", model, "--json").stdout)["missing_plugins"] == {"my_quant": None}


def test_eval_of_a_run_whose_data_have_changed_blames_the_data(qcore, table, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text(table.read_text())
    words = ("--data", data, "--target", "kind", "--folds", "2", "--workers", "1", "--no-latency")
    assert qcore("run", "-p", "float", *words, "--set", "epochs=1", "--out", tmp_path / "run").exit_code == 0
    data.write_text(table.read_text().replace("0.01", "0.5"))
    found = qcore("eval", tmp_path / "run")
    assert found.exit_code == 5
    assert "have changed" in found.stderr


def test_eval_scores_one_model_on_a_file(qcore, finished, table):
    result = qcore("eval", finished.model, "--data", table, "--target", "kind", "--json")
    assert result.exit_code == 0, result.stderr
    assert set(json.loads(result.stdout)) >= {"f1_weighted", "accuracy"}


def test_eval_knows_classes_by_name_and_not_by_their_number_in_the_file(qcore, finished, table, tmp_path):
    part = tmp_path / "part.csv"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    scored = {}
    for kinds in ("bc", "ab"):
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(row for row in rows if row["kind"] in kinds)
        scored[kinds] = json.loads(qcore("eval", finished.model, "--data", part, "--target", "kind", "--json").stdout)
    found = json.loads(qcore("predict", finished.model, "--data", table, "--json").stdout)
    right = [row["kind"] == guess["class"] for row, guess in zip(rows, found, strict=True)]
    for kinds, scores in scored.items():
        picked = [r for r, row in zip(right, rows, strict=True) if row["kind"] in kinds]
        assert scores["accuracy"] == pytest.approx(sum(picked) / len(picked))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "--data"),
        (("--data", "none.csv"), 5, "none.csv"),
        (("--data", "TABLE", "--target", "kinds"), 2, "'kind'"),
    ],
    ids=["no data", "missing data", "no column"],
)
def test_eval_refuses(qcore, finished, table, words, code, message):
    result = qcore("eval", finished.model, *(table if word == "TABLE" else word for word in words))
    assert result.exit_code == code, result.stderr
    assert message in result.stderr


def test_predict_gives_a_class_and_probabilities_for_each_row(qcore, finished, table):
    rows = json.loads(qcore("predict", finished.model, "--data", table, "--json").stdout)
    assert len(rows) == 90
    assert set(rows[0]["probabilities"]) == {"a", "b", "c"}
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["class"]]


def test_predict_writes_a_file_of_columns(qcore, finished, table, tmp_path):
    out = tmp_path / "out.csv"
    result = qcore("predict", finished.model, "--data", table, "--out", out)
    assert (result.exit_code, result.stdout) == (0, "")
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["row", "class", "probability", "p(a)", "p(b)", "p(c)"]
    assert len(rows) == 90
    assert qcore("predict", finished.model, "--data", table, "--out", tmp_path / "out.xls").exit_code == 2


def test_predict_names_the_feature_that_a_file_lacks(qcore, finished, tmp_path):
    path = tmp_path / "short.csv"
    path.write_text("width,garden\n1,2\n")
    result = qcore("predict", finished.model, "--data", path)
    assert result.exit_code == 2
    assert "'length'" in result.stderr


def test_predict_prints_a_table(qcore, finished, table):
    lines = qcore("predict", finished.model, "--data", table).stdout.splitlines()
    assert lines[0].split() == ["row", "class", "probability"]
    assert len(lines) == 92


def test_inspect_says_what_a_file_holds(qcore, finished):
    text = qcore("inspect", finished.model).stdout
    for part in ("core/mlp", "core/int", "features: [", "blocks.0.linear", "head.weight"):
        assert part in text
    data = json.loads(qcore("inspect", finished.model, "--json").stdout)
    assert data["extra"]["classes"] == ["a", "b", "c"]
    assert data["nbytes"] == finished.model.stat().st_size


@pytest.mark.parametrize("command", ["inspect", "explain", "predict"])
def test_a_file_that_is_no_model_is_refused(qcore, command, tmp_path, table):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not a model")
    words = ("--data", table) if command == "predict" else ()
    result = qcore(command, path, *words)
    assert result.exit_code == 1
    assert "truncated" in result.stderr


@pytest.mark.parametrize("backend", ["core/reference", "auto"])
def test_explain_names_the_kernel_of_each_layer(qcore, finished, backend, monkeypatch):
    monkeypatch.delenv("QCORE_BACKEND", raising=False)
    best = next(candidate.id for candidate in find_backends(backend)[0] if candidate.backend.probe().available)
    words = () if backend == "auto" else ("--backend", backend)
    rows = json.loads(qcore("explain", finished.model, "--json", *words).stdout)
    assert [row["layer"] for row in rows] == ["blocks.0.linear"]
    assert rows[0]["backend"] == best
    assert best in qcore("explain", finished.model, *words).stdout
    floats = finished.path / "float" / "fold-0" / "model.safetensors"
    assert "no packed layer" in qcore("explain", floats).stdout


def test_pack_makes_a_smaller_file_that_gives_predictions(qcore, finished, table, tmp_path):
    floats = finished.path / "float" / "fold-0" / "model.safetensors"
    out = tmp_path / "small.safetensors"
    words = ("pack", floats, "--rule", "head=none", "--rule", "type:Linear=core/int(bits=4)", "--out", out, "--json")
    result = qcore(*words)
    assert result.exit_code == 0, result.stderr
    assert [row["layer"] for row in json.loads(qcore("explain", out, "--json").stdout)] == ["blocks.0.linear"]
    assert len(json.loads(qcore("predict", out, "--data", table, "--json").stdout)) == 90
    assert qcore(*words).exit_code == 2
    assert qcore(*words, "--force").exit_code == 0


def test_pack_folds_batch_norms_and_says_which(qcore, tmp_path):
    import torch

    from qcore.export import save
    from qcore.nn import build_model

    config = {"in_channels": 1, "out_features": 2, "image_size": 8, "width": 4, "blocks": 1}
    model = build_model("core/cnn", config, torch.Generator().manual_seed(0)).eval()
    floats = save(model, tmp_path / "cnn.safetensors")
    out = tmp_path / "folded.safetensors"
    words = ("pack", floats, "--rule", "features.0=core/int(bits=4)", "--out", out, "--fold")
    assert "batch norms folded: features.1" in qcore(*words).stdout
    assert json.loads(qcore(*words, "--force", "--json").stdout)["folded"] == {"features.1": "features.0"}
    assert "features.1: batch norm folded into features.0" in qcore("inspect", out).stdout
    assert json.loads(qcore("inspect", out, "--json").stdout)["folded"] == {"features.1": "features.0"}
    told = qcore("explain", out).stdout
    assert "features.1: batch norm folded into features.0" in told
    assert "features.4: batch norm stays: it does not directly follow a packed" in told


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((), "--rule"),
        (("--rule", "head"), "PATTERN=QUANTIZER"),
        (("--rule", "haed=core/int"), "head"),
        (("--rule", "head=core/itn"), "core/int"),
    ],
)
def test_pack_refuses(qcore, finished, rules, message, tmp_path):
    floats = finished.path / "float" / "fold-0" / "model.safetensors"
    result = qcore("pack", floats, *rules, "--out", tmp_path / "x.safetensors")
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_compare_puts_the_arms_of_two_runs_side_by_side(qcore, finished):
    result = qcore("compare", finished.path, finished.path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("ptq") == 2
    assert len(json.loads(qcore("compare", finished.path, finished.path, "--json").stdout)["rows"]) == 4
    assert qcore("compare", finished.path).exit_code == 2
    assert qcore("compare", finished.path, finished.path / "ptq").exit_code == 2
