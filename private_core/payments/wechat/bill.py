"""The trade bill: what WeChat Pay states of a day of Beijing, as CSV with a backtick before each value."""

import csv
import io
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final
from zoneinfo import ZoneInfo

from mesh.errors import DataLoss
from private_core.payments.statement import Act, Line

BEIJING: Final = ZoneInfo("Asia/Shanghai")
CURRENCY: Final = "CNY"
# The prefix of a refund's number says what it was for: a refund, or the release of what was held.
RETURN: Final = "R"
RELEASE: Final = "L"
_ACTS: Final = {RETURN: Act.RETURN, RELEASE: Act.RELEASE}
_TIME, _TRANSACTION, _ORDER, _STATE, _AMOUNT, _REFUND, _REFUND_NO, _REFUNDED, _REFUND_STATE, _ATTACHED = (
    "交易时间",
    "微信订单号",
    "商户订单号",
    "交易状态",
    "订单金额",
    "微信退款单号",
    "商户退款单号",
    "申请退款金额",
    "退款状态",
    "商户数据包",
)
_SUMMARY: Final = "总交易单数"


def days(day: date) -> tuple[date, date]:
    """The two days of Beijing that hold a day of UTC."""
    return day, day + timedelta(days=1)


def lines(text: str, day: date) -> Iterator[Line]:
    """What the bill states of a day of UTC. Raises DataLoss BILL_UNREADABLE."""
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    for row in rows:
        values = {name: (value or "").removeprefix("`") for name, value in row.items() if name}
        if values.get(_TIME, "").startswith(_SUMMARY) or _SUMMARY in row:
            return
        try:
            line, at = _line(values), datetime.fromisoformat(values[_TIME]).replace(tzinfo=BEIJING)
        except (KeyError, ValueError, InvalidOperation):
            raise DataLoss("BILL_UNREADABLE", f"line {rows.line_num} of the bill cannot be read") from None
        if at.astimezone(ZoneInfo("UTC")).date() == day:
            yield line


def payment_of(out_trade_no: str) -> str:
    """Our payment's id, of the 32 digits that it was sent as; any other number as it is."""
    digits = out_trade_no
    if len(digits) != 32:
        return digits
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def act_of(out_refund_no: str) -> tuple[Act, str]:
    """What a refund was for, and the operation's id. A number that is none of ours is a refund under that number."""
    act = _ACTS.get(out_refund_no[:1])
    return (Act.RETURN, out_refund_no) if act is None else (act, out_refund_no[1:])


def _line(values: dict[str, str]) -> Line:
    payment_id = payment_of(values[_ORDER])
    if values[_STATE] == "REFUND":
        act, operation_id = act_of(values[_REFUND_NO])
        done = values[_REFUND_STATE] in ("SUCCESS", "PROCESSING")
        return Line(operation_id, act, payment_id, _minor(values[_REFUNDED]), CURRENCY, done, values[_REFUND])
    done = values[_STATE] == "SUCCESS"
    transaction = values[_TRANSACTION]
    # Without what we attach to each order, it is none of ours.
    operation_id = values[_ATTACHED] or values[_ORDER]
    return Line(operation_id, Act.HOLD, payment_id, _minor(values[_AMOUNT]), CURRENCY, done, transaction)


def _minor(yuan: str) -> int:
    minor = Decimal(yuan) * 100
    if minor != int(minor):
        raise ValueError("not a whole number of fen")
    return int(minor)
