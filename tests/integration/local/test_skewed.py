"""A process whose clock is wrong is wrong about the time of day, and about nothing else."""

import json
import subprocess
import sys
import time

import pytest

from deploy.local.settings import REPOSITORY
from tests.integration.local.skewed_caller import GRANTED_S

# The process may be slow to start, but not so slow.
WITHIN_S = 60


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_its_clock_is_off_and_its_calls_have_their_time(seconds: int) -> None:
    module = "tests.integration.local.skewed_caller"
    command = (sys.executable, "-m", "deploy.local.skewed", str(seconds), module)
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert abs(found["clock"] - time.time() - seconds) < WITHIN_S
    assert 0 < found["remaining"] <= GRANTED_S
