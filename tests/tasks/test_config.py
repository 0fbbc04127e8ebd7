from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from qcore.tasks.config import DigitsConfig, ImagesConfig, TableConfig


def test_the_configs_import_no_torch() -> None:
    code = "import sys, qcore.tasks.config, qcore.tasks; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_options_are_refused_and_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        DigitsConfig(data="x")  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        TableConfig().target = "z"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        ImagesConfig(channels=2)  # type: ignore[arg-type]
