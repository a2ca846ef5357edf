"""Put the members process together."""

from isthmus.members.v1 import members_pb2_grpc

from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from mesh.database.migrate import Owner, require_current
from mesh.process import Process
from mesh.rounds import Rounds
from mesh.server import ServerBuilder
from private_core.members.accounts import INTERVAL_S as ACCOUNTS_INTERVAL_S
from private_core.members.accounts import AccountErasure
from private_core.members.clients import AccountsClient
from private_core.members.grades import Grades
from private_core.members.identity import IdentityGraph
from private_core.members.residence import require_region
from private_core.members.retention import INTERVAL_S, MemberRetention
from private_core.members.rotation import KeyRotation
from private_core.members.service import DataKeysService, GradesService, IdentitiesService, MembersService
from private_core.members.settings import MembersSettings
from private_core.members.store import MemberStore
from private_core.storage.expiry import Expiry
from security.audit.postgres import PostgresAuditSink
from security.audit.recorder import CallRecorder
from security.audit.removal import Remover
from security.keys.blind_index import BlindIndex
from security.keys.vault import Vault
from security.tokens.remote import TokenCheck


async def main(settings: MembersSettings, process: Process) -> None:
    clock = SystemClock()
    engine = async_engine(settings.database_url, settings.node, pool_size=settings.database_pool_size)
    await require_current(engine, Owner.beside(__file__))

    await require_region(engine, settings.region)

    kms = await settings.open_kms()
    vault = Vault(kms, settings.tenant, clock=clock)
    phones = BlindIndex(await kms.index_key("members.phone"))
    store = MemberStore(engine, vault, phones, settings.region, clock)
    identifiers = BlindIndex(await kms.index_key("members.identifier"))
    graph = IdentityGraph(engine, identifiers, phones, settings.default_region)
    await store.require_keks(await kms.held())
    bodies = BlindIndex(await kms.index_key("members.idempotency"))
    grades = Grades(engine, clock)
    service = MembersService(store, graph, grades, bodies, settings.default_region, clock)

    tokens = TokenCheck(settings, process.channels, process.contract)
    sink = PostgresAuditSink(async_engine(settings.database_url, f"{settings.node}-audit", pool_size=1))
    audit = CallRecorder(sink, settings, clock)

    server = ServerBuilder(process, tokens=tokens.rule, audit=audit)
    server.add(members_pb2_grpc.add_MembersServicer_to_server, service)
    server.add(members_pb2_grpc.add_IdentitiesServicer_to_server, IdentitiesService(graph, clock))
    server.add(members_pb2_grpc.add_GradesServicer_to_server, GradesService(grades))
    rotation = KeyRotation(engine, kms, vault)
    accounts = AccountsClient(process.channels.open("oauth"))
    server.add(members_pb2_grpc.add_DataKeysServicer_to_server, DataKeysService(store, rotation, accounts, clock))
    remover = Remover(settings, clock)
    expiry = Expiry.of_idempotency(engine, remover, "members", settings.idempotency_s).rounds()
    retention = Rounds("retention", MemberRetention(engine, vault, process.contract, remover).round, INTERVAL_S)
    leavers = Rounds("accounts", AccountErasure(engine, accounts, clock).round, ACCOUNTS_INTERVAL_S)
    await process.serve(server.build(), sink, tokens, expiry, retention, leavers)
    await kms.close()
    await engine.dispose()
