"""Who leads the others of a workload at this moment."""

from collections import Counter

from confluent_kafka import KafkaException

from chaos.drill.target import Target
from deploy.local import replication
from deploy.local.errors import LauncherError
from deploy.local.kafka import broker

METADATA_S = 10.0


class NoLeader(LauncherError):
    """A workload without one, or nobody knows."""

    exit_code = 25


def leader(target: Target, workload: str) -> str:
    """Of postgres the node that takes writes, of kafka the broker that leads most partitions.

    Raises:
        NoLeader: the workload has none, or does not say.
    """
    if workload == "postgres":
        return replication.read(target.home).primary
    if workload != broker.WORKLOAD:
        raise NoLeader(f"{workload} has no node that leads the others", "Name a process")
    brokers = target.table.of(workload)
    try:
        admin = broker.admin(target.kafka_identity, target.kafka_bootstrap)
        topics = admin.list_topics(timeout=METADATA_S).topics.values()
    except KafkaException as error:
        raise NoLeader(f"Kafka does not say who leads: {error}", "See its log") from error
    leads = Counter(partition.leader for topic in topics for partition in topic.partitions.values())
    return max((one.name for one in brokers), key=lambda name: leads[broker.node_id(name)])
