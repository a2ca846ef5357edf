"""What the payments room is told from outside."""

from typing import Final

from pydantic import Field

from private_core.payments.wechat.settings import WechatSettings
from private_core.storage.settings import IdempotencySettings

# What providers commonly keep a hold for.
HOLD_S: Final = 7 * 86_400.0


class PaymentsSettings(IdempotencySettings):
    """Environment ISTHMUS_PROVIDER_*, ISTHMUS_WECHAT, ISTHMUS_HOLD_* and ISTHMUS_SETTLEMENT_*, beside the database's
    and the idempotency records'."""

    # The longest that the provider may take to answer. Less than the callers' deadline, so that silence gets an answer.
    provider_timeout_s: float = Field(default=2.5, gt=0, le=30)
    # The account at WeChat Pay; without one the provider is the sandbox.
    wechat: WechatSettings | None = None
    # How long a hold lasts; what is left of it then is released. Not longer than the provider keeps it.
    hold_s: float = Field(default=HOLD_S, ge=1, le=365 * 86_400)
    # How often operations that nobody finishes any more, and holds whose time is over, are looked for.
    settlement_interval_s: float = Field(default=5.0, gt=0, le=3600)
