"""Put the orders process together."""

from isthmus.orders.v1 import orders_pb2_grpc

from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from mesh.database.migrate import Owner, require_current
from mesh.process import Process
from mesh.rounds import Rounds
from mesh.server import ServerBuilder
from private_core.orders.clients import MembersClient, PaymentsClient
from private_core.orders.service import OrdersService, StockService
from private_core.orders.settings import OrdersSettings
from private_core.orders.settlement import Settlement
from private_core.orders.store import OrderStore
from private_core.storage.expiry import Expiry
from security.audit.postgres import PostgresAuditSink
from security.audit.recorder import CallRecorder
from security.audit.removal import Remover
from security.tokens.remote import TokenCheck


async def main(settings: OrdersSettings, process: Process) -> None:
    clock = SystemClock()
    engine = async_engine(settings.database_url, settings.node, pool_size=settings.database_pool_size)
    await require_current(engine, Owner.beside(__file__))

    members = MembersClient(process.channels.open("members"))
    payments = PaymentsClient(process.channels.open("payments"))
    store = OrderStore(engine)
    service = OrdersService(store, members, payments, clock)

    tokens = TokenCheck(settings, process.channels, process.contract)
    sink = PostgresAuditSink(async_engine(settings.database_url, f"{settings.node}-audit", pool_size=1))
    audit = CallRecorder(sink, settings, clock)

    server = ServerBuilder(process, tokens=tokens.rule, audit=audit)
    server.add(orders_pb2_grpc.add_OrdersServicer_to_server, service)
    server.add(orders_pb2_grpc.add_StockServicer_to_server, StockService(store))
    expiry = Expiry.of_idempotency(engine, Remover(settings, clock), "orders", settings.idempotency_s).rounds()
    settlement = Rounds(
        "settlement", Settlement(store, payments, settings.unpaid_s).round, settings.settlement_interval_s
    )
    await process.serve(server.build(), sink, tokens, expiry, settlement)
    await engine.dispose()
