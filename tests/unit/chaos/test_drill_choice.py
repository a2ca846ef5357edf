"""Which drills `isthmus drill run` takes."""

from itertools import islice
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from chaos.drill import library, run
from deploy.cli.drill import app


@pytest.mark.parametrize("said", [[], ["kill-30-percent-of-edge", "--short"]])
def test_drills_are_named_or_the_short_suite_is_asked_for(said: list[str]) -> None:
    refused = CliRunner().invoke(app, ["run", *said])
    assert refused.exit_code == 2
    assert "not both" in refused.output


def test_a_game_day_takes_what_the_mesh_has_each_once_and_the_same_for_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"edge-1": "edge", "edge-2": "edge", "kafka-1": "kafka", "kafka-2": "kafka"}
    found = SimpleNamespace(
        nodes=nodes, links=["kafka"], spares=["edge-3"], of=lambda its: [name for name in nodes if nodes[name] == its]
    )
    monkeypatch.setattr(run, "find", lambda settings: found)
    listed = [one.name for one in library.listed()]
    fitting = [name for name in listed if run._fits(name, found)]  # type: ignore[arg-type]
    assert "kafka-outage" in fitting
    # Two spares, a link to the core, a process kafka, replicas of orders: not here.
    assert not {"traffic-spike", "partition-clouds", "kafka-disk-full", "slow-core"} & set(fitting)
    first, again = (list(islice(run.game_day(60, seed=3), len(fitting))) for _ in range(2))
    assert sorted(first) == fitting
    assert first == again
    assert list(run.game_day(-1, seed=3)) == []
