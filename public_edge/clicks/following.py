"""Following one click, whichever way it came: verify, record durably, name the landing page."""

from isthmus.events.v1 import events_pb2

from mesh.clock import Clock
from mesh.errors import InvalidArgument, NotFound
from public_edge.clicks.domain import Expired, Forged, Landings, Malformed, Replays, Signer, Ticket
from public_edge.http.refusal import LinkExpired, LinkForged
from public_edge.recorder import Recorder, derive
from public_edge.request import Origin
from public_edge.spool.event import Kind


class Follower:
    def __init__(self, signer: Signer, landings: Landings, recorder: Recorder, clock: Clock, node: str) -> None:
        self._signer = signer
        self._landings = landings
        self._recorder = recorder
        self._clock = clock
        self._node = node
        self._replays = Replays()
        self.replayed = 0

    async def follow(self, token: str, source_time_us: int, origin: Origin) -> str:
        """The landing page. The click is on the disk when this returns.

        Raises InvalidArgument, LinkForged, LinkExpired, NotFound (the campaign has gone), Unavailable (not recorded).
        """
        now_us = self._clock.now_us()
        ticket, landing_url = self._read(token, now_us)
        event_id = derive(f"click|{token}|{origin.request_id}")[:16]
        replayed = self._replays.seen(ticket.impression_id, event_id.hex())
        self.replayed += replayed
        event = events_pb2.Click(
            event_id=event_id.hex(),
            source_time_us=source_time_us or now_us,
            accepted_time_us=now_us,
            node=self._node,
            slot=ticket.slot,
            campaign_id=ticket.campaign_id,
            creative_id=ticket.creative_id,
            impression_id=ticket.impression_id.hex(),
            crawler=origin.bot is not None,
            replayed=replayed,
        )
        sequence = self._recorder.write(Kind.CLICK, event_id, origin.traceparent, event.SerializeToString())
        await self._recorder.synced(Kind.CLICK, sequence)
        return landing_url

    def leads_to(self, token: str) -> str:
        """The landing page, for one who looks at the link and does not follow it. Raises as `follow` does."""
        return self._read(token, self._clock.now_us())[1]

    def _read(self, token: str, now_us: int) -> tuple[Ticket, str]:
        try:
            ticket = self._signer.verify(token, now_us // 1_000_000)
        except Malformed:
            raise InvalidArgument("CLICK_TOKEN_MALFORMED", "this is not a click link") from None
        except Forged:
            raise LinkForged("CLICK_TOKEN_FORGED", "this click link was not made here") from None
        except Expired:
            raise LinkExpired("CLICK_TOKEN_EXPIRED", "this click link is no longer valid") from None
        landing_url = self._landings.landing_url(ticket.campaign_id, ticket.creative_id)
        if landing_url is None:
            raise NotFound("CAMPAIGN_GONE", "the campaign of this link has ended")
        return ticket, landing_url
