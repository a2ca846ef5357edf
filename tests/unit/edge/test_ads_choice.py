"""Which ad is shown: by weight, targeting, schedule, budget and frequency cap, and the same again when repeated."""

import secrets
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import pytest

from public_edge.ads.catalogue import MASKS_MAX, Catalogue, Share
from public_edge.ads.domain import (
    DAY_US,
    DRAWS_MAX,
    SCAN_MAX,
    Campaign,
    Candidate,
    Chooser,
    Creative,
    FrequencyCaps,
    Group,
    Index,
    Targeting,
    Values,
)

NOW_US = 1_700_000_000_000_000


def campaign(
    name: str,
    *,
    slots: tuple[str, ...] = ("top",),
    targeting: Targeting = (),
    weight: int = 1,
    starts_us: int = 0,
    ends_us: int = 0,
    budget: int = 0,
    cap: int = 0,
    version: int = 1,
) -> Campaign:
    creative = Creative(name, f"{name}-creative", name, "https://images.example/x", f"https://shop.example/{name}")
    return Campaign(name, slots, (creative,), targeting, weight, starts_us, ends_us, budget, cap, version)


class Ads:
    """A chooser with its catalogue, as a node has them."""

    def __init__(self, campaigns: Iterable[Campaign], share: Share | None = None) -> None:
        self.catalogue = Catalogue(share or Share())
        self.chooser = Chooser()
        self.apply({entry.campaign_id: entry for entry in campaigns})

    def apply(self, changes: dict[str, Campaign | None], now_us: int = NOW_US) -> None:
        self.catalogue.apply(changes, now_us)
        self.chooser.index = self.catalogue.index()

    def advance(self, now_us: int) -> None:
        waiting = self.chooser.exhausted
        if self.catalogue.advance(now_us, [waiting.popleft() for _ in range(len(waiting))]):
            self.chooser.index = self.catalogue.index()

    def choose(
        self,
        slot: str = "top",
        features: dict[str, str] | None = None,
        viewer: str = "",
        seed: int | None = None,
        now_us: int = NOW_US,
    ) -> str | None:
        seed = secrets.randbits(128) if seed is None else seed
        creative = self.chooser.choose(slot, features or {}, viewer, seed, now_us)
        return creative.campaign_id if creative is not None else None

    def groups(self, slot: str = "top") -> list[Group]:
        return [group for _, groups in self.chooser.index.plans[slot] for group in groups.values()]


def test_campaigns_are_shown_in_proportion_to_their_weights() -> None:
    weights = {"one": 1, "two": 2, "seven": 7}
    ads = Ads(campaign(name, weight=weight) for name, weight in weights.items())
    shown = Counter(ads.choose() for _ in range(20_000))
    for name, weight in weights.items():
        assert shown[name] / 20_000 == pytest.approx(weight / 10, abs=0.02)


def test_weights_hold_across_targeted_and_untargeted_campaigns() -> None:
    ads = Ads([campaign("all", weight=3), campaign("red", targeting=(("colour", "red"),), weight=1)])
    shown = Counter(ads.choose(features={"colour": "red", "size": "m"}) for _ in range(20_000))
    assert shown["red"] / 20_000 == pytest.approx(0.25, abs=0.02)


def test_the_alias_table_gives_each_member_exactly_its_share() -> None:
    ads = Ads(campaign(f"c-{number}", weight=1 + number * number % 13) for number in range(37))
    (group,) = ads.groups()
    share: Counter[str] = Counter()
    for member, keep, other in zip(group.members, group.keep, group.other, strict=True):
        share[member.campaign.campaign_id] += keep / len(group.members)  # type: ignore[assignment]
        share[other.campaign.campaign_id] += (1 - keep) / len(group.members)  # type: ignore[assignment]
    for member in group.members:
        expected = member.campaign.weight / group.total_weight
        assert share[member.campaign.campaign_id] == pytest.approx(expected, abs=1e-9)


