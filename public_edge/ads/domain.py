"""Which ad is shown. Pure rules: campaigns in, a choice out.

Campaigns that may appear in the same slot for the same targeting form a group. A group draws one of its members in
constant time by weight (Walker's alias method in Vose's form, IEEE Trans. Softw. Eng. 17(9), 1991). A request looks
only at the groups whose targeting its features fulfil, found by the sets of feature names that campaigns of the slot
use, so its cost does not depend on the number of campaigns.
"""

from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

Targeting = tuple[tuple[str, str], ...]
# The values of a set of features, in the order of their names; None: not said.
Values = tuple[str | None, ...]

# Draws that may fall on a campaign without budget, or capped for this viewer, before members are tried in order.
DRAWS_MAX = 8
SCAN_MAX = 256
VIEWERS_MAX = 200_000
# Of a budget, what a campaign holds ready to be given out: as far as CPython keeps whole numbers at hand.
READY_MAX = 256
SAME_MAX = 4096
EXHAUSTED_MAX = 100_000
DAY_US = 86_400_000_000
NEVER_US = 1 << 63
_MASK64 = (1 << 64) - 1
_MASK32 = (1 << 32) - 1


@dataclass(slots=True, eq=False)
class Creative:
    """Compared by identity: each is made once for its campaign and version."""

    campaign_id: str
    creative_id: str
    title: str
    image_url: str
    landing_url: str
    # What all its showings share, as it leaves the node; made when it is first shown. Kept here and not in a cache
    # beside: with many campaigns most of a decision's time goes into fetching what no processor cache still holds.
    # Its JSON in an answer, from the end of the impression id to the beginning of the click URL; b"" until it is shown.
    answer: bytes = b""
    # Its fields of an impression, serialized.
    event: bytes = b""
    # Its part of a click token.
    link: bytes = b""


@dataclass(frozen=True, slots=True)
class Campaign:
    campaign_id: str
    slots: tuple[str, ...]
    creatives: tuple[Creative, ...]
    # Feature equalities that must all hold, sorted by name.
    targeting: Targeting = ()
    weight: int = 1
    # Microseconds since the epoch; 0: no bound.
    starts_us: int = 0
    ends_us: int = 0
    # 0: without limit.
    budget_impressions: int = 0
    frequency_cap_per_day: int = 0
    version: int = 0

    def live_at(self, now_us: int) -> bool:
        return self.starts_us <= now_us and (self.ends_us == 0 or now_us < self.ends_us)


class Candidate:
    """A campaign on this node, with what of its budget is left here. Belongs to whoever chooses.

    Holds once more what a choice asks of the campaign: with many campaigns most of a choice's time goes into fetching
    from memory what no processor cache still holds, and so that is one object, and its numbers are shared ones.
    """

    __slots__ = ("_later", "campaign", "campaign_id", "cap", "creatives", "ends_us", "only", "ready")

    def __init__(self, campaign: Campaign, remaining: int | None) -> None:
        """remaining: impressions that this node may still give it; None: without limit."""
        # Impressions that may be given at once; 0: none is left, -1: without limit.
        self.ready = -1 if remaining is None else min(remaining, READY_MAX)
        self._later = 0 if remaining is None else remaining - self.ready
        self.ends_us = _same(campaign.ends_us or NEVER_US)
        self.cap = _same(campaign.frequency_cap_per_day)
        self.campaign_id = campaign.campaign_id
        self.creatives = campaign.creatives
        self.only = campaign.creatives[0] if len(campaign.creatives) == 1 else None
        self.campaign = campaign

    @property
    def remaining(self) -> int | None:
        """In any thread; what is being made ready at that very moment may be missing, and is never there twice."""
        return None if self.ready < 0 else self.ready + self._later

    def refill(self) -> bool:
        """Make more ready when the last that was is given out; false when that was the last of the budget."""
        ready = min(self._later, READY_MAX)
        self._later -= ready
        self.ready = ready
        return ready > 0


