"""Put the audit process together."""

from isthmus.audit.v1 import audit_pb2_grpc

from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from mesh.files import DIRECTORY_MODE
from mesh.process import Process
from mesh.rounds import Rounds
from mesh.server import ServerBuilder
from mesh.spiffe import SpiffeId
from security.audit.alerts import RULES, AlertRules, read_rules
from security.audit.checkpoint import CHECKPOINT_FILE, SIGNING_KEY, CheckpointFile, origin
from security.audit.note import Signer
from security.audit.postgres import PostgresAuditSink
from security.audit.recorder import CallRecorder
from security.audit.removal import Remover
from security.audit.retention import INTERVAL_S, LogRetention
from security.audit.sequencer import Sequencer
from security.audit.service import AuditLogService
from security.audit.settings import AuditSettings
from security.audit.store import AuditStore
from security.audit.subjects import Subjects
from security.audit.tree_store import TreeStore
from security.audit.watch import ALERTS_CURSOR, AlertWatch
from security.audit.witness_client import WitnessClient
from security.audit.witnessing import Witnessing


async def main(settings: AuditSettings, process: Process) -> None:
    engine = async_engine(settings.database_url, settings.node, pool_size=settings.database_pool_size)
    sink = PostgresAuditSink(async_engine(settings.database_url, f"{settings.node}-audit", pool_size=1))
    signer = Signer.open_or_create(settings.home / SIGNING_KEY, origin(settings.trust_domain))
    tree = TreeStore(engine, signer, SystemClock())
    kept = [CheckpointFile(settings.home / CHECKPOINT_FILE)]
    every_s = settings.audit_checkpoint_s
    # Once more when it is stopped: it signs what has been written until then.
    sequencer = Rounds("sequencer", Sequencer(tree, signer.verifier, kept).attempt, every_s, once_more=True)
    store = AuditStore(engine)
    beside: list[Rounds] = []
    if settings.witness_address:
        peer = SpiffeId("public", "witness", settings.trust_domain)
        client = WitnessClient(settings.witness_address, peer, process.identity)
        name = f"{settings.trust_domain}/witness"
        beside.append(Rounds("witnessing", Witnessing(store, client, name).attempt, every_s))
    rules = AlertRules(read_rules(settings.audit_alert_rules or RULES), process.contract)
    cursor = settings.home / ALERTS_CURSOR
    cursor.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    watch = AlertWatch(store, rules, settings.audit_alert_webhook, cursor)
    beside.append(Rounds("alerts", watch.round, every_s))
    retention = LogRetention(engine, process.contract, Remover(settings, SystemClock()), signer)
    beside.append(Rounds("audit-retention", retention.round, INTERVAL_S))
    server = ServerBuilder(process, audit=CallRecorder(sink, settings))
    server.add(audit_pb2_grpc.add_AuditLogServicer_to_server, AuditLogService(store, Subjects.below(settings.home)))
    # The sequencer is stopped last but one, so that the process's own last records are under a checkpoint too.
    await process.serve(server.build(), sequencer, sink, *beside)
    await engine.dispose()
