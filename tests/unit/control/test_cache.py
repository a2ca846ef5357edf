"""What a group is told after acknowledgements and refusals."""

import asyncio

from mesh.control.cache import SnapshotCache
from mesh.control.snapshot import CLUSTER, CONFIGURATION, ENDPOINTS, LISTENER, Snapshot
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
