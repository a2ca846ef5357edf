"""What a group is told after acknowledgements and refusals."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mesh.control.cache import SETTLED_S, SnapshotCache
from mesh.control.history import Fate
from mesh.control.snapshot import CLUSTER, CONFIGURATION, ENDPOINTS, LISTENER, RETIRING, Snapshot
from tests.unit.control.test_conversation import snapshot

GROUP = "edge-gateway"


def acknowledged(cache: SnapshotCache, offered: Snapshot) -> None:
    cache.set(GROUP, offered)
    for kind in CONFIGURATION:
        cache.acknowledge(GROUP, kind, offered.versions[kind])


def test_a_configuration_is_good_when_all_its_types_are_acknowledged() -> None:
    cache = SnapshotCache()
    first = snapshot(["a"])
    cache.set(GROUP, first)
    cache.acknowledge(GROUP, CLUSTER, first.versions[CLUSTER])
    assert cache.good(GROUP) is None
    acknowledged(cache, first)
    assert cache.good(GROUP) is first


def test_a_refusal_takes_the_group_back_to_what_was_good_and_is_recorded() -> None:
    cache = SnapshotCache(now=lambda: 42.0)
    first, bad = snapshot(["a"]), snapshot(["a"], mark=1)
    acknowledged(cache, first)
    cache.set(GROUP, bad)
    cache.reject(GROUP, "edge-gateway", LISTENER, bad.versions[LISTENER], "no such filter")
    current = cache.get(GROUP)
    assert current is not None
    assert current.versions == first.versions
    assert [(each.reason, each.node, each.time) for each in cache.rejections] == [
        ("no such filter", "edge-gateway", 42.0)
    ]


def test_endpoints_go_on_changing_after_a_refusal() -> None:
    cache = SnapshotCache()
    first, bad = snapshot(["a"]), snapshot(["a"], mark=1)
    acknowledged(cache, first)
    cache.set(GROUP, bad)
    cache.reject(GROUP, "n", LISTENER, bad.versions[LISTENER], "no")
    newer = snapshot(["a"], mark=1, endpoints_mark=7)
    cache.set(GROUP, newer)
    current = cache.get(GROUP)
    assert current is not None
    assert current.versions[ENDPOINTS] == newer.versions[ENDPOINTS]
    assert current.same_configuration(first)


def test_what_was_refused_is_not_offered_again_but_the_next_is() -> None:
    cache = SnapshotCache()
    first, bad, mended = snapshot(["a"]), snapshot(["a"], mark=1), snapshot(["a"], mark=2)
    acknowledged(cache, first)
    cache.set(GROUP, bad)
    cache.reject(GROUP, "n", LISTENER, bad.versions[LISTENER], "no")
    cache.set(GROUP, bad)
    current = cache.get(GROUP)
    assert current is not None
    assert current.same_configuration(first)
    cache.set(GROUP, mended)
    assert cache.get(GROUP) is mended


def test_streams_hear_of_changes_and_of_nothing_else() -> None:
    cache = SnapshotCache()
    changed = asyncio.Event()
    cache.subscribe(GROUP, changed)
    cache.set(GROUP, snapshot(["a"]))
    assert changed.is_set()
    changed.clear()
    cache.set(GROUP, snapshot(["a"]))
    assert not changed.is_set()
    cache.unsubscribe(GROUP, changed)
    cache.set(GROUP, snapshot(["b"]))
    assert not changed.is_set()


def test_the_same_content_has_the_same_version() -> None:
    assert snapshot(["a", "b"]).versions == snapshot(["b", "a"]).versions
    assert snapshot(["a"]).versions != snapshot(["b"]).versions


def test_a_refusal_of_new_clusters_told_beside_those_that_go_is_one_of_the_configuration() -> None:
    cache = SnapshotCache()
    first, bad = snapshot(["a"]), snapshot(["b"], mark=1)
    acknowledged(cache, first)
    cache.set(GROUP, bad)
    cache.reject(GROUP, "n", CLUSTER, bad.versions[CLUSTER] + RETIRING, "no")
    current = cache.get(GROUP)
    assert current is not None
    assert current.same_configuration(first)
    assert [change.fate for change in cache.history.changes] == [Fate.GOOD, Fate.REJECTED]


def test_what_one_client_took_in_part_is_taken_back_when_another_refuses_the_rest() -> None:
    cache = SnapshotCache()
    first, bad = snapshot(["a"]), snapshot(["a", "b"], mark=1)
    acknowledged(cache, first)
    acknowledged(cache, bad)
    assert cache.good(GROUP) is bad
    cache.reject(GROUP, "n", CLUSTER, bad.versions[CLUSTER], "no")
    current = cache.get(GROUP)
    assert current is not None
    assert current.same_configuration(first)
    kept = cache.good(GROUP)
    assert kept is not None
    assert kept.same_configuration(first)


def test_nobody_takes_from_everybody_what_has_long_been_good() -> None:
    passed = 0.0
    cache = SnapshotCache(monotonic=lambda: passed)
    first, second = snapshot(["a"]), snapshot(["a"], mark=1)
    acknowledged(cache, first)
    acknowledged(cache, second)
    passed = SETTLED_S + 1
    for known in (second, first):
        for kind in CONFIGURATION:
            cache.reject(GROUP, "n", kind, known.versions[kind], "no")
    assert cache.get(GROUP) is second
    assert len(cache.rejections) == 6
    assert [change.fate for change in cache.history.changes] == [Fate.GOOD, Fate.GOOD]


def test_what_was_taken_and_refused_has_not_long_been_good() -> None:
    passed = 0.0
    cache = SnapshotCache(monotonic=lambda: passed)
    refused, next_one = snapshot(["a"]), snapshot(["a", "b"])
    cache.set(GROUP, refused)
    cache.reject(GROUP, "n", CLUSTER, refused.versions[CLUSTER], "no")
    for kind in CONFIGURATION:
        cache.acknowledge(GROUP, kind, refused.versions[kind])
    passed = SETTLED_S + 1
    acknowledged(cache, next_one)
    assert next_one.versions[LISTENER] == refused.versions[LISTENER]
    cache.reject(GROUP, "n", LISTENER, next_one.versions[LISTENER], "no")
    assert cache.good(GROUP) is None
    assert cache.history.changes[-1].fate is Fate.REJECTED


OFFERS = [snapshot(clusters, mark=mark) for clusters in ("a", "ab") for mark in (0, 1)]
STEPS = st.one_of(
    st.tuples(st.just("offer"), st.sampled_from(OFFERS)),
    # By all data planes, or in part by one.
    st.tuples(st.just("take"), st.just(CONFIGURATION)),
    st.tuples(st.just("take"), st.sampled_from(CONFIGURATION).map(lambda kind: (kind,))),
    st.tuples(st.just("refuse"), st.sampled_from(CONFIGURATION)),
    st.tuples(st.just("wait"), st.sampled_from([1.0, SETTLED_S + 1])),
)


@given(st.lists(STEPS, min_size=5, max_size=30))
def test_nobody_is_told_what_was_refused_while_something_good_is_known_nor_loses_what_has_long_been_good(
    steps: list[tuple[str, Any]],
) -> None:
    passed = 0.0
    cache = SnapshotCache(monotonic=lambda: passed)
    refused: set[tuple[str, str]] = set()
    # By configuration, when it was first good.
    good: dict[str, float] = {}
    cache.set(GROUP, OFFERS[0])
    for do, what in steps:
        told = cache.get(GROUP)
        assert told is not None
        if do == "wait":
            passed += what
        elif do == "offer":
            cache.set(GROUP, what)
        elif do == "take":
            for kind in what:
                cache.acknowledge(GROUP, kind, told.versions[kind])
        else:
            # What was refused meanwhile, in any part of it, is not good any more, however long it was.
            kept = [each for each in OFFERS if not refused & set(each.versions.items())]
            settled = [each for each in kept if passed - good.get(each.configuration, passed) > SETTLED_S]
            cache.reject(GROUP, "n", what, told.versions[what], "no")
            if any(each.versions[what] == told.versions[what] for each in settled):
                assert cache.get(GROUP) is told
            else:
                refused.add((what, told.versions[what]))
        current, known = cache.get(GROUP), cache.good(GROUP)
        assert current is not None
        if known is not None:
            good.setdefault(known.configuration, passed)
            assert not refused & set(current.versions.items())