@lru_cache(SAME_MAX)
def _same(number: int) -> int:
    """One object for the equal numbers of many campaigns."""
    return number


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The alias table of one slot and targeting: column i gives `members[i]` with chance `keep[i]`, else `other[i]`."""

    total_weight: int
    members: tuple[Candidate, ...]
    keep: "array[float]"
    other: tuple[Candidate, ...]

    @classmethod
    def of(cls, members: Sequence[Candidate]) -> "Group":
        """Build the table in one pass over the members (at least one)."""
        weights = [member.campaign.weight for member in members]
        total, count = sum(weights), len(weights)
        scaled = [weight * count / total for weight in weights]
        keep, other = [1.0] * count, list(members)
        small = [index for index, share in enumerate(scaled) if share < 1.0]
        large = [index for index, share in enumerate(scaled) if share >= 1.0]
        while small and large:
            less, more = small.pop(), large[-1]
            keep[less], other[less] = scaled[less], members[more]
            scaled[more] -= 1.0 - scaled[less]
            if scaled[more] < 1.0:
                small.append(large.pop())
        return cls(total, tuple(members), array("d", keep), tuple(other))

    def draw(self, unit: float) -> Candidate:
        """The member for a number in [0, 1)."""
        position = unit * len(self.members)
        column = int(position)
        return self.members[column] if position - column < self.keep[column] else self.other[column]


# Of one slot: for each set of feature names that its groups target, sorted, the groups by what these must be.
Plan = tuple[tuple[tuple[str, ...], Mapping[Values, Group]], ...]


@dataclass(frozen=True, slots=True)
class Index:
    """Everything a choice looks at. Never changed: an update makes another one."""

    plans: Mapping[str, Plan] = field(default_factory=dict)
    creatives: Mapping[str, Mapping[str, Creative]] = field(default_factory=dict)

    def knows(self, slot: str) -> bool:
        return slot in self.plans

    def landing_url(self, campaign_id: str, creative_id: str) -> str | None:
        creative = self.creatives.get(campaign_id, {}).get(creative_id)
        return creative.landing_url if creative is not None else None

    def matching(self, slot: str, features: Mapping[str, str]) -> tuple[list[Group], int]:
        """The groups of the slot whose targeting the features fulfil, and their weight together."""
        found, total, value_of = [], 0, features.get
        for names, groups in self.plans.get(slot, ()):
            group = groups.get(tuple(map(value_of, names)))
            if group is not None:
                found.append(group)
                total += group.total_weight
        return found, total


class FrequencyCaps:
    """How often each viewer has seen each capped campaign today (UTC). Bounded: what was longest not seen is forgotten.

    Two generations of plain counts, the older given up whole when the younger is full: half the memory traffic of
    keeping every entry in order.
    """

    def __init__(self, entries_max: int = VIEWERS_MAX) -> None:
        self._generation_max = entries_max // 2
        self._day = 0
        self._young: dict[tuple[str, str], int] = {}
        self._old: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def take(self, viewer: str, campaign_id: str, cap: int, now_us: int) -> bool:
        """Count one more; false, and nothing counted, when the viewer has seen it `cap` times."""
        today = now_us // DAY_US
        if today != self._day:
            self._day, self._young, self._old = today, {}, {}
        key = (viewer, campaign_id)
        seen = self._young.get(key)
        if seen is None:
            seen = self._old.pop(key, 0)
            if len(self._young) >= self._generation_max:
                self._young, self._old = {}, self._young
        if seen >= cap:
            self._young[key] = seen
            return False
        self._young[key] = seen + 1
        return True


def numbers(seed: int) -> Iterator[int]:
    """64-bit numbers that follow from the seed alone (SplitMix64), so that a repeated request draws the same."""
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & _MASK64
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK64
        yield mixed ^ (mixed >> 31)


class Chooser:
    """Chooses from the newest index, one choice at a time; `index` may be replaced by another at any time."""

    def __init__(self, caps: FrequencyCaps | None = None) -> None:
        self.index = Index()
        self.caps = caps or FrequencyCaps()
        # Campaigns whose share of the budget has been given out here, for whoever rebuilds the index.
        self.exhausted: deque[Candidate] = deque(maxlen=EXHAUSTED_MAX)

    def landing_url(self, campaign_id: str, creative_id: str) -> str | None:
        """Where a click on this creative leads; None when it is no longer in the snapshot."""
        return self.index.landing_url(campaign_id, creative_id)

    def choose(self, slot: str, features: Mapping[str, str], viewer: str, seed: int, now_us: int) -> Creative | None:
        """The creative to show, counted against budget and cap; None when no campaign may be shown.

        seed: 128 random bits that are the same when the request is repeated.
        Cost: the slot's masks plus at most DRAWS_MAX draws, then at most SCAN_MAX members.
        """
        groups, total = self.index.matching(slot, features)
        if not groups:
            return None
        # The first draw takes its numbers straight from the seed, which is all that most requests need.
        group = _by_weight(groups, (seed & _MASK32) * 2.0**-32 * total)
        creative = self._take(group.draw((seed >> 75) * 2.0**-53), viewer, (seed >> 32) & _MASK32, now_us)
        if creative is not None:
            return creative
        draws = numbers(seed & _MASK64)
        for _ in range(DRAWS_MAX - 1):
            group = _by_weight(groups, _unit(next(draws)) * total)
            creative = self._take(group.draw(_unit(next(draws))), viewer, next(draws), now_us)
            if creative is not None:
                return creative
        for candidate in _scan(groups, next(draws)):
            creative = self._take(candidate, viewer, next(draws), now_us)
            if creative is not None:
                return creative
        return None

    def _take(self, candidate: Candidate, viewer: str, number: int, now_us: int) -> Creative | None:
        """One of the campaign's creatives, counted; None, and nothing counted, when the campaign may not be shown."""
        ready = candidate.ready
        if not ready or now_us >= candidate.ends_us:
            return None
        if candidate.cap and viewer and not self.caps.take(viewer, candidate.campaign_id, candidate.cap, now_us):
            return None
        if ready > 1:
            candidate.ready = ready - 1
        elif ready == 1 and not candidate.refill():
            self.exhausted.append(candidate)
        return candidate.only or candidate.creatives[number % len(candidate.creatives)]


def _unit(number: int) -> float:
    """A 64-bit number as one in [0, 1): the top 53 bits, so that it never rounds up to 1."""
    return (number >> 11) * 2.0**-53


def _by_weight(groups: Sequence[Group], at: float) -> Group:
    """The group on which a number below the weight of all falls."""
    for group in groups:
        at -= group.total_weight
        if at < 0:
            return group
    return groups[-1]


def _scan(groups: Sequence[Group], number: int) -> Iterator[Candidate]:
    """Members in order from a drawn place, at most SCAN_MAX in all, shared evenly among the groups."""
    share = max(1, SCAN_MAX // len(groups))
    for group in groups:
        count = len(group.members)
        first = number % count
        for step in range(min(share, count)):
            yield group.members[(first + step) % count]