def test_every_targeted_feature_must_have_its_value() -> None:
    ads = Ads([campaign("both", targeting=(("colour", "red"), ("size", "m")))])
    assert ads.choose(features={"colour": "red", "size": "m", "more": "x"}) == "both"
    assert ads.choose(features={"colour": "red", "size": "l"}) is None
    assert ads.choose(features={"colour": "red"}) is None
    assert ads.choose() is None


def test_a_campaign_is_shown_in_its_slots_only() -> None:
    ads = Ads([campaign("top", slots=("top",)), campaign("foot", slots=("foot", "side"))])
    assert {ads.choose("top") for _ in range(50)} == {"top"}
    assert {ads.choose("side") for _ in range(50)} == {"foot"}
    assert ads.chooser.index.knows("foot")
    assert not ads.chooser.index.knows("elsewhere")


def test_a_repeated_request_chooses_the_same_on_another_node() -> None:
    campaigns = [campaign(f"c-{number}", weight=number + 1) for number in range(50)]
    one, other = Ads(campaigns), Ads(reversed(campaigns))
    for _ in range(500):
        seed = secrets.randbits(128)
        assert one.choose(seed=seed) == other.choose(seed=seed)


def test_a_campaign_begins_and_ends_on_time() -> None:
    ads = Ads([campaign("timed", starts_us=NOW_US + 1000, ends_us=NOW_US + 2000)])
    assert ads.choose() is None
    assert ads.chooser.index.knows("top"), "the slot is known before its campaign begins"
    ads.advance(NOW_US + 1000)
    assert ads.choose(now_us=NOW_US + 1000) == "timed"
    assert ads.choose(now_us=NOW_US + 2000) is None, "even before the index is built again"
    ads.advance(NOW_US + 2000)
    assert not ads.groups()


def test_a_budget_is_given_out_and_no_more() -> None:
    ads = Ads([campaign("short", budget=5, weight=1_000_000), campaign("endless")])
    shown = Counter(ads.choose() for _ in range(100))
    assert shown == {"short": 5, "endless": 95}
    ads.advance(NOW_US)
    (group,) = ads.groups()
    assert [member.campaign.campaign_id for member in group.members] == ["endless"]


def test_the_nodes_shares_add_up_to_the_budget() -> None:
    for budget in (0, 1, 5, 6, 100, 1_000_001):
        assert sum(Share(6, index).of(budget) for index in range(6)) == budget


def test_a_changed_campaign_gets_the_budget_of_its_new_version_and_an_unchanged_one_keeps_count() -> None:
    ads = Ads([campaign("c", budget=2)])
    assert [ads.choose(), ads.choose(), ads.choose()] == ["c", "c", None]
    ads.apply({"c": campaign("c", budget=2)})
    assert ads.choose() is None
    ads.apply({"c": campaign("c", budget=1, version=2)})
    assert [ads.choose(), ads.choose()] == ["c", None]


def test_a_viewer_sees_a_capped_campaign_so_often_a_day() -> None:
    ads = Ads([campaign("capped", cap=2, weight=1_000_000), campaign("free")])
    shown = Counter(ads.choose(viewer="alice") for _ in range(20))
    assert shown == {"capped": 2, "free": 18}
    assert ads.choose(viewer="bob") == "capped"
    assert Counter(ads.choose(viewer="alice", now_us=NOW_US + DAY_US) for _ in range(10))["capped"] == 2


def test_the_memory_of_viewers_is_bounded() -> None:
    caps = FrequencyCaps(entries_max=10)
    cap = 1
    for number in range(1000):
        assert caps.take(f"viewer-{number}", "c", cap, NOW_US)
        assert len(caps) <= 10
    assert not caps.take("viewer-999", "c", cap, NOW_US)
    assert len(caps) <= 10


def test_a_viewer_who_comes_again_is_remembered_longer_than_those_who_do_not() -> None:
    caps = FrequencyCaps(entries_max=10)
    cap = 3
    assert [caps.take("regular", "c", cap, NOW_US) for _ in range(3)] == [True] * 3
    for number in range(1000):
        caps.take(f"viewer-{number}", "c", cap, NOW_US)
        assert not caps.take("regular", "c", cap, NOW_US)


