"""Runs a module of the mesh by a clock that is wrong, for drills: `python -m deploy.local.skewed SECONDS MODULE`.

Python's own clock is off by so many seconds and goes on from there; what measures time (monotonic) is not, nor are
timestamps that a C library takes by itself, such as OpenSSL's when it looks at a certificate.
"""

import runpy
import sys
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import time_machine


def main() -> NoReturn:
    seconds, module = float(sys.argv[1]), sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    time_machine.travel(datetime.now(UTC) + timedelta(seconds=seconds), tick=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    raise SystemExit(0)


if __name__ == "__main__":
    main()
