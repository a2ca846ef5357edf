"""Who may import whom, as pyproject.toml states it."""

import subprocess
import sys
from pathlib import Path

from deploy.protos import ROOT


def test_no_package_imports_what_it_must_not_know() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
