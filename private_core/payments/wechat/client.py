"""WeChat Pay as a provider: native orders, which the payer pays by scanning `pay_url`.

It knows no hold apart from its capture: what the payer has paid is with the merchant. So a hold is the paid order, a
capture only sees that it is paid, and a release is a refund of what is not taken. Each order's number is the payment's
id, each refund's the operation's: asking again under the same number is harmless.
"""

import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from datetime import date, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from mesh.clock import Clock
from mesh.errors import DataLoss, FailedPrecondition, Unavailable
from private_core.money import Money
from private_core.payments import statement
from private_core.payments.domain import ProviderAnswer
from private_core.payments.statement import Act, Line
from private_core.payments.wechat import bill
from private_core.payments.wechat.certificates import Certificates
from private_core.payments.wechat.settings import WechatAccount
from private_core.payments.wechat.signing import Merchant, Signed, Untrusted

_ANSWER_BYTES_MAX: Final = 1 << 20
_BILL_BYTES_MAX: Final = 256 << 20
_CHUNK_BYTES: Final = 1 << 16
_BILL_TIMEOUT_S: Final = 30.0
_DECIDED: Final = {"SUCCESS": True, "REFUND": True, "CLOSED": False, "REVOKED": False, "PAYERROR": False}
_REFUNDED: Final = {"SUCCESS": True, "CLOSED": False, "ABNORMAL": False}
# What refuses the operation itself, and will refuse it again.
_DECLINES: Final = frozenset({"NOT_ENOUGH", "USER_ACCOUNT_ABNORMAL", "TRADE_ERROR", "RULE_LIMIT"})


