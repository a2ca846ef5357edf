"""The short form of `python -m chaos.conservation`: everything is killed at random, each event accounted for."""

from pathlib import Path

from chaos.conservation import check
from tests.ports import free_port_base


async def test_nothing_is_lost_or_doubled_while_everything_is_killed(tmp_path: Path) -> None:
    found = await check(tmp_path / "mesh", events=30_000, seed=20_261, port_base=free_port_base())
    assert found.held, found
    assert found.ok + found.unknown == 30_000
    assert found.kills, "nothing was killed: the run was too short to say anything"
