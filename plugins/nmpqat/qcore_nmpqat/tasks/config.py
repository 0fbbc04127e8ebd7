"""Options of the plugin's tasks. This module imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qcore.tasks.config import TaskConfig

__all__ = [
    "CovertypeConfig",
    "HiggsConfig",
    "KvsConfig",
    "MeshConfig",
    "PoqemonQoeConfig",
    "RssConfig",
    "TraceConfig",
    "VodConfig",
]

_SPLIT = "the file's fixed split where it has one (file), or folds drawn at random (random)"


class CovertypeConfig(TaskConfig):
    """Options of ``nmpqat/covertype``."""

    data: str | None = Field(
        None,
        description="packed npz, UCI's covtype.data(.gz), or scikit-learn's folder; default: looked for in QCORE_DATA",
    )
    split: Literal["file", "random"] = Field("file", description=_SPLIT)


class HiggsConfig(TaskConfig):
    """Options of ``nmpqat/higgs``."""

    data: str | None = Field(None, description="packed npz, or UCI's HIGGS.csv(.gz); default: looked for in QCORE_DATA")
    split: Literal["file", "random"] = Field("file", description=_SPLIT)
    limit: int | None = Field(
        None, ge=10, description="read the first so many rows alone, and draw folds of them at random"
    )


class PoqemonQoeConfig(TaskConfig):
    """Options of ``nmpqat/poqemon_qoe``."""

    data: str | None = Field(None, description="packed npz; default: looked for in QCORE_DATA")
    features: Literal["objective", "full"] = Field(
        "objective",
        description="what player and network measured (objective), or with what the tester said (full), which leaks",
    )
    split: Literal["file", "group"] = Field(
        "file", description="the file's fixed split (file), or folds that share no tester (group)"
    )


class TraceConfig(TaskConfig):
    """Options that traces of a server share."""

    drop: tuple[str, ...] = Field((), description="features to leave out: names or globs")
    test_share: float = Field(
        0.3, gt=0, lt=1, description="share of the rows, the last ones, that are tested with split=time"
    )


class VodConfig(TraceConfig):
    """Options of ``nmpqat/vod``."""

    data: str | None = Field(
        None, description="packed npz, or X.csv beside Y.csv, or their folder; default: looked for in QCORE_DATA"
    )
    split: Literal["file", "random", "time"] = Field(
        "file", description=f"{_SPLIT}, or the end of the trace is tested (time)"
    )


class KvsConfig(TraceConfig):
    """Options of ``nmpqat/kvs``."""

    data: str | None = Field(None, description="X.csv beside Y.csv, or their folder; default: looked for in QCORE_DATA")
    target: str = Field("WritesAvg", description="column of Y.csv: WritesAvg or ReadsAvg, mean response times in ms")
    split: Literal["random", "time"] = Field(
        "random", description="folds drawn at random, or the end of the trace is tested (time)"
    )


class MeshConfig(TaskConfig):
    """Options of ``nmpqat/mesh``."""

    data: str | None = Field(None, description="packed npz; default: looked for in QCORE_DATA")
    target: Literal["d11", "d12", "d21", "d22", "drop1", "drop2", "delays", "drops", "all"] = Field(
        "delays", description="one response time or drop rate, all four response times, both drop rates, or all six"
    )
    idle: Literal["drop", "keep"] = Field(
        "drop", description="rows in which a route carried nothing, whose response time the file gives as 0"
    )
    split: Literal["file", "random"] = Field("file", description=_SPLIT)


class RssConfig(TaskConfig):
    """Options of ``nmpqat/rss``."""

    rows: int = Field(50_000, ge=10, le=10_000_000, description="user positions to draw")
    seed: int = Field(0, ge=0, description="of the drawn positions, shadows and noise")
