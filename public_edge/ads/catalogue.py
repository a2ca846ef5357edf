"""Keeps the index of live campaigns current as campaigns change, begin, end and run out of budget.

Off the hot path: only the groups that a change touches are built again, then the whole is exchanged in one step.
"""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from public_edge.ads.domain import Campaign, Candidate, Creative, Group, Index, Targeting, Values

# Sets of feature names that campaigns of one slot may target; each costs every request of the slot one look-up.
MASKS_MAX = 64

GroupKey = tuple[str, Targeting]


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every budget this node may spend. `index` counts from 0."""

    nodes: int = 1
    index: int = 0

    def of(self, budget: int) -> int:
        """All nodes' parts add up to the budget exactly."""
        return budget // self.nodes + (1 if self.index < budget % self.nodes else 0)


class Catalogue:
    """All campaigns, live or not. Belongs to one thread."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._candidates: dict[str, Candidate] = {}
        self._members: dict[GroupKey, dict[str, Candidate]] = {}
        # By slot and set of feature names.
        self._groups: dict[tuple[str, tuple[str, ...]], dict[Values, Group]] = {}
        self._creatives: dict[str, Mapping[str, Creative]] = {}
        # By slot, how many groups (live or not) use each set of feature names.
        self._masks: dict[str, dict[tuple[str, ...], int]] = {}
        self._boundaries: list[tuple[int, str]] = []
        # Campaigns left out because their slot's masks are at the bound.
        self.unplaced = 0

    def __len__(self) -> int:
        return len(self._candidates)

    def apply(self, changes: Mapping[str, Campaign | None], now_us: int) -> None:
        """Put campaigns by id; None removes. A campaign seen again in the same version keeps what it has spent."""
        touched: set[GroupKey] = set()
        for campaign_id, campaign in changes.items():
            old = self._candidates.get(campaign_id)
            if old is not None:
                touched |= self._remove(old)
            if campaign is not None:
                touched |= self._add(campaign, old, now_us)
        self._rebuild(touched, now_us)

    def advance(self, now_us: int, exhausted: Iterable[Candidate] = ()) -> bool:
        """Take in what time and spending have changed since; true when an index must be made."""
        touched: set[GroupKey] = set()
        for candidate in exhausted:
            touched.update(_keys(candidate.campaign))
        while self._boundaries and self._boundaries[0][0] <= now_us:
            candidate_or_none = self._candidates.get(heapq.heappop(self._boundaries)[1])
            if candidate_or_none is not None:
                touched.update(_keys(candidate_or_none.campaign))
        self._rebuild(touched, now_us)
        return bool(touched)

    def index(self) -> Index:
        plans = {
            slot: tuple([(mask, dict(self._groups.get((slot, mask), {}))) for mask in sorted(masks)])
            for slot, masks in self._masks.items()
        }
        return Index(plans, dict(self._creatives))

    def _add(self, campaign: Campaign, old: Candidate | None, now_us: int) -> set[GroupKey]:
        remaining = self._share.of(campaign.budget_impressions) if campaign.budget_impressions else None
        if old is not None and old.campaign.version == campaign.version:
            remaining = old.remaining
        candidate = Candidate(campaign, remaining)
        self._candidates[campaign.campaign_id] = candidate
        self._creatives[campaign.campaign_id] = {creative.creative_id: creative for creative in campaign.creatives}
        for boundary in (campaign.starts_us, campaign.ends_us):
            if boundary > now_us:
                heapq.heappush(self._boundaries, (boundary, campaign.campaign_id))
        touched = set()
        for key in _keys(campaign):
            slot, mask = key[0], _mask(key[1])
            masks = self._masks.setdefault(slot, {})
            if mask not in masks and len(masks) >= MASKS_MAX:
                self.unplaced += 1
                continue
            members = self._members.setdefault(key, {})
            masks[mask] = masks.get(mask, 0) + 1
            members[campaign.campaign_id] = candidate
            touched.add(key)
        return touched

    def _remove(self, candidate: Candidate) -> set[GroupKey]:
        campaign = candidate.campaign
        del self._candidates[campaign.campaign_id]
        del self._creatives[campaign.campaign_id]
        touched = set()
        for key in _keys(campaign):
            members = self._members.get(key, {})
            if members.pop(campaign.campaign_id, None) is None:
                self.unplaced -= 1
                continue
            slot, mask = key[0], _mask(key[1])
            self._masks[slot][mask] -= 1
            if not self._masks[slot][mask]:
                del self._masks[slot][mask]
            if not self._masks[slot]:
                del self._masks[slot]
            touched.add(key)
        return touched

    def _rebuild(self, touched: Iterable[GroupKey], now_us: int) -> None:
        for key in touched:
            members = self._members.get(key)
            if members is not None and not members:
                del self._members[key]
            live = [
                candidate
                for candidate in (members or {}).values()
                if candidate.campaign.live_at(now_us) and candidate.remaining != 0
            ]
            slot, targeting = key
            groups = self._groups.setdefault((slot, _mask(targeting)), {})
            values = tuple(value for _, value in targeting)
            if live:
                # In order of id, so that nodes with the same campaigns draw the same whatever order these came in.
                live.sort(key=lambda candidate: candidate.campaign.campaign_id)
                groups[values] = Group.of(live)
            else:
                groups.pop(values, None)
                if not groups:
                    del self._groups[slot, _mask(targeting)]


def _keys(campaign: Campaign) -> list[GroupKey]:
    return [(slot, campaign.targeting) for slot in campaign.slots]


def _mask(targeting: Targeting) -> tuple[str, ...]:
    return tuple(name for name, _ in targeting)
