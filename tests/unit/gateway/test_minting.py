"""How a gateway's key gets published."""

import json

import pytest

from mesh.clock import SystemClock
from mesh.errors import DeadlineExceeded
from security.gateway import minting
from security.gateway.minting import Mint


async def test_a_key_whose_answer_is_lost_is_offered_again_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minting, "PUBLISH_RETRY_S", 0.0)
    monkeypatch.setattr(minting, "LEARN_S", 0.0)
    kept: list[str] = []

    async def publish(jwk: str) -> None:
        kept.append(json.loads(jwk)["kid"])
        if len(kept) < 5:
            raise DeadlineExceeded("DEADLINE_EXCEEDED", "the answer was lost")

    mint = Mint("isthmus.internal", publish, SystemClock())
    await mint.start()
    await mint.stop(1)
    assert len(kept) == 5
    assert len(set(kept)) == 1

    await mint.start()
    await mint.stop(1)
    assert len(set(kept)) == 2
