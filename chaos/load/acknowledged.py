"""What the mesh has promised: every acknowledged call, by which it can be held to it."""

from dataclasses import dataclass, field


@dataclass
class Promised:
    """Events of one slot or campaign key: `acknowledged` were answered well; `open` may have happened or not."""

    acknowledged: int = 0
    open: int = 0


@dataclass
class Purchase:
    """One purchase, whose three steps carry idempotency keys made from `number`."""

    number: int
    member_id: str
    amount_minor: int
    pieces: int
    order_id: str = ""
    payment_id: str = ""
    captured: bool = False
    # Trace of each acknowledged call, by the method's path.
    traces: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Acknowledged:
    impressions: dict[str, Promised] = field(default_factory=dict)
    clicks: dict[str, Promised] = field(default_factory=dict)
    pages: Promised = field(default_factory=Promised)
    purchases: list[Purchase] = field(default_factory=list)
    # Orders that were acknowledged and then could not be read, or read as something else.
    stale_reads: list[str] = field(default_factory=list)
    reads: int = 0

    def impression(self, slot: str) -> Promised:
        return self.impressions.setdefault(slot, Promised())

    def click(self, slot: str) -> Promised:
        return self.clicks.setdefault(slot, Promised())
