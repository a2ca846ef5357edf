"""What WeChat Pay tells of its own accord: signed by the platform, sealed for the merchant."""

import json
from typing import Any, Final

from private_core.payments.statement import Act, Line
from private_core.payments.wechat import bill
from private_core.payments.wechat.certificates import Certificates
from private_core.payments.wechat.signing import Signed, Untrusted, unseal

_REFUND: Final = "refund"
_TRANSACTION: Final = "transaction"
_PAID: Final = {"SUCCESS": True, "CLOSED": False, "REVOKED": False, "PAYERROR": False}
_REFUNDED: Final = {"SUCCESS": True, "CLOSED": False, "ABNORMAL": False}


class Notifications:
    def __init__(self, certificates: Certificates, api_key: bytes, mchid: str) -> None:
        self._certificates = certificates
        self._api_key = api_key
        self._mchid = mchid

    async def read(self, signed: Signed, body: bytes) -> Line | None:
        """What became of which operation; None while that is not decided. Raises Untrusted, MeshError."""
        await self._certificates.verify(signed, body)
        try:
            resource = json.loads(body)["resource"]
            said = json.loads(unseal(resource, self._api_key))
            if said["mchid"] != self._mchid:
                raise Untrusted("it is about another merchant")
            return _refund(said) if resource.get("original_type") == _REFUND else _paid(said)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Untrusted("it says nothing that can be read") from None


def _paid(said: dict[str, Any]) -> Line | None:
    decided = _PAID.get(said["trade_state"])
    if decided is None:
        return None
    payment_id = bill.payment_of(said["out_trade_no"])
    operation_id = said.get("attach") or said["out_trade_no"]
    amount = said["amount"]
    return Line(
        operation_id,
        Act.HOLD,
        payment_id,
        amount["total"],
        amount.get("currency", bill.CURRENCY),
        decided,
        said.get("transaction_id", ""),
    )


def _refund(said: dict[str, Any]) -> Line | None:
    decided = _REFUNDED.get(said["refund_status"])
    if decided is None:
        return None
    act, operation_id = bill.act_of(said["out_refund_no"])
    payment_id = bill.payment_of(said["out_trade_no"])
    return Line(operation_id, act, payment_id, said["amount"]["refund"], bill.CURRENCY, decided, said["refund_id"])
