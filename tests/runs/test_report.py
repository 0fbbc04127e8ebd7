"""The report: one page that needs nothing else, escapes everything and shows what is not known as a dash."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qcore.methods.evidence import Evidence
from qcore.runs.report import Section, write_report
from qcore.runs.report import pareto as pareto_module
from qcore.runs.report.figures import mean_curve
from qcore.runs.report.material import Material, interval
from qcore.runs.report.pareto import Point, front, pareto_figure, pareto_svg
from qcore.runs.report.render import render

EVIL = '<img src=x onerror="alert(1)">&'
SEEDS, FOLDS = (0,), (0, 1, 2)
ARMS = {"float": (0.95, 100e3), "int8": (0.94, 30e3), EVIL: (0.90, 10e3)}


def arm(mean: float, nbytes: float, *, baseline: bool) -> dict[str, Any]:
    values = [mean - 0.01, mean, mean + 0.01]
    return {
        "summary": f"about {EVIL}",
        "baseline": baseline,
        "score": {"mean": mean, "std": 0.01, "values": values},
        "nbytes": nbytes,
        "effective_bits": 8.5,
        "latency_us": {"1": {"p50": 120.0}, "64": {"p50": None}},
        "energy_j": {"value": None, "reason": "no counter"},
        "modelled_energy_j": {"value": 1e-7, "source": "a table"},
    }


def summary() -> dict[str, Any]:
    test = {"arm": "int8", "baseline": "float", "difference": -0.01, "interval": [-0.02, 0.001], "p_value": 0.0004}
    return {
        "schema": 1,
        "plugin": f"mine/{EVIL}",
        "task": "core/digits",
        "metric": "f1_weighted",
        "seeds": list(SEEDS),
        "folds": list(FOLDS),
        "arms": {name: arm(*numbers, baseline=name == "float") for name, numbers in ARMS.items()},
        "tests": [{**test, "p_adjusted": 0.0008, "test": "paired t", "reason": None, "wilcoxon_p": 0.25}],
        "claims": [
            {"id": "a", "statement": f"it is {EVIL}", "verdict": "holds", "value": {"x": 1.23456}, "test": "TOST"},
            {"id": "b", "statement": "it is not", "verdict": "fails", "value": -1, "test": "t", "p_adjusted": 0.4},
            {"id": "c", "statement": "who knows", "verdict": "untested", "value": None, "test": "", "reason": EVIL},
        ],
    }


def samples(name: str, fold: int, seed: int) -> dict[str, Any]:
    count = np.arange(40)
    plain = {"target": count % 2, "prediction": np.zeros(40, int), "confidence": np.full(40, 0.5)}
    if name != "int8":
        return plain
    expert = (count >= 30).astype(int)
    return {**plain, "expert": expert, "expert_bits": np.array([2.0, 8.0])[expert], "uncertainty": count / 100}


@pytest.fixture
def material(tmp_path: Path) -> Material:
    refused = [{"backend": "x/fast", "reason": EVIL, "hint": None}]
    kernel = {"layer": "head", "op": "linear", "backend": "core/reference", "kernel": "sums", "refused": refused}
    data = [
        {"arm": name, "seed": 0, "fold": fold, "scores": {"f1_weighted": 0.9}, "size": {}, "kernels": [kernel]}
        for name in ARMS
        for fold in FOLDS
    ]
    for fold in FOLDS:
        rows = [{"phase": "train", "epoch": e, "validation": 0.5 + 0.1 * e, "metric": "f1_weighted"} for e in (1, 2)]
        folder = tmp_path / "float" / f"fold-{fold}"
        folder.mkdir(parents=True)
        (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {
        "command": ["qcore", "run", "--set", f"x={EVIL}"],
        "started": "2026-01-01T00:00:00Z",
        "git": {"commit": None, "reason": EVIL},
        "versions": {"torch": "2.13.0"},
        "plugins": {"mine": {"distribution": "qcore-mine", "version": "1.0", "files_sha256": "ab" * 32}},
        "config": {"folds": None, "task_options": {"data": EVIL}},
    }
    evidence = Evidence("f1_weighted", True, tuple(ARMS), SEEDS, FOLDS, data, (100, 40), samples)
    return Material(tmp_path, record, summary(), evidence)


class Page(HTMLParser):
    """Collects tags with their attributes, text outside scripts and styles, and the figures' data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.data: list[Any] = []
        self._inside: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = (tag, dict(attrs))
        self.tags.append(self._inside)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ("", {})

    def handle_data(self, data: str) -> None:
        tag, attributes = self._inside
        if tag == "script" and attributes.get("type") == "application/json":
            self.data.append(json.loads(data))
        elif tag not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def page(material: Material) -> Page:
    return Page(render(material))


