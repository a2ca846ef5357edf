"""What is compiled passes Envoy's own validation, without a warning about fields that are on their way out."""

import json
import subprocess
from pathlib import Path

import pytest

from deploy.local import envoy
from deploy.local.settings import Home
from deploy.local.topology import Listen, Process
from mesh.contract import load
from mesh.control.compile import gateway
from mesh.control.registry import Endpoint
from mesh.control.resources.view import View
from mesh.control.validation import static
from tests.integration.conftest import TRUST_DOMAIN, Identities


@pytest.mark.parametrize("zone", ["public", "private"])
def test_envoy_accepts_what_is_compiled(tmp_path: Path, zone: str) -> None:
    group = gateway(zone)
    home = Home(tmp_path)
    Identities(tmp_path).issue(zone, group)
    listens = (Listen("https", "127.0.0.1", 1, "https"), Listen("metrics", "127.0.0.1", 2, "https"))
    envoy.prepare(home, Process(group, zone, group, group, None, listens), "127.0.0.1:3", TRUST_DOMAIN)
    endpoints = tuple(
        Endpoint(workload, listen, workload, where, "127.0.0.1", 20000)
        for workload, listen, where in (
            ("edge", "http", "public"),
            ("orders", "grpc", "private"),
            ("oauth", "http", "private"),
            (group, "https", zone),
        )
    )
    view = View(TRUST_DOMAIN, zone, load(), endpoints, "https://issuer.test", "isthmus-core", tmp_path / "run")
    bootstrap = tmp_path / "static.json"
    bootstrap.write_text(json.dumps(static(view, group)))
    for file in (bootstrap, home.run(group) / "envoy.yaml"):
        command = (str(envoy.binary()), "--mode", "validate", "-c", str(file), "--disable-hot-restart", "-l", "warning")
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr
        assert "eprecated" not in result.stderr
