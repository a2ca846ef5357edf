"""What a control plane offered and what became of it outlives the control plane."""

import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.control.cache import SnapshotCache
from mesh.control.history import Fate, History
from mesh.control.snapshot import CONFIGURATION, LISTENER, Snapshot
from tests.unit.control.test_conversation import snapshot

GROUP = "edge-gateway"
SOURCE = {kind: {"edge": {"name": "edge"}} for kind in CONFIGURATION}


def acknowledge(cache: SnapshotCache, offered: Snapshot) -> None:
    for kind in CONFIGURATION:
        cache.acknowledge(GROUP, kind, offered.versions[kind])


def test_a_new_life_knows_what_was_good_and_what_was_refused(tmp_path: Path) -> None:
    good, bad = snapshot(["a"]), snapshot(["a"], mark=1)
    before = SnapshotCache(history=History(tmp_path))
    before.set(GROUP, good, SOURCE)
    acknowledge(before, good)
    before.set(GROUP, bad, SOURCE)
    before.reject(GROUP, "edge-gateway", LISTENER, bad.versions[LISTENER], "cannot bind")

    history = History(tmp_path)
    assert [change.fate for change in history.changes] == [Fate.GOOD, Fate.REJECTED]
    assert history.changes[-1].reason == "cannot bind"
    assert history.good(GROUP) == SOURCE
    after = SnapshotCache(history=history)
    after.restore(GROUP, good)
    after.set(GROUP, bad, SOURCE)
    current = after.get(GROUP)
    assert current is not None
    assert current.same_configuration(good)


def test_going_back_to_what_was_good_is_good_without_a_new_acknowledgement(tmp_path: Path) -> None:
    good, bad = snapshot(["a"]), snapshot(["a"], mark=1)
    cache = SnapshotCache(history=History(tmp_path))
    for offered in (good, bad):
        cache.set(GROUP, offered, SOURCE)
        if offered is good:
            acknowledge(cache, offered)
    cache.reject(GROUP, "n", LISTENER, bad.versions[LISTENER], "no")
    cache.set(GROUP, good, SOURCE)
    assert [change.fate for change in cache.history.changes] == [Fate.GOOD, Fate.REJECTED, Fate.GOOD]


def test_what_is_withheld_is_on_record_once(tmp_path: Path) -> None:
    history = History(tmp_path)
    for _ in range(3):
        history.withheld(GROUP, "abc", "leads nowhere", SOURCE)
    assert [(change.fate, change.reason) for change in history.changes] == [(Fate.WITHHELD, "leads nowhere")]
    assert history.source(GROUP, "abc") == SOURCE


def test_a_broken_file_is_no_history(tmp_path: Path) -> None:
    (tmp_path / "changes.json").write_text('[{"group": 1}]')
    assert not History(tmp_path).changes


def test_sources_are_bounded_and_the_good_one_stays(tmp_path: Path) -> None:
    history = History(tmp_path)
    first = snapshot(["a"])
    history.offered(GROUP, first, SOURCE)
    history.accepted(GROUP, first)
    for mark in range(1, 40):
        history.offered(GROUP, snapshot(["a"], mark=mark), SOURCE)
    assert len(list(tmp_path.glob(f"{GROUP}-*.json"))) <= 18
    assert history.good(GROUP) == SOURCE


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=20))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_group_is_never_told_again_what_it_has_refused(offers: list[tuple[int, bool]]) -> None:
    cache = SnapshotCache(now=time.time)
    refused: set[str] = set()
    for mark, accepted in offers:
        offered = snapshot(["a"], mark=mark)
        cache.set(GROUP, offered)
        current = cache.get(GROUP)
        assert current is not None
        good = cache.good(GROUP)
        if good is not None:
            assert current.configuration not in refused
        if not current.same_configuration(offered):
            continue
        if accepted and current.configuration not in refused:
            acknowledge(cache, current)
        elif good is None or not current.same_configuration(good):
            cache.reject(GROUP, "n", LISTENER, current.versions[LISTENER], "no")
            refused.add(current.configuration)


def test_what_was_refused_for_a_passing_reason_is_offered_again_and_can_become_good(tmp_path: Path) -> None:
    good, bad = snapshot(["a"]), snapshot(["a"], mark=1)
    cache = SnapshotCache(history=History(tmp_path))
    cache.set(GROUP, good, SOURCE)
    acknowledge(cache, good)
    cache.set(GROUP, bad, SOURCE)
    cache.reject(GROUP, "n", LISTENER, bad.versions[LISTENER], "taken")
    assert not cache.retry(GROUP, good.configuration)
    assert cache.retry(GROUP, bad.configuration)
    # An endpoint that changes meanwhile takes nothing back.
    cache.set(GROUP, bad, SOURCE)
    current = cache.get(GROUP)
    assert current is not None
    assert (current.configuration, current.attempt) == (bad.configuration, 1)
    acknowledge(cache, bad)
    assert [change.fate for change in cache.history.changes] == [Fate.GOOD, Fate.REJECTED, Fate.GOOD]
    assert History(tmp_path).refused(GROUP) == []


def test_one_that_is_refused_again_stays_away(tmp_path: Path) -> None:
    good, bad = snapshot(["a"]), snapshot(["a"], mark=1)
    cache = SnapshotCache(history=History(tmp_path))
    cache.set(GROUP, good, SOURCE)
    acknowledge(cache, good)
    cache.set(GROUP, bad, SOURCE)
    for _ in range(2):
        cache.reject(GROUP, "n", LISTENER, bad.versions[LISTENER], "taken")
        current = cache.get(GROUP)
        assert current is not None
        assert current.same_configuration(good)
        cache.retry(GROUP, bad.configuration)
    assert [change.fate for change in History(tmp_path).changes] == [
        Fate.GOOD,
        Fate.REJECTED,
        Fate.REJECTED,
        Fate.OFFERED,
    ]