def test_nothing_is_loaded_from_elsewhere(page):
    links = [(tag, key) for tag, attributes in page.tags for key in attributes if key in ("src", "href", "srcset")]
    assert links == []
    assert {"link", "iframe", "img", "object", "base"} & {tag for tag, _ in page.tags} == set()
    assert "@import" not in render_style(page)


def render_style(page: Page) -> str:
    from importlib import resources

    return resources.files("qcore.runs.report").joinpath("template", "report.css").read_text()


def test_plotly_is_inlined_once_and_only_where_wanted(material):
    text = render(material)
    assert text.count("plotly.js v") == 1
    assert len(text) > 1_000_000


def test_everything_that_others_wrote_is_escaped(material):
    text = render(material, [Section(EVIL, text=EVIL)], [EVIL])
    page = Page(text)
    assert "img" not in {tag for tag, _ in page.tags}
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert page.text.count('onerror="alert(1)"') >= 8


def test_the_numbers_stand_in_tables_that_need_no_script(page):
    for part in (
        "0.9400 ±0.0100",
        "30.0 kB (3.3×)",
        "-0.0100",
        "p < 0.001",
        "120 µs / –",
        "8.50",
        "-0.0200 to +0.0010",
    ):
        assert part in page.text


def test_the_head_counts_the_claims_and_shows_the_command(page):
    assert "1 of 3" in page.text
    assert "1 fail, 1 untested" in page.text
    assert "qcore run --set 'x=" in page.text


def test_verdicts_are_told_by_more_than_colour(page):
    for part in ("✓ holds", "✗ fails", "untested", "x 1.235", "p = 0.400"):
        assert part in page.text


def test_what_is_not_known_is_a_dash_and_never_zero(material):
    unknown = material.summary["arms"]["int8"]
    unknown["score"] = {"mean": None, "std": None, "values": [None, None, None]}
    unknown["latency_us"] = {"reason": "not asked for"}
    unknown["effective_bits"] = None
    text = Page(render(material)).text
    row = re.search(r"int8 about.*?kB \(3.3×\) (\S+) (\S+)", text)
    assert row is not None
    assert row.groups() == ("–", "–")


def test_routing_is_told_by_expert(page):
    assert "int8 2 bits 90 75.0 % 0.1450 0.5000" in page.text
    assert "int8 8 bits 30 25.0 %" in page.text


def test_many_widths_that_are_means_are_put_together(material):
    rng = np.random.default_rng(0)

    def shared(name: str, fold: int, seed: int) -> dict[str, Any]:
        found = samples(name, fold, seed)
        return {**found, "expert_bits": rng.uniform(2, 8, 40)} if name == "int8" else found

    changed = Evidence(**{**vars_of(material.evidence), "load_samples": shared})
    text = Page(render(Material(material.directory, material.record, material.summary, changed))).text
    assert len(re.findall(r"int8 [\d.]+ bits", text)) <= 13


def vars_of(evidence: Evidence) -> dict[str, Any]:
    names = ("metric", "higher_is_better", "arms", "seeds", "folds", "data", "sizes", "load_samples", "seed")
    return {name: getattr(evidence, name) for name in names}


def test_figures_are_data_without_numbers_that_json_lacks(material):
    figure = {"data": [{"x": np.array([1.0, math.nan]), "y": (math.inf, "</script>")}], "layout": {}}
    page = Page(render(material, [Section("Mine", figure=figure)]))
    assert page.data[-1]["data"][0] == {"x": [1.0, None], "y": [None, "</script>"]}
    assert {"scatter", "bar", "box"} <= {trace.get("type") for spec in page.data for trace in spec["data"]}


def test_a_run_without_claims_routing_or_curves_still_has_a_page(material, tmp_path):
    bare = {**material.summary, "claims": [], "tests": []}
    evidence = Evidence(**{**vars_of(material.evidence), "load_samples": lambda *where: {}})
    page = Page(render(Material(tmp_path / "empty", {}, bare, evidence)))
    assert "This method makes no claims" in page.text
    assert "Routing" not in page.text


