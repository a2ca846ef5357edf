"""The simulated fleet of the benchmark, at its smallest: it starts, is told everything, and hears of a change."""

from pathlib import Path

import pytest

from chaos.bench import mesh
from chaos.bench.identities import issue


def test_a_small_fleet_converges_and_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "PLANES", (1, 2))
    monkeypatch.setattr(mesh, "SERVICES", 30)
    issue(tmp_path, {"orders-1": ("private", "orders"), "control-private": ("private", "control-private")})
    figures = {each.name: each.value for each in mesh.fleet(tmp_path)}
    assert figures["a changed endpoint told to 2 data planes"] > 0
    assert figures["time to full convergence per data plane, 2 of them"] > 0
