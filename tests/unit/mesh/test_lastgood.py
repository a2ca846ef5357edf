"""What a data plane starts with while its control plane is away: its own, young enough, and what was really told."""

import os
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.status.v3 import csds_pb2

from mesh.control.snapshot import CLUSTER
from mesh.errors import Unavailable
from mesh.lastgood import AGE_S_MAX, MARK, LastGood


class Clock:
    def __init__(self) -> None:
        self.time = 1e9

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def last_good(tmp_path: Path, clock: Clock) -> LastGood:
    return LastGood(tmp_path / "last-good", by_name=True, now=clock)


def answer(*names: str, version: str = "1", content: bool = True) -> bytes:
    """What a data plane says that it works with: clusters of these names."""
    config = csds_pb2.ClientConfig()
    for name in names:
        entry = config.generic_xds_configs.add(type_url=CLUSTER, name=name, version_info=version)
        if content:
            entry.xds_config.Pack(cluster_pb2.Cluster(name=name))
    return bytes(csds_pb2.ClientStatusResponse(config=[config]).SerializeToString())


def clusters(last_good: LastGood) -> dict[str, Any]:
    return dict(last_good.snapshot().resources[CLUSTER])


def refusal(last_good: LastGood) -> str:
    with pytest.raises(Unavailable) as refused:
        last_good.snapshot()
    return refused.value.reason


def test_what_was_worked_with_is_there_again_and_marked(last_good: LastGood) -> None:
    last_good.keep(answer("orders"))
    assert list(clusters(last_good)) == ["orders"]
    assert last_good.snapshot().versions[CLUSTER].endswith(MARK)
    assert last_good.path.stat().st_mode & 0o777 == 0o600


def test_what_a_new_life_has_not_asked_for_stays(last_good: LastGood) -> None:
    last_good.keep(answer("orders", "members"))
    last_good.keep(answer("orders"))
    assert list(clusters(last_good)) == ["members", "orders"]


def test_what_a_gateway_does_not_have_any_more_goes(tmp_path: Path) -> None:
    gateway = LastGood(tmp_path / "last-good", by_name=False)
    gateway.keep(answer("orders", "members"))
    gateway.keep(answer("orders"))
    assert list(clusters(gateway)) == ["orders"]


def test_it_ages_from_when_it_was_worked_with(last_good: LastGood, clock: Clock) -> None:
    last_good.keep(answer("orders", "members"))
    clock.time += AGE_S_MAX - 1
    last_good.keep(answer("orders"))
    clock.time += 2
    assert list(clusters(last_good)) == ["orders"]
    clock.time += AGE_S_MAX
    assert refusal(last_good) == "LAST_GOOD_STALE"


def test_what_came_from_the_file_does_not_grow_younger(last_good: LastGood, clock: Clock) -> None:
    last_good.keep(answer("orders"))
    clock.time += AGE_S_MAX - 1
    last_good.keep(answer("orders", version=f"1{MARK}"))
    clock.time += 2
    assert refusal(last_good) == "LAST_GOOD_STALE"


def test_a_clock_that_was_set_back_makes_it_unfit(last_good: LastGood, clock: Clock) -> None:
    last_good.keep(answer("orders"))
    clock.time -= 60
    assert refusal(last_good) == "LAST_GOOD_STALE"


def test_what_was_asked_for_in_vain_is_nothing_to_keep(last_good: LastGood) -> None:
    last_good.keep(answer("orders", content=False))
    assert refusal(last_good) == "LAST_GOOD_MISSING"


def test_a_file_that_others_can_reach_is_not_believed(last_good: LastGood) -> None:
    last_good.keep(answer("orders"))
    for mode in (0o640, 0o602, 0o604):
        last_good.path.chmod(mode)
        assert refusal(last_good) == "LAST_GOOD_UNTRUSTED"
    last_good.keep(answer("orders"))
    assert list(clusters(last_good)) == ["orders"]


def test_neither_a_link_nor_a_torn_file_is_followed(last_good: LastGood, tmp_path: Path) -> None:
    last_good.keep(answer("orders"))
    elsewhere = tmp_path / "elsewhere"
    last_good.path.rename(elsewhere)
    last_good.path.symlink_to(elsewhere)
    assert refusal(last_good) == "LAST_GOOD_MISSING"
    last_good.path.unlink()
    os.close(os.open(last_good.path, os.O_CREAT | os.O_WRONLY, 0o600))
    last_good.path.write_bytes(b"\xff\xff")
    assert refusal(last_good) == "LAST_GOOD_MISSING"