def test_one_eligible_campaign_among_many_that_are_not_is_found() -> None:
    exhausted = [campaign(f"c-{number}", budget=1, weight=1_000_000) for number in range(SCAN_MAX - 1)]
    ads = Ads([*exhausted, campaign("last")], Share(6, 5))
    ads.chooser.index = _with_nothing_left(ads)
    assert all(ads.choose() == "last" for _ in range(20))


def test_none_is_shown_when_none_may_be_and_the_search_is_bounded() -> None:
    ads = Ads(campaign(f"c-{number}", budget=1) for number in range(2000))
    looked: list[Candidate] = []
    take = ads.chooser._take

    def counted(candidate: Candidate, viewer: str, number: int, now_us: int) -> Creative | None:
        looked.append(candidate)
        return take(candidate, viewer, number, now_us)

    ads.chooser._take = counted  # type: ignore[method-assign]
    for candidates in (group.members for group in ads.groups()):
        for candidate in candidates:
            candidate.ready = 0
    assert ads.choose() is None
    assert len(looked) <= DRAWS_MAX + SCAN_MAX


def test_the_cost_of_a_choice_does_not_depend_on_the_number_of_campaigns() -> None:
    def looked_up(count: int) -> int:
        ads = Ads(campaign(f"c-{n}", targeting=(("f", str(n % 7)),) if n % 2 else ()) for n in range(count))
        looks = 0

        class Counted(dict[Values, Group]):
            def get(self, key: Values, default: object = None) -> Group | None:  # type: ignore[override]
                nonlocal looks
                looks += 1
                return super().get(key)

        plan = tuple((names, Counted(groups)) for names, groups in ads.chooser.index.plans["top"])
        ads.chooser.index = Index({"top": plan}, ads.chooser.index.creatives)
        for _ in range(100):
            ads.choose(features={"f": "1", "g": "2"})
        return looks

    assert looked_up(10) == looked_up(1_000) == looked_up(20_000)


def test_removing_and_adding_leaves_no_trace() -> None:
    ads = Ads([campaign("a", targeting=(("f", "1"),)), campaign("b")])
    ads.apply({"a": None, "b": None})
    index = ads.chooser.index
    assert (dict(index.plans), dict(index.creatives)) == ({}, {})


def test_feature_sets_beyond_the_bound_are_left_out_and_counted() -> None:
    ads = Ads(campaign(f"c-{number:03}", targeting=((f"f-{number:03}", "x"),)) for number in range(MASKS_MAX + 3))
    assert ads.catalogue.unplaced == 3
    assert len(ads.chooser.index.plans["top"]) == MASKS_MAX
    ads.apply({f"c-{number:03}": None for number in range(MASKS_MAX + 3)})
    assert ads.catalogue.unplaced == 0


def test_only_groups_that_a_change_touches_are_built_again() -> None:
    ads = Ads([campaign("a", slots=("one",)), campaign("b", slots=("two",))])
    before = ads.groups("one") + ads.groups("two")
    ads.apply({"a": campaign("a", slots=("one",), weight=5, version=2)})
    after = ads.groups("one") + ads.groups("two")
    assert [group is was for group, was in zip(after, before, strict=True)] == [False, True]


def test_draws_cover_the_whole_range() -> None:
    ads = Ads(campaign(f"c-{number}") for number in range(3))
    (group,) = ads.groups()
    lowest, highest = ads.choose(seed=0), ads.choose(seed=(1 << 128) - 1)
    assert {lowest, highest} <= {member.campaign.campaign_id for member in group.members}
    assert all(early <= late for early, late in pairwise(sorted(group.keep)))


def _with_nothing_left(ads: Ads) -> Index:
    """The index as it stood before the catalogue took the exhausted campaigns out."""
    fresh = Ads([entry.campaign for entry in ads.catalogue._candidates.values()])
    for group in fresh.groups():
        for member in group.members:
            if member.remaining is not None:
                member.ready = 0
    return fresh.chooser.index
