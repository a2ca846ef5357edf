"""Runs a module of the mesh by a clock that is wrong, for drills: `python -m deploy.local.skewed SECONDS MODULE`.

Python's own clock is off by so many seconds and goes on from there; what measures time (monotonic) is not, nor are
timestamps that a C library takes by itself, such as OpenSSL's when it looks at a certificate.
"""

import importlib
import runpy
import sys
import time
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import NoReturn

import time_machine


def main() -> NoReturn:
    seconds, module = float(sys.argv[1]), sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    _leave_deadlines_alone()
    time_machine.travel(datetime.now(UTC) + timedelta(seconds=seconds), tick=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    raise SystemExit(0)


def _leave_deadlines_alone() -> None:
    """gRPC tells its core of a deadline as a moment, and the core has the machine's clock: by another one, each call of
    the process would have ended before it began. A machine whose clock is wrong is wrong on both sides.
    """
    clock = ModuleType("time")
    vars(clock).update(vars(time), time=time_machine.escape_hatch.time.time)
    for counts in ("grpc._cython.cygrpc", "grpc.aio._utils"):
        vars(importlib.import_module(counts))["time"] = clock


if __name__ == "__main__":
    main()
