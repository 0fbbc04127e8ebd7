from __future__ import annotations

import pytest

from qcore_nmpqat.tasks.base import time_parts


@pytest.mark.parametrize("rows", [2, 3, 49, 50, 51, 1000])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_time_parts_cover_all_rows_in_order_and_share_no_group(rows: int, share: float) -> None:
    folds, groups = time_parts(rows, share)
    assert len(folds) == len(groups) == rows
    tested = folds == 0
    assert 0 < int(tested.sum()) < rows
    assert (folds.diff() >= 0).all() and (groups.diff() >= 0).all() and (groups.diff() <= 1).all()
    assert len(set(groups[tested].tolist())) == 1
    assert not set(groups[tested].tolist()) & set(groups[~tested].tolist())
    assert len(set(groups[~tested].tolist())) == min(50, int((~tested).sum()))
