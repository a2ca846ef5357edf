"""How fast MirrorMaker 2 copies a topic, and how fast the Debezium JDBC sink lands one in PostgreSQL.

Both run on Kafka Connect in a JVM of their own, with as many tasks as the topic has partitions. The sink is told the
schema once, so that its records carry none, and writes in batches of the size of our worker's, each event id once.
Their command lines are printed.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewTopic
from sqlalchemy import make_url

from chaos.bench.tools import BenchError, free_ports, stop
from chaos.load.impressions import ImpressionRow
from deploy.local.kafka import broker
from deploy.local.mesh import LocalMesh

# As much memory as Kafka Connect's own scripts give it.
JVM: Final = ("-Xms256m", "-Xmx2g", "-XX:+UseSerialGC")
PARTITIONS: Final = 4
BATCH: Final = 5_000
WAIT_S: Final = 300.0
_TOPIC: Final = "bench.impression.json"
_POM: Final = Path(__file__).with_name("pom.xml")
_FETCH_S: Final = 600.0
# The columns of the sink's table, with the types of Connect's schema and of PostgreSQL.
_COLUMNS: Final = (
    ("event_id", "string", "uuid PRIMARY KEY"),
    ("source_time_us", "int64", "bigint"),
    ("accepted_time_us", "int64", "bigint"),
    ("node", "string", "text"),
    ("crawler", "boolean", "boolean"),
    ("slot", "string", "text"),
    ("campaign_id", "string", "text"),
    ("creative_id", "string", "text"),
    ("features", "string", "jsonb"),
)


def fetch(cache: Path) -> Path:
    """The directory of the peers' jars; fetched once. Raises BenchError."""
    libraries = (cache / "peers" / "libs").absolute()
    if not any(libraries.glob("debezium-connector-jdbc-*.jar")):
        command = ["mvn", "--quiet", "--batch-mode", "--strict-checksums", "-f", str(_POM)]
        command += ["dependency:copy-dependencies", f"-DoutputDirectory={libraries}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FETCH_S)
        except FileNotFoundError:
            raise BenchError("Maven is missing: run `make setup`") from None
        if done.returncode:
            raise BenchError(f"the peers cannot be fetched: {done.stdout[-500:]}")
    return libraries


@dataclass(frozen=True)
class Pace:
    """From the first batch seen to the last, or to the end of the time a peer is given; the remark says so then."""

    per_s: float
    remark: str = ""


def debezium(mesh: LocalMesh, rows: Sequence[ImpressionRow], events: int, work: Path) -> Pace:
    """Rows per second from a filled topic to PostgreSQL. Raises BenchError."""
    _fill(mesh, rows, events)
    table = ", ".join(f"{name} {kind}" for name, _, kind in _COLUMNS)
    schema = {
        "type": "struct",
        "name": "impression",
        "fields": [{"field": name, "type": kind, "optional": False} for name, kind, _ in _COLUMNS],
    }
    (port,) = free_ports(1)
    worker = {
        "bootstrap.servers": mesh.kafka_bootstrap,
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "true",
        "value.converter.schema.content": json.dumps(schema),
        "offset.storage.file.filename": str(work / "offsets"),
        "plugin.discovery": "service_load",
        "listeners": f"http://127.0.0.1:{port}",
        "offset.flush.interval.ms": "5000",
        "consumer.max.poll.records": str(BATCH),
        "consumer.fetch.min.bytes": str(1 << 20),
        **_tls(mesh, ""),
        **_tls(mesh, "consumer."),
    }
    sink = {
        "name": "bench-sink",
        "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
        "tasks.max": str(PARTITIONS),
        "topics": _TOPIC,
        "connection.url": _jdbc(mesh),
        "connection.username": str(make_url(mesh.database_url).username),
        "connection.password": "none",
        "insert.mode": "upsert",
        "primary.key.mode": "record_value",
        "primary.key.fields": "event_id",
        "schema.evolution": "none",
        "collection.name.format": "bench.peer",
        "batch.size": str(BATCH),
    }
    files = [_properties(work / f"{name}.properties", told) for name, told in (("worker", worker), ("sink", sink))]
    with psycopg.connect(_libpq(mesh), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS bench")
        connection.execute("DROP TABLE IF EXISTS bench.peer")
        connection.execute(f"CREATE TABLE bench.peer ({table})")

        def landed() -> int:
            ((count,),) = connection.execute("SELECT count(*) FROM bench.peer").fetchall()
            return int(count)

        with _running("org.apache.kafka.connect.cli.ConnectStandalone", files, mesh, work) as log:
            return _pace(landed, events, log)


def mirror(mesh: LocalMesh, topic: str, events: int, work: Path) -> Pace:
    """Records per second from a topic to another of the same broker. Raises BenchError."""
    told = {
        "clusters": "one, other",
        "one.bootstrap.servers": mesh.kafka_bootstrap,
        "other.bootstrap.servers": mesh.kafka_bootstrap,
        "one->other.enabled": "true",
        "one->other.topics": topic,
        "tasks.max": str(PARTITIONS),
        "sync.topic.acls.enabled": "false",
        "emit.heartbeats.enabled": "false",
        "emit.checkpoints.enabled": "false",
        "one.consumer.max.poll.records": str(BATCH),
        **dict.fromkeys(
            (
                "replication.factor",
                "offset-syncs.topic.replication.factor",
                "heartbeats.topic.replication.factor",
                "checkpoints.topic.replication.factor",
                "offset.storage.replication.factor",
                "status.storage.replication.factor",
                "config.storage.replication.factor",
            ),
            "1",
        ),
        **_tls(mesh, "one."),
        **_tls(mesh, "other."),
    }
    file = _properties(work / "mirror.properties", told)
    reader = Consumer(
        broker.client_settings(mesh.home.identity("kafka"), mesh.kafka_bootstrap) | {"group.id": "isthmus.bench"}
    )
    places = [TopicPartition(f"one.{topic}", number) for number in range(PARTITIONS)]

    def copied() -> int:
        known = reader.list_topics(timeout=10).topics
        if places[0].topic not in known or len(known[places[0].topic].partitions) < PARTITIONS:
            return 0
        try:
            ends = [reader.get_watermark_offsets(place, timeout=10) for place in places]
        except KafkaException:
            # A topic that has only just been made may have no leader yet.
            return 0
        return sum(end[1] for end in ends if end is not None)

    try:
        with _running("org.apache.kafka.connect.mirror.MirrorMaker", [file], mesh, work) as log:
            return _pace(copied, events, log)
    finally:
        reader.close()


def _pace(count: Callable[[], int], events: int, log: Path) -> Pace:
    deadline = time.monotonic() + WAIT_S
    first: tuple[float, int] | None = None
    while time.monotonic() < deadline:
        done, now = count(), time.perf_counter()
        if done and first is None:
            first = (now, done)
        if first is not None and done >= events:
            return Pace((done - first[1]) / (now - first[0]) if done > first[1] else float("inf"))
        time.sleep(0.05)
    if first is None or done == first[1]:
        raise BenchError(f"only {done:,} of {events:,} within {WAIT_S:.0f} s: see {log}")
    return Pace((done - first[1]) / (now - first[0]), f" ({done:,} of {events:,} in {WAIT_S:.0f} s)")


@contextlib.contextmanager
def _running(main: str, files: Sequence[Path], mesh: LocalMesh, work: Path) -> Iterator[Path]:
    """Run it until the block ends; its log."""
    libraries = fetch(mesh.settings.cache)
    log = work / f"{main.rpartition('.')[2]}.log"
    command = ["java", *JVM, "-cp", f"{libraries}/*", main, *map(str, files)]
    print(" ".join(command), flush=True)
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=work)
    try:
        yield log
    finally:
        stop(process)


def _fill(mesh: LocalMesh, rows: Sequence[ImpressionRow], events: int) -> None:
    """The same events as JSON, in a topic of its own."""
    identity = mesh.home.identity("kafka")
    topic = NewTopic(_TOPIC, num_partitions=PARTITIONS, replication_factor=1)
    # The client must outlive its answer.
    admin = broker.admin(identity, mesh.kafka_bootstrap)
    admin.create_topics([topic])[_TOPIC].result(30)
    settings = broker.client_settings(identity, mesh.kafka_bootstrap)
    producer = Producer({**settings, "linger.ms": 20, "compression.type": "lz4"})
    for number in range(events):
        row = rows[number % len(rows)]
        event: dict[str, Any] = {
            "event_id": f"{0xDB:08x}{number:024x}",
            "source_time_us": row.source_time_us,
            "accepted_time_us": time.time_ns() // 1000,
            "node": "edge-1",
            "crawler": False,
            "slot": row.slot,
            "campaign_id": f"{row.collection}-{row.item}",
            "creative_id": f"{row.collection}-{row.item}-1",
            "features": json.dumps(dict(row.features)),
        }
        while True:
            try:
                producer.produce(_TOPIC, json.dumps(event).encode(), event["event_id"])
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(WAIT_S):
        raise BenchError("Kafka did not take all events in time")


def _tls(mesh: LocalMesh, prefix: str) -> dict[str, str]:
    identity = mesh.home.identity("kafka")
    return {
        f"{prefix}security.protocol": "SSL",
        f"{prefix}ssl.keystore.type": "PEM",
        f"{prefix}ssl.keystore.location": str(identity / "keypair.pem"),
        f"{prefix}ssl.truststore.type": "PEM",
        f"{prefix}ssl.truststore.location": str(identity / "bundle.pem"),
    }


def _jdbc(mesh: LocalMesh) -> str:
    """The mesh's database by its socket; texts are cast by PostgreSQL."""
    url = make_url(mesh.database_url)
    socket = f"{url.query['host']}/.s.PGSQL.5432"
    return (
        f"jdbc:postgresql://localhost/{url.database}?socketFactory=org.newsclub.net.unix.AFUNIXSocketFactory$FactoryArg"
        f"&socketFactoryArg={socket}&sslmode=disable&stringtype=unspecified&reWriteBatchedInserts=true"
    )


def _libpq(mesh: LocalMesh) -> str:
    return mesh.database_url.replace("postgresql+psycopg://", "postgresql://", 1)


def _properties(path: Path, told: Mapping[str, str]) -> Path:
    path.write_text("".join(f"{name}={value}\n" for name, value in told.items()))
    return path
