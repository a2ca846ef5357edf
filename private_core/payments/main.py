"""Put the payments process together."""

import aiohttp
from isthmus.payments.v1 import notifications_pb2_grpc, payments_pb2_grpc

from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from mesh.database.migrate import Owner, require_current
from mesh.process import Process
from mesh.rounds import Rounds
from mesh.server import ServerBuilder
from private_core.payments.clients import OrdersClient, SandboxClient
from private_core.payments.notifications import NotificationService
from private_core.payments.reconciliation import INTERVAL_S, Reconciliation
from private_core.payments.reconciliation_store import ReconciliationStore
from private_core.payments.service import LedgerService, PaymentsService
from private_core.payments.settings import PaymentsSettings
from private_core.payments.settlement import Settlement
from private_core.payments.store import PaymentStore
from private_core.payments.wechat.client import WechatPay
from private_core.payments.wechat.notification import Notifications
from private_core.payments.wechat.settings import account
from private_core.storage.expiry import Expiry
from security.audit.postgres import PostgresAuditSink
from security.audit.recorder import CallRecorder
from security.audit.removal import Remover
from security.tokens.remote import TokenCheck


async def main(settings: PaymentsSettings, process: Process) -> None:
    clock = SystemClock()
    engine = async_engine(settings.database_url, settings.node, pool_size=settings.database_pool_size)
    await require_current(engine, Owner.beside(__file__))

    store = PaymentStore(engine)
    orders = OrdersClient(process.channels.open("orders"))
    session = aiohttp.ClientSession()
    provider: SandboxClient | WechatPay
    wechat = None
    if settings.wechat is None:
        provider = SandboxClient(process.channels.open("sandbox-provider"), settings.provider_timeout_s)
    else:
        keys = account(settings.wechat)
        provider = WechatPay(keys, session, clock, settings.provider_timeout_s)
        wechat = Notifications(provider.certificates, keys.api_key, keys.mchid)

    tokens = TokenCheck(settings, process.channels, process.contract)
    sink = PostgresAuditSink(async_engine(settings.database_url, f"{settings.node}-audit", pool_size=1))
    audit = CallRecorder(sink, settings, clock)

    server = ServerBuilder(process, tokens=tokens.rule, audit=audit)
    service = PaymentsService(store, orders, provider, clock, settings.hold_s)
    server.add(payments_pb2_grpc.add_PaymentsServicer_to_server, service)
    settlement = Settlement(store, orders, provider)
    entries = ReconciliationStore(engine)
    reconciliation = Reconciliation(entries, provider, clock)
    server.add(payments_pb2_grpc.add_LedgerServicer_to_server, LedgerService(store, reconciliation))
    notifications = NotificationService(store, entries, settlement, reconciliation, wechat)
    server.add(notifications_pb2_grpc.add_ProviderNotificationsServicer_to_server, notifications)
    await process.serve(
        server.build(),
        sink,
        tokens,
        Rounds("settlement", settlement.round, settings.settlement_interval_s),
        Rounds("reconciliation", reconciliation.round, INTERVAL_S),
        Expiry.of_idempotency(engine, Remover(settings, clock), "payments", settings.idempotency_s).rounds(),
    )
    await session.close()
    await engine.dispose()
