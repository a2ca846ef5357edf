"""A broker's configuration, its command, and the reload of its certificate.

A cluster is one or several processes of the workload `kafka`, each broker and controller in one. With three, every
record has three replicas, and an acknowledged one is on two of them.
"""

import asyncio
import logging
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from deploy.local.errors import LauncherError, ToolMissing
from deploy.local.settings import Home
from deploy.local.topology import Listen, Process

WORKLOAD = "kafka"
REPLICAS_MAX = 3
# A fixed id: a home has exactly one cluster, and a data directory moved between homes stays readable.
CLUSTER_ID = "aXN0aG11cy1sb2NhbC0xMg"
FORMAT_DEADLINE_S = 60.0
JVM = (
    "-Xms96m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    # The optimising compiler would take as much of two cores at each start as all the rest of the start.
    "-XX:TieredStopAtLevel=1",
    "-XX:MaxDirectMemorySize=96m",
    "-XX:ReservedCodeCacheSize=64m",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
)
# CN=<workload>,O=<zone> in either order becomes <workload>.<zone>. Any other subject matches no rule and is refused.
PRINCIPAL_RULES = "RULE:^CN=([a-z0-9-]+),O=([a-z]+)$/$1.$2/,RULE:^O=([a-z]+),CN=([a-z0-9-]+)$/$2.$1/"
LOG4J2 = Path(__file__).with_name("log4j2.yaml")
LISTENERS = ("clients", "controller")
# Only where a link lies between the zones: the private zone then has a listener of its own.
PRIVATE = "private"
# librdkafka writes to standard error while a broker is away; the callers say what matters.
_SILENT = logging.Logger("librdkafka", logging.CRITICAL + 1)


def names(brokers: int) -> tuple[str, ...]:
    """The processes of a cluster of so many."""
    return (WORKLOAD,) if brokers == 1 else tuple(f"{WORKLOAD}-{number}" for number in range(1, brokers + 1))


def node_id(name: str) -> int:
    """The number of a broker in its cluster, from 1."""
    return int(name.removeprefix(WORKLOAD).removeprefix("-") or 1)


def properties(
    home: Home, process: Process, cluster: Sequence[Process], private_advertised: str = ""
) -> dict[str, str]:
    """server.properties of a combined broker and controller, one of `cluster`.

    `private_advertised` is where the private zone finds the broker, when it has a listener of its own.
    """
    kafka, controller, private = process.listen("kafka"), process.listen("raft"), process.listen(PRIVATE)
    assert kafka is not None
    assert controller is not None
    voters = {node_id(one.name): str(one.listen("raft")) for one in cluster}
    more = {
        "listeners": f"CLIENTS://{kafka},CONTROLLER://{controller},PRIVATE://{private}",
        "advertised.listeners": f"CLIENTS://{kafka},PRIVATE://{private_advertised}",
        "listener.security.protocol.map": "CLIENTS:SSL,CONTROLLER:SSL,PRIVATE:SSL",
    }
    return _properties(home, process.name, kafka, controller, voters) | (more if private else {})


def _properties(home: Home, name: str, kafka: Listen, controller: Listen, voters: Mapping[int, str]) -> dict[str, str]:
    identity = home.identity(name)
    replicas = min(len(voters), REPLICAS_MAX)
    # One of three may be away, and an acknowledged record is on another still.
    in_sync = max(1, replicas - 1)
    return {
        "process.roles": "broker,controller",
        "node.id": str(node_id(name)),
        "controller.quorum.voters": ",".join(f"{number}@{address}" for number, address in voters.items()),
        "listeners": f"CLIENTS://{kafka},CONTROLLER://{controller}",
        "advertised.listeners": f"CLIENTS://{kafka}",
        "inter.broker.listener.name": "CLIENTS",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CLIENTS:SSL,CONTROLLER:SSL",
        "log.dirs": str(home.data(name)),
        # TLS 1.3 and nothing else, in both directions: ssl.protocol is what the broker's own client side starts from.
        "ssl.enabled.protocols": "TLSv1.3",
        "ssl.protocol": "TLSv1.3",
        "ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(identity / "keypair.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(identity / "bundle.pem"),
        "ssl.principal.mapping.rules": PRINCIPAL_RULES,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:kafka.public",
        "allow.everyone.if.no.acl.found": "false",
        "auto.create.topics.enable": "false",
        "delete.topic.enable": "false",
        # Also for the topics of the contract: their replicas are the cluster's to choose.
        "default.replication.factor": str(replicas),
        "offsets.topic.replication.factor": str(replicas),
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": str(in_sync),
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": str(replicas),
        "share.coordinator.state.topic.min.isr": str(in_sync),
        "group.initial.rebalance.delay.ms": "0",
        "min.insync.replicas": str(in_sync),
        # An acknowledged record leaves the edge node's spool, so it may not wait long for the disk.
        "log.flush.interval.ms": "500",
        "log.flush.scheduler.interval.ms": "500",
        # A broker that comes back after a kill waits until the controller has forgotten the one before; by default 9 s.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "400",
        # The defaults are those of a large machine.
        "num.network.threads": "2",
        "num.io.threads": "4",
        "num.recovery.threads.per.data.dir": "1",
        "background.threads": "2",
        "log.cleaner.threads": "1",
        "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
        "log.segment.bytes": str(64 * 1024 * 1024),
        "message.max.bytes": str(1024 * 1024),
        "controlled.shutdown.enable": "false",
    }


def command(home: Home, cache: Path, name: str) -> tuple[str, ...]:
    return (*_java(cache), "kafka.Kafka", str(_properties_file(home, name)))