def test_the_interval_is_corrected_for_overlapping_training_parts():
    # By hand: s^2 = 1, (1/3 + 40/100) s^2 = 0.7333, t(0.975, 2) = 4.3027.
    low, high = interval({"values": [1.0, 2.0, 3.0]}, (100, 40)) or (0, 0)
    assert (low, high) == pytest.approx((2 - 4.302653 * math.sqrt(1 / 3 + 0.4), 2 + 4.302653 * math.sqrt(1 / 3 + 0.4)))
    assert interval({"values": [1.0]}, (100, 40)) is None
    assert interval({"values": [None, 1.0]}, (100, 40)) is None


def points(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(f"arm{i}", nbytes, mean, mean - 0.01, mean + 0.01) for i, (nbytes, mean) in enumerate(pairs)]


def test_the_front_holds_what_nothing_beats_in_score_and_bytes():
    found = points((10, 0.5), (20, 0.4), (20, 0.7), (40, 0.7), (50, 0.9))
    assert [p.name for p in front(found)] == ["arm0", "arm2", "arm4"]
    assert [p.name for p in front(found, higher_is_better=False)] == ["arm0", "arm1"]


@pytest.mark.parametrize("count", [1, 2, 11])
def test_labels_of_the_picture_stay_inside_and_off_each_other(count):
    found = points(*((1000 * 2 ** (i % 5) + i, 0.9 + 0.004 * (i % 4)) for i in range(count)))
    scale = pareto_module._Scale.around(found)
    offsets = pareto_module._labels(found, front(found), scale)
    boxes = []
    for point, (dx, dy) in zip(found, offsets, strict=True):
        x, y = scale.place(point.nbytes, point.mean)
        boxes.append(pareto_module._box((x + dx, y + dy), pareto_module.LETTER * len(point.name) / 2))
    assert all(box[0] >= 0 and box[2] <= pareto_module.WIDTH for box in boxes)
    assert [pair for pair in combinations(boxes, 2) if pareto_module._overlap(*pair) > 0] == []


def test_the_static_picture_and_the_live_one_show_the_same_arms():
    found = [*points((1000, 0.5), (2000, 0.7)), Point("nothing", 0, 0.5, 0.5, 0.5), Point("nan", 9, math.nan, 0, 0)]
    figure = pareto_figure(found, "f1")
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["arm0", "arm1"]
    assert re.findall(r">(arm\d|nothing|nan)<", pareto_svg(found, "f1")) == ["arm0", "arm1"]


def test_a_mean_curve_ends_where_most_jobs_have_ended():
    assert mean_curve([[1.0, 2.0, 3.0], [3.0, 4.0], [2.0]]) == [2.0, 3.0]
    assert mean_curve([[None], [None]]) == [None]
    assert mean_curve([]) == []


def run_of(material: Material, **changes: Any) -> SimpleNamespace:
    return SimpleNamespace(
        path=material.directory,
        record=material.record,
        summary=material.summary,
        evidence=lambda: material.evidence,
        config=SimpleNamespace(plugin="mine/method", settings={}),
        **changes,
    )


def framework_of(sections: Any, hooks: list[tuple[str, Any]]) -> SimpleNamespace:
    method = SimpleNamespace(sections=sections)
    return SimpleNamespace(
        registry=SimpleNamespace(make=lambda kind, name, **options: method), call=lambda hook, run: hooks
    )


def test_sections_of_the_method_and_of_plugins_are_in_the_page(material):
    framework = framework_of(
        lambda evidence: [Section("By the method", html="<b>bold</b>")], [("p", [Section("By a plugin", "some text")])]
    )
    text = write_report(run_of(material), framework).read_text(encoding="utf-8")  # type: ignore[arg-type]
    assert "<b>bold</b>" in text
    assert "By a plugin" in text


def test_a_section_that_fails_is_named_and_the_report_written_without_it(material):
    def fails(evidence: Evidence) -> list[Section]:
        raise ValueError("no such key")

    framework = framework_of(fails, [("p", RuntimeError("worse")), ("q", ["not a section"]), ("r", None)])
    text = Page(write_report(run_of(material), framework).read_text(encoding="utf-8")).text  # type: ignore[arg-type]
    assert "mine/method: ValueError: no such key" in text
    assert "p: RuntimeError: worse" in text
    assert "q: gave str where a Section is expected" in text
    assert "Arms" in text
