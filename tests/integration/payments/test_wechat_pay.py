"""Payments by WeChat Pay, over HTTP, at a server that checks and signs as its documentation says."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from isthmus.payments.v1 import notifications_pb2
from isthmus.payments.v1 import payments_pb2 as pb

from mesh.clock import SystemClock
from mesh.errors import DataLoss, FailedPrecondition, MeshError, PermissionDenied, Unavailable
from private_core.money import Money
from private_core.payments.notifications import NotificationService
from private_core.payments.settlement import Settlement
from private_core.payments.wechat.client import WechatPay
from private_core.payments.wechat.notification import Notifications
from private_core.payments.wechat.settings import WechatSettings, account
from tests.integration.payments.conftest import Room
from tests.integration.payments.wechat_pay import API_KEY, APPID, MCHID, WechatPayServer, keys

TODAY = datetime.now(UTC).date()


@dataclass
class Shop:
    """The room, paying by WeChat Pay."""

    room: Room
    far: WechatPayServer
    pay: WechatPay
    notifications: NotificationService

    async def scan(self, number: int = 1, minor: int = 2933) -> pb.AuthorizePaymentResponse:
        """What a member's order is answered: a code to scan."""
        self.room.order(f"order-{number}", minor, currency="CNY")
        request = pb.AuthorizePaymentRequest(idempotency_key=f"key-hold-{number}", order_id=f"order-{number}")
        request.amount.minor, request.amount.currency = minor, "CNY"
        answer: pb.AuthorizePaymentResponse = await self.room.call("AuthorizePayment", request)
        return answer

    async def paid(self, number: int = 1, minor: int = 2933) -> pb.Payment:
        pending = await self.scan(number, minor)
        self.far.pay(pending.payment.payment_id.replace("-", ""))
        return (await self.scan(number, minor)).payment

    async def tell(self, headers: dict[str, str], body: bytes) -> bool:
        told = {name: headers[f"Wechatpay-{name.title()}"] for name in ("timestamp", "nonce", "serial", "signature")}
        request = notifications_pb2.ForwardWechatRequest(body=body, **told)
        return (await self.notifications.ForwardWechat(request, None)).ended

    async def differences(self) -> list[tuple[str, str, str]]:
        return [
            (one.name.value, one.here, one.there) for one in (await self.room.reconciliation.run(TODAY)).differences
        ]


