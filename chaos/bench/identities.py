"""Certificates for a benchmark's servers and clients, from the mesh's own identity agents."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from chaos.bench.tools import BenchError
from mesh.environment import GRPC

_WITHIN_S: Final = 30.0


def issue(bench: Path, wanted: Mapping[str, tuple[str, str]]) -> None:
    """Let the agents issue run/<name>/identity/live for each name: (zone, workload), then end them.

    Both zones' agents, since a gateway's certificate waits until the roots of both are there. Raises BenchError.
    """
    agents = {"identity-public": "public", "identity-private": "private"}
    rows = [(name, zone, workload) for name, (zone, workload) in wanted.items()]
    rows += [(name, zone, name) for name, zone in agents.items()]
    processes: list[dict[str, object]] = [
        {"name": name, "zone": zone, "workload": workload, "node": name, "pid": None, "listens": []}
        for name, zone, workload in rows
    ]
    (bench / "topology.json").write_text(json.dumps({"trust_domain": "isthmus.internal", "processes": processes}))
    log = bench / "identity.log"
    deadline = time.monotonic() + _WITHIN_S
    with log.open("wb") as out, contextlib.ExitStack() as running_agents:
        for name, zone in agents.items():
            environment = os.environ | {
                **GRPC,
                "ISTHMUS_HOME": str(bench),
                "ISTHMUS_ZONE": zone,
                "ISTHMUS_WORKLOAD": name,
                "ISTHMUS_NODE": name,
                "ISTHMUS_IDENTITY_DIR": str(bench / "run" / name / "identity" / "live"),
            }
            agent = subprocess.Popen(
                [sys.executable, "-m", "security.identity"], stdout=out, stderr=out, env=environment
            )
            running_agents.callback(agent.wait, 15)
            running_agents.callback(agent.terminate)
        while not all((bench / "run" / name / "identity" / "live" / "svid.pem").exists() for name in wanted):
            if time.monotonic() > deadline:
                raise BenchError(f"no identities were issued: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.05)