class WechatPay:
    """domain.Provider and statement.Statements at WeChat Pay."""

    name = "wechat"
    # What is taken is in no bill: it was with the merchant since the payer paid.
    acts = frozenset({Act.HOLD, Act.RELEASE, Act.RETURN})

    def __init__(self, account: WechatAccount, session: aiohttp.ClientSession, clock: Clock, timeout_s: float) -> None:
        self._account = account
        self._merchant = Merchant(account.mchid, account.serial, account.key)
        self._session = session
        self._clock = clock
        self._timeout_s = timeout_s
        self.certificates = Certificates(self._ask_certificates, account.api_key, clock)

    async def hold(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        if amount.currency != bill.CURRENCY or amount.minor == 0:
            # It takes yuan alone, and no orders of nothing.
            return ProviderAnswer(False, "")
        order = await self._order(reference)
        if order is not None and order["trade_state"] in _DECIDED:
            return ProviderAnswer(_DECIDED[order["trade_state"]], order.get("transaction_id", ""))
        expires = datetime.fromtimestamp(self._clock.now_us() // 1_000_000, bill.BEIJING) + timedelta(
            seconds=self._account.pay_within_s
        )
        placed = await self._call(
            "POST",
            "/v3/pay/transactions/native",
            {
                "appid": self._account.appid,
                "mchid": self._account.mchid,
                "description": self._account.description,
                "out_trade_no": _number(reference),
                "time_expire": expires.isoformat(timespec="seconds"),
                "attach": key,
                "notify_url": self._account.notify_url,
                "amount": {"total": amount.minor, "currency": amount.currency},
            },
        )
        return ProviderAnswer(None, "", pay_url=placed["code_url"])

    async def take(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        order = await self._order(reference)
        paid = order is not None and _DECIDED.get(order["trade_state"], False)
        return ProviderAnswer(paid, order.get("transaction_id", "") if order else "")

    async def release(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        return await self._refund(bill.RELEASE + key, reference, amount)

    async def give_back(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        return await self._refund(bill.RETURN + key, reference, amount)

    async def lines(self, day: date) -> AsyncIterator[Line]:
        """What the bills state of one day of UTC. Raises MeshError, Unavailable while a bill is not made yet."""
        count = 0
        for billed in bill.days(day):
            for line in bill.lines(await self._bill(billed), day):
                count += 1
                if count > statement.LINES_MAX:
                    raise statement.too_long(day)
                yield line

    async def _order(self, reference: str) -> dict[str, Any] | None:
        target = f"/v3/pay/transactions/out-trade-no/{_number(reference)}?mchid={self._account.mchid}"
        try:
            order: dict[str, Any] = await self._call("GET", target)
            return order
        except _Refused as refused:
            if refused.reason_there in ("ORDER_NOT_EXIST", "ORDERNOTEXIST"):
                return None
            raise

    async def _refund(self, number: str, reference: str, amount: Money) -> ProviderAnswer:
        if amount.minor == 0:
            return ProviderAnswer(True, "")
        order = await self._order(reference)
        if order is None:
            return ProviderAnswer(False, "")
        asked = {
            "out_trade_no": _number(reference),
            "out_refund_no": number,
            "amount": {"refund": amount.minor, "total": order["amount"]["total"], "currency": amount.currency},
        }
        try:
            refund = await self._call("POST", "/v3/refund/domestic/refunds", asked)
        except _Refused as refused:
            if refused.reason_there in _DECLINES:
                return ProviderAnswer(False, "")
            raise
        return ProviderAnswer(_REFUNDED.get(refund["status"]), refund["refund_id"])

    async def _bill(self, day: date) -> str:
        try:
            where = await self._call("GET", f"/v3/bill/tradebill?bill_date={day.isoformat()}&bill_type=ALL")
        except _Refused as refused:
            if refused.reason_there == "NO_STATEMENT_EXIST":
                return ""
            if refused.reason_there == "STATEMENT_CREATING":
                raise Unavailable("BILL_NOT_MADE", f"the bill of {day} is not made yet", remedy="later") from None
            raise
        status, _, body = await self._exchange("GET", where["download_url"], b"", _BILL_TIMEOUT_S, _BILL_BYTES_MAX)
        if status != HTTPStatus.OK or hashlib.sha1(body).hexdigest() != where["hash_value"]:  # noqa: S324 - its format
            raise DataLoss("BILL_DAMAGED", f"the bill of {day} is not what its hash says")
        return body.decode()

    async def _call(self, method: str, target: str, content: Mapping[str, Any] | None = None) -> Any:
        """The verified answer. Raises Unavailable when none came that can be believed, _Refused for an error."""
        body = b"" if content is None else json.dumps(content, ensure_ascii=False).encode()
        status, signed, answer = await self._exchange(method, target, body, self._timeout_s, _ANSWER_BYTES_MAX)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
            raise _silent()
        try:
            await self.certificates.verify(signed, answer)
            said = json.loads(answer) if answer else {}
        except (Untrusted, ValueError) as error:
            # Nothing is believed of it, so whether it happened is not known.
            raise Unavailable("PROVIDER_UNTRUSTED", f"an answer was not WeChat Pay's: {error}") from error
        if status >= HTTPStatus.BAD_REQUEST:
            raise _Refused(said.get("code", str(status)))
        return said

    async def _ask_certificates(self) -> tuple[Signed, bytes]:
        status, signed, body = await self._exchange("GET", "/v3/certificates", b"", self._timeout_s, _ANSWER_BYTES_MAX)
        if status != HTTPStatus.OK:
            raise _silent()
        return signed, body

    async def _exchange(
        self, method: str, target: str, body: bytes, timeout_s: float, bytes_max: int
    ) -> tuple[int, Signed, bytes]:
        """target: a path, or a URL of the same kind of server. Raises Unavailable PROVIDER_SILENT."""
        url = target if target.startswith("http") else self._account.base_url + target
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        now_s = self._clock.now_us() // 1_000_000
        headers = {
            "Authorization": self._merchant.authorization(method, path, body, now_s, secrets.token_hex(16)),
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "isthmus",
        }
        # What is signed is what is sent: nobody may quote it in another way.
        exact, timeout = URL(url, encoded=True), aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, exact, data=body or None, headers=headers, timeout=timeout
            ) as answer:
                content = bytearray()
                async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                    content += chunk
                    if len(content) > bytes_max:
                        raise DataLoss("PROVIDER_ANSWER_TOO_LARGE", f"an answer has more than {bytes_max} bytes")
                return answer.status, signed_of(answer.headers), bytes(content)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _silent() from error


class _Refused(FailedPrecondition):
    """WeChat Pay said no, in its own words."""

    def __init__(self, reason_there: str) -> None:
        super().__init__(
            "PROVIDER_REFUSED", f"WeChat Pay refused: {reason_there}", remedy="see its documentation of this code"
        )
        self.reason_there = reason_there


def signed_of(headers: Mapping[str, str]) -> Signed:
    return Signed(*(headers.get(f"Wechatpay-{name}", "") for name in ("Timestamp", "Nonce", "Serial", "Signature")))


def _number(reference: str) -> str:
    """An order's number has at most 32 characters; a payment's id without its dashes has just as many."""
    return reference.replace("-", "")


def _silent() -> Unavailable:
    return Unavailable(
        "PROVIDER_SILENT",
        "the payment provider did not answer; whether it acted is not known yet",
        remedy="repeat the call with the same idempotency key",
    )
