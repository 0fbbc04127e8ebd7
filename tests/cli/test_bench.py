"""``qcore bench``: tiny layers, and nothing said of how long they take."""

from __future__ import annotations

import importlib.util
import json

import pytest

from qcore.measure.bench.peers import choose_peers
from qcore.measure.bench.timing import take_turns

TINY = ("bench", "--shape", "16x8", "--batch", "1,3", "--rounds", "2")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("qcore.measure.bench.device.last_level_nbytes", lambda: 1 << 10)


def test_the_data_hold_every_contender_with_its_figures(qcore):
    result = qcore(*TINY, "--bits", "ternary,1,8", "--peers", "int_mm", "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert {"date", "cpu", "cores", "flags", "versions"} <= set(data["machine"])
    assert data["settings"] == {
        "threads": 1,
        "rounds": 2,
        "clock": "CPU time of the process",
        "device": "cpu",
        "float": "torch fp32",
        "cold": False,
        "backend": "auto",
    }
    assert data["bandwidth"]["gb_s"] > 0 and data["bandwidth"]["how"]
    assert data["backends"]["core/reference"]["threads"] == "1"
    names = ["torch fp32", "ternary", "1 bit", "8 bit", "torch _int_mm (codes only)"]
    assert [(row["batch"], row["contender"]) for row in data["rows"]] == [(b, n) for b in (1, 3) for n in names]
    for row in data["rows"]:
        assert row["reason"] is None, row
        assert row["touched_nbytes"] == row["weight_nbytes"] + 4 * row["batch"] * 24
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert min(row["median_us"], row["weight_gb_s"], row["bandwidth_share"], row["gop_s"]) > 0


def test_progress_goes_to_stderr_and_quiet_is_respected(qcore):
    loud, quiet = qcore(*TINY, "--no-peers"), qcore(*TINY, "--no-peers", "-q")
    assert "read bandwidth" in loud.stderr and "2/2: 16 -> 8, batch 3" in loud.stderr
    assert quiet.stderr == ""
    for result in (loud, quiet):
        assert result.exit_code == 0
        assert "x fp32 (quartiles)" in result.stdout and "4 bit" in result.stdout


def test_no_peer_is_needed(qcore, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    data = json.loads(qcore(*TINY, "--bits", "4", "--json").stdout)
    absent = [row for row in data["rows"] if row["reason"]]
    assert {row["contender"] for row in absent} == {peer.label for peer in choose_peers()}
    assert all(row["reason"].startswith("not installed (pip install ") for row in absent)
    text = qcore(*TINY, "--bits", "4").stdout
    assert text.count("left out: ") == len(choose_peers())


def test_a_peer_that_computes_nonsense_is_left_out(qcore, monkeypatch):
    from qcore.measure.bench.peers import torch_int8

    real = torch_int8._quantized

    def broken(module, engine):
        made = real(module, engine)
        return lambda x: made(x) * 2

    monkeypatch.setattr(torch_int8, "_quantized", broken)
    data = json.loads(qcore(*TINY, "--bits", "4", "--peers", "fbgemm", "--json").stdout)
    (first, second) = (row["reason"] for row in data["rows"] if row["kind"] == "peer")
    assert "computes something else" in first and "computes something else" in second


def test_groups_float_inputs_and_cold_weights(qcore):
    words = ("--bits", "4", "--group-size", "8", "--float-input", "--cold", "--no-peers", "--json")
    data = json.loads(qcore("bench", "--shape", "64x32", "--batch", "1", "--rounds", "2", *words).stdout)
    assert [row["contender"] for row in data["rows"]] == ["torch fp32", "4 bit, g8, float input"]
    assert data["settings"]["cold"] is True


def test_a_model_is_timed_beside_its_float_twin(qcore, finished):
    result = qcore("bench", "--model", finished.model, "--batch", "1", "--rounds", "2", "--no-peers", "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [(row["subject"], row["contender"]) for row in rows] == [
        ("model.safetensors", "torch fp32"),
        ("model.safetensors", "packed"),
        ("model.safetensors", "packed, plan"),
    ]


def test_it_writes_a_page_or_data(qcore, tmp_path):
    page, data = tmp_path / "bench.md", tmp_path / "deep" / "bench.json"
    assert qcore(*TINY, "--no-peers", "-o", page).stdout == ""
    assert page.read_text().startswith("# qcore bench\n")
    assert qcore(*TINY, "--no-peers", "-o", data).exit_code == 0
    assert len(json.loads(data.read_text())["rows"]) == 2 * 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shape", "16"), "2560x6912"),
        (("--shape", "16x0"), "16x0"),
        (("--bits", "9"), "'9'"),
        (("--bits", "tern"), "'ternary'"),
        (("--batch", "0"), "--batch 0"),
        (("--group-size", "0"), "--group-size 0"),
        (("--rounds", "1"), "--rounds"),
        (("--threads", "0"), "--threads"),
        (("--peers", "onnx_runtime"), "'onnxruntime'"),
        (("--peers", "fbgemm", "--no-peers"), "--no-peers"),
        (("--out", "bench.txt"), ".json or .md"),
        (("--input", "64"), "--model"),
        (("--model", "m.safetensors", "--bits", "4"), "--bits"),
        (("--model", "m.safetensors", "--float-input"), "--float-input"),
        (("--backend", "cpuu"), "cpuu"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--device", "gpu"), "cuda:1"),
        (("--device", "meta"), "cpu and cuda"),
        (("--peers", "bitsandbytes"), "does not run on cpu"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused(qcore, words, message):
    result = qcore("bench", *words)
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr
    assert result.stdout == ""


def test_a_model_that_is_missing_or_float_is_told(qcore, finished, tmp_path):
    missing = qcore("bench", "--model", tmp_path / "none.safetensors")
    assert missing.exit_code == 1 and "none.safetensors" in missing.stderr
    floats = qcore("bench", "--model", finished.path / "float" / "fold-0" / "model.safetensors")
    assert floats.exit_code == 2 and "no packed layer" in floats.stderr


def test_ctrl_c_ends_it_quietly(qcore, monkeypatch):
    def interrupted(*words, **options):
        raise KeyboardInterrupt

    assert callable(take_turns)
    monkeypatch.setattr("qcore.measure.bench.contest.take_turns", interrupted)
    result = qcore(*TINY, "--no-peers")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr and result.stdout == ""