def _java(cache: Path) -> tuple[str, ...]:
    shared = (f"-XX:SharedArchiveFile={archive(cache)}",) if archive(cache).exists() else ()
    return ("java", *JVM, *shared, f"-Dlog4j2.configurationFile={LOG4J2}", "-cp", f"{libraries(cache)}/*")


def libraries(cache: Path) -> Path:
    # Absolute: the JVM takes the archive only for the class path, to the letter, that it was made with.
    return (cache / "kafka" / "libs").absolute()


def archive(cache: Path) -> Path:
    """The classes of a broker as its JVM had them after loading; see archive.py. A broker starts without it too."""
    return (cache / "kafka" / "broker.jsa").absolute()


def _properties_file(home: Home, name: str) -> Path:
    return home.run(name) / "server.properties"


async def prepare(
    home: Home, cache: Path, process: Process, cluster: Sequence[Process], private_advertised: str = ""
) -> None:
    """Write the configuration, and format the data directory once."""
    if not any(libraries(cache).glob("kafka_2.13-*.jar")):
        raise ToolMissing("Kafka's jars are not in the cache", "Run `make setup`, or set ISTHMUS_KAFKA_BOOTSTRAP")
    lines = (f"{name}={value}\n" for name, value in properties(home, process, cluster, private_advertised).items())
    file = _properties_file(home, process.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(lines))
    home.data(process.name).mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _formatted(home, process.name):
        await asyncio.to_thread(_format, home, cache, process.name)


def _formatted(home: Home, name: str) -> bool:
    return (home.data(name) / "meta.properties").exists()


def check_size(home: Home, brokers: int) -> None:
    """Raises LauncherError when the home's records lie with a cluster of another size: they would be passed over."""
    there = [path.parent.name for path in (home.root / "data").glob(f"{WORKLOAD}*/meta.properties")]
    if others := sorted(set(there) - set(names(brokers))):
        size = max(map(node_id, others))
        raise LauncherError(
            f"The events of {home.root} lie with {size} of our brokers, and {brokers} would start without them",
            f"Set ISTHMUS_KAFKA_BROKERS={size}, or ISTHMUS_HOME to another directory",
        )


def _format(home: Home, cache: Path, name: str) -> None:
    # Whatever an interrupted format left would be refused the next time.
    shutil.rmtree(home.data(name))
    home.data(name).mkdir(mode=0o700)
    tool = ("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(_properties_file(home, name)))
    # From the broker's archive, this takes a third of the time.
    done = subprocess.run((*_java(cache), *tool), capture_output=True, text=True, timeout=FORMAT_DEADLINE_S)
    if done.returncode:
        detail = (done.stderr or done.stdout).strip()[-300:]
        raise LauncherError(f"Kafka's data directory cannot be formatted: {detail}", f"See logs/{name}.log")


def client_settings(identity: Path, bootstrap: str) -> dict[str, str | int | float | bool]:
    """librdkafka's settings for mTLS with the identity in a directory."""
    return {
        "bootstrap.servers": bootstrap,
        "security.protocol": "ssl",
        "ssl.ca.location": str(identity / "bundle.pem"),
        "ssl.certificate.location": str(identity / "svid.pem"),
        "ssl.key.location": str(identity / "key.pem"),
        "ssl.endpoint.identification.algorithm": "https",
        "log_level": 2,
    }


def admin(identity: Path, bootstrap: str) -> AdminClient:
    return AdminClient(client_settings(identity, bootstrap), logger=_SILENT)


def ping(home: Home, process: Process, deadline_s: float) -> None:
    """Raises KafkaException while the broker does not answer, AssertionError while its cluster keeps it out.

    Blocks up to `deadline_s`.
    """
    metadata = admin(home.identity(process.name), str(process.listen("kafka"))).list_topics(timeout=deadline_s * 0.8)
    assert node_id(process.name) in metadata.brokers, "its cluster does not let it serve yet"


def reload_certificate(home: Home, process: Process) -> None:
    """Make the broker read its PEM files again, without a restart.

    Writing a listener's keystore location, unchanged, makes a KRaft broker look at the file itself (KAFKA-14136).
    """
    identity = home.identity(process.name)
    private = process.listen(PRIVATE) is not None
    stores = {"keystore": identity / "keypair.pem", "truststore": identity / "bundle.pem"}
    entries = [
        ConfigEntry(f"listener.name.{listener}.ssl.{store}.{key}", value, incremental_operation=AlterConfigOpType.SET)
        for listener in (*LISTENERS, *((PRIVATE,) if private else ()))
        for store, path in stores.items()
        for key, value in (("type", "PEM"), ("location", str(path)))
    ]
    resource = ConfigResource(ResourceType.BROKER, str(node_id(process.name)), incremental_configs=entries)
    # The client must outlive its answers.
    client = admin(identity, str(process.listen("kafka")))
    for answer in client.incremental_alter_configs([resource], request_timeout=10).values():
        answer.result(timeout=15)


async def follow_identity(home: Home, process: Process, poll_s: float = 1.0) -> None:
    """Reload the broker's certificate whenever the identity agent has swapped it. Runs until cancelled."""
    seen = _version(home, process.name)
    while True:
        await asyncio.sleep(poll_s)
        version = _version(home, process.name)
        if version != seen:
            try:
                await asyncio.to_thread(reload_certificate, home, process)
            except Exception:  # noqa: S112  Kafka may be away just now; the old leaf lives on, so try at the next turn.
                continue
            seen = version


def _version(home: Home, name: str) -> str:
    try:
        return os.readlink(home.identity(name))  # noqa: PTH115 (the text of the link, unresolved)
    except OSError:
        return ""