@pytest.fixture
async def shop(room: Room, tmp_path: Path) -> AsyncIterator[Shop]:
    merchant = keys(0)
    far = WechatPayServer(merchant, [keys(1)])
    runner = web.AppRunner(far.app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    far.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    (tmp_path / "certificate.pem").write_bytes(merchant.certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        merchant.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (tmp_path / "api.key").write_bytes(API_KEY)
    settings = WechatSettings(
        mchid=MCHID,
        appid=APPID,
        certificate_file=tmp_path / "certificate.pem",
        key_file=tmp_path / "key.pem",
        api_key_file=tmp_path / "api.key",
        notify_url="https://shop.example/wechat",
        base_url=far.base_url,
    )
    session = aiohttp.ClientSession()
    pay = WechatPay(account(settings), session, SystemClock(), 2.0)
    room.provider = cast(Any, pay)
    room.__post_init__()
    settlement = Settlement(room.store, room.orders, pay)
    wechat = Notifications(pay.certificates, API_KEY, MCHID)
    service = NotificationService(room.store, room.entries, settlement, room.reconciliation, wechat)
    yield Shop(room, far, pay, service)
    await session.close()
    await runner.cleanup()


async def test_a_payer_scans_and_pays_and_the_rest_is_refunded_when_it_is_released(shop: Shop) -> None:
    pending = await shop.scan()
    assert (pending.payment.state, pending.pay_url[:9]) == (pb.PAYMENT_STATE_PENDING, "weixin://")
    assert (await shop.scan()).pay_url == pending.pay_url
    held = await shop.paid()
    assert held.state == pb.PAYMENT_STATE_AUTHORIZED
    await shop.room.capture(held.payment_id, "key-take-1", minor=2000, currency="CNY")
    await shop.room.refund(held.payment_id, "key-back-1", 500, "CNY")
    ended = await shop.room.void(held.payment_id, "key-void-1")
    assert (ended.state, ended.released.minor) == (pb.PAYMENT_STATE_CAPTURED, 933)
    assert sorted(one["amount"]["refund"] for one in shop.far.refunds.values()) == [500, 933]
    assert await shop.differences() == []
    assert (await shop.room.sql("SELECT lines FROM payments.reconciliation"))[0].lines == 3


async def test_the_settlement_ends_what_was_paid_or_closed_while_nobody_asked(shop: Shop) -> None:
    orders = [(await shop.scan(number)).payment for number in (1, 2, 3)]
    settlement = Settlement(shop.room.store, shop.room.orders, shop.pay, abandoned_s=0)
    assert await settlement.round() == 0
    shop.far.pay(orders[0].payment_id.replace("-", ""))
    shop.far.pay(orders[1].payment_id.replace("-", ""), "CLOSED")
    assert await settlement.round() == 2
    states = [(await shop.room.get(one.payment_id)).state for one in orders]
    assert states == [pb.PAYMENT_STATE_AUTHORIZED, pb.PAYMENT_STATE_DECLINED, pb.PAYMENT_STATE_PENDING]


async def test_a_notification_ends_a_payment_once_and_a_changed_or_old_one_is_not_believed(shop: Shop) -> None:
    pending = (await shop.scan()).payment
    number = pending.payment_id.replace("-", "")
    shop.far.pay(number)
    headers, body = shop.far.notification(shop.far.orders[number])
    old = {**headers, "Wechatpay-Timestamp": str(int(headers["Wechatpay-Timestamp"]) - 301)}
    for wrong_headers, wrong_body in (
        (headers, body + b" "),
        (old, body),
        ({**headers, "Wechatpay-Serial": "AB12"}, body),
        ({**headers, "Wechatpay-Signature": "bm8="}, body),
        ({**headers, "Wechatpay-Signature": "!"}, body),
        shop.far.notification({**shop.far.orders[number], "mchid": "1900000002"}),
        shop.far.notification({"nothing": 1}),
    ):
        with pytest.raises(PermissionDenied) as refused:
            await shop.tell(wrong_headers, wrong_body)
        assert refused.value.reason == "NOTIFICATION_UNTRUSTED"
    assert (await shop.room.get(pending.payment_id)).state == pb.PAYMENT_STATE_PENDING
    assert await shop.tell(headers, body)
    assert not await shop.tell(headers, body)
    assert (await shop.room.get(pending.payment_id)).state == pb.PAYMENT_STATE_AUTHORIZED


async def test_a_refund_on_its_way_is_ended_by_its_notification(shop: Shop) -> None:
    held = await shop.paid()
    await shop.room.capture(held.payment_id, "key-take-1")
    shop.far.refund_status = "PROCESSING"
    with pytest.raises(Unavailable) as undecided:
        await shop.room.refund(held.payment_id, "key-back-1", 933, "CNY")
    assert undecided.value.reason == "PROVIDER_UNDECIDED"
    assert (await shop.room.get(held.payment_id)).refunded.minor == 0
    ((number, refund),) = shop.far.refunds.items()
    about = {**refund, "out_refund_no": number, "refund_status": "SUCCESS"}
    assert await shop.tell(*shop.far.notification(about, "refund"))
    assert (await shop.room.refund(held.payment_id, "key-back-1", 933, "CNY")).refunded.minor == 933


async def test_platform_certificates_are_replaced_while_the_old_one_still_signs(shop: Shop) -> None:
    await shop.scan(1)
    first, second = shop.far.platform[0], keys(2)
    # The new one is there before it signs, as the documentation has it.
    shop.far.platform = [second, first]
    await shop.scan(2)
    assert shop.far.asked_certificates == 1
    shop.far.platform = [first, second]
    # An unknown serial makes it ask, but not more often than every ten seconds.
    with pytest.raises(Unavailable) as untrusted:
        await shop.scan(3)
    assert untrusted.value.reason == "PROVIDER_UNTRUSTED"
    shop.pay.certificates._asked_at = -1000.0
    assert (await shop.scan(3)).pay_url
    assert shop.far.asked_certificates == 2


async def test_certificates_that_ran_out_or_are_sealed_for_somebody_else_are_none(shop: Shop) -> None:
    shop.far.platform = [keys(1, days=-1)]
    with pytest.raises(Unavailable) as expired:
        await shop.scan()
    shop.far.platform = [keys(1)]
    shop.pay.certificates._asked_at = None
    shop.pay.certificates._api_key = b"another-key-of-thirty-two-bytes!"
    with pytest.raises(Unavailable) as sealed:
        await shop.scan()
    assert {expired.value.reason, sealed.value.reason} == {"PROVIDER_UNTRUSTED"}


async def test_an_answer_that_was_changed_is_not_believed_and_the_operation_stays_open(shop: Shop) -> None:
    await shop.scan()
    shop.far.tampers = True
    with pytest.raises(Unavailable) as untrusted:
        await shop.scan(2)
    assert untrusted.value.reason == "PROVIDER_UNTRUSTED"
    (row,) = await shop.room.sql(
        "SELECT progress FROM payments.operation JOIN payments.payment USING (payment_id) WHERE order_id = 'order-2'"
    )
    assert row.progress == "open"


async def test_whoever_signs_with_another_key_is_refused(shop: Shop) -> None:
    shop.pay._merchant = replace(shop.pay._merchant, key=keys(2).key)
    with pytest.raises(MeshError) as refused:
        await shop.scan()
    assert refused.value.reason in ("PROVIDER_REFUSED", "PROVIDER_SILENT")


async def test_what_it_does_not_take_is_declined_without_asking(shop: Shop) -> None:
    for amount in (Money(2933, "USD"), Money(0, "CNY")):
        assert (await shop.pay.hold("key", "payment-1", amount)).approved is False
    assert not shop.far.nonces


async def test_more_than_was_paid_is_not_refunded_there(shop: Shop) -> None:
    held = await shop.paid()
    answer = await shop.pay.give_back("key-x", held.payment_id, Money(2934, "CNY"))
    assert answer.approved is False


async def test_a_bill_that_differs_is_named_and_one_that_is_damaged_or_not_made_is_not_read(shop: Shop) -> None:
    held = await shop.paid()
    order = shop.far.orders[held.payment_id.replace("-", "")]
    order["amount"] = {"total": 2934, "currency": "CNY"}
    shop.far.orders["20001"] = {**order, "attach": "", "amount": {"total": 7, "currency": "CNY"}}
    assert await shop.differences() == [("amount-differs", "2933", "2934"), ("unknown-here", "", "hold 7 CNY")]
    shop.far.bill_ready = False
    with pytest.raises(Unavailable) as later:
        await shop.differences()
    assert later.value.reason == "BILL_NOT_MADE"
    shop.far.bill_ready = True
    lines = shop.pay._bill(TODAY + timedelta(days=1))
    shop.far.tampers = True
    with pytest.raises((DataLoss, Unavailable)):
        await lines


async def test_without_an_account_there_nothing_is_forwarded(room: Room) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        await room.notifications.ForwardWechat(notifications_pb2.ForwardWechatRequest(), None)
    assert refused.value.reason == "PROVIDER_OTHER"
