from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os
from pathlib import Path
from qcore.plugins import Framework
from qcore.runs import run

settings = {"epochs": 3, "hidden": [8], "batch_size": 32}
fw = Framework(no_plugins=True, config={})
found = run("ptq", task="core/breast_cancer", folds=2, latency=False, report=False, settings=settings, framework=fw)
if os.environ["RANK"] == "0":
    Path("scores.json").write_text(json.dumps(found.summary["arms"]["float"]["score"]["values"]))
else:
    Path("follower.txt").write_text(str(found.path))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_two_ranks_under_torchrun_train_one_run_together(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(free_port()), str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert (tmp_path / "follower.txt").read_text() == str(run.relative_to(tmp_path))
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    assert min(json.loads((tmp_path / "scores.json").read_text())) > 0.7
    assert len(list(run.rglob("result.json"))) == 4
