from __future__ import annotations

import subprocess
import sys


def test_configs_and_contracts_of_methods_import_no_torch() -> None:
    code = (
        "import sys, qcore.methods, qcore.methods.config, qcore.methods.base, qcore.methods.claims\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
