"""How far a drill may reach."""

import pytest

from chaos.drill.blast import PROCESSES_MAX, BlastRadius, check, check_link
from chaos.drill.errors import TooWide

NODES = {**{f"edge-{n}": "edge" for n in range(1, 5)}, "orders-1": "orders", "orders-2": "orders", "kafka": "kafka"}


def radius(*workloads: str, most: int = 4, whole: tuple[str, ...] = ()) -> BlastRadius:
    return BlastRadius(frozenset(workloads), most, frozenset(whole))


def test_half_of_a_workload_may_be_hit() -> None:
    check(radius("edge"), NODES, [], ["edge-1", "edge-2"])


@pytest.mark.parametrize(
    ("declared", "hit", "more", "why"),
    [
        (radius("edge"), [], ["edge-9"], "no process of this mesh"),
        (radius("edge"), [], ["orders-1"], "not in the declared"),
        (radius("edge", most=1), ["edge-1"], ["edge-2"], "1 are the most"),
        (radius("edge"), ["edge-1", "edge-2"], ["edge-3"], "more than half"),
        (radius("orders"), ["orders-1"], ["orders-2"], "more than half"),
        (radius("kafka"), [], ["kafka"], "more than half"),
    ],
    ids=["stranger", "undeclared", "too many", "too many over time", "both replicas", "the only one"],
)
def test_what_reaches_further_is_refused(declared: BlastRadius, hit: list[str], more: list[str], why: str) -> None:
    with pytest.raises(TooWide, match=why):
        check(declared, NODES, hit, more)


def test_a_whole_workload_is_hit_only_where_the_experiment_says_so() -> None:
    check(radius("orders", "kafka", whole=("orders", "kafka")), NODES, ["orders-1"], ["orders-2", "kafka"])


def test_the_same_process_again_is_no_wider() -> None:
    check(radius("orders", most=1), NODES, ["orders-1"], ["orders-1"])


def test_there_is_a_most_whatever_is_declared() -> None:
    nodes = {f"edge-{n}": "edge" for n in range(60)}
    with pytest.raises(TooWide, match=str(PROCESSES_MAX)):
        check(radius("edge", most=100), nodes, [], sorted(nodes)[: PROCESSES_MAX + 1])


def test_a_link_must_be_declared() -> None:
    check_link(BlastRadius(frozenset(), 0, links=frozenset({"core"})), "core")
    with pytest.raises(TooWide, match="kafka"):
        check_link(BlastRadius(frozenset(), 0, links=frozenset({"core"})), "kafka")
