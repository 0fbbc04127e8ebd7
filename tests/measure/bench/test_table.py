from __future__ import annotations

from dataclasses import replace

from qcore.measure.bench.machine import machine_facts
from qcore.measure.bench.result import Report, Row
from qcore.measure.bench.table import cells, columns, heading, left_out, markdown

ROW = Row(
    subject="16 -> 8",
    batch=1,
    contender="4 bit",
    kind="packed",
    median_us=12.345,
    ratio=2.0,
    ratio_low=1.5,
    ratio_high=2.5,
    weight_nbytes=64,
    touched_nbytes=160,
    weight_gb_s=5.0,
    bandwidth_share=0.25,
    gop_s=250.4,
)


def report(*rows: Row, threads: int = 1, cold: bool = False, floats: str = "torch fp32") -> Report:
    settings = {"float": floats, "threads": threads, "clock": "wall time", "rounds": 3, "cold": cold, "backend": "auto"}
    bandwidth = {"gb_s": 20.0, "how": "torch.sum", "each": {}}
    return Report(
        machine=machine_facts(),
        backends={"some/cpu": {"isa": "avx2"}, "core/reference": {}},
        settings=settings,
        bandwidth=bandwidth,
        rows=list(rows),
    )


def test_a_row_is_cells_in_the_order_of_the_columns() -> None:
    assert cells(ROW) == ["16 -> 8", "1", "4 bit", "12.3", "2.00 (1.50-2.50)", "0.2", "5.0", "25%", "250"]
    assert len(cells(ROW)) == len(columns(report()))
    bare = replace(ROW, weight_gb_s=None, bandwidth_share=None, gop_s=None, touched_nbytes=None)
    assert cells(bare)[5:] == ["-"] * 4


def test_who_is_left_out_is_told_once_with_the_places_unless_it_is_everywhere() -> None:
    gone = replace(ROW, contender="gone", reason="not installed")
    slow = replace(ROW, contender="slow", reason="too slow")
    found = list(left_out(report(ROW, gone, slow, replace(ROW, batch=8), replace(gone, batch=8))))
    assert found == ["gone: not installed", "slow: too slow (16 -> 8 batch 1)"]


def test_the_heading_says_where_and_how() -> None:
    text = "\n".join(heading(report(ROW, threads=2, cold=True)))
    for part in ("cores", "torch", "some/cpu: isa avx2", "no details", "2 thread(s)", "3 interleaved", "20.0 GB/s"):
        assert part in text
    assert "stream from memory" in text and "OMP_WAIT_POLICY" in text


def test_on_a_gpu_it_is_told_with_what_is_no_graph_and_times_are_against_bf16() -> None:
    found = report(ROW, floats="torch bf16")
    assert columns(found)[4] == "x bf16 (quartiles)" and columns(report())[4] == "x fp32 (quartiles)"
    found.machine["gpu"] = {"name": "some GPU", "capability": "9.0", "l2_nbytes": 50 << 20, "cuda": "13.0"}
    text = "\n".join(heading(found))
    assert "GPU some GPU, capability 9.0, L2 cache 50 MiB" in text and "torch bf16" in text
    assert cells(replace(ROW, captured=False))[2] == "4 bit, eager"
    assert cells(replace(ROW, captured=True))[2] == cells(ROW)[2] == "4 bit"


def test_a_page_has_title_command_rows_and_who_is_left_out() -> None:
    gone = replace(ROW, contender="gone", reason="not installed")
    page = markdown(report(ROW, gone), "a title", "python script.py").splitlines()
    assert page[0] == "# a title" and page[2] == "`python script.py`"
    table = [line for line in page if line.startswith("|")]
    assert len(table) == 3 and len({line.count("|") for line in table}) == 1
    assert page[-1] == "- gone: not installed"
