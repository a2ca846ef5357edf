"""Topics as a drill attacks them."""

from confluent_kafka import KafkaError, KafkaException

from chaos.drill.target import Target
from deploy.local.errors import LauncherError
from deploy.local.kafka import broker

ANSWER_S = 15.0
REFUSALS = (KafkaError.TOPIC_DELETION_DISABLED, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.INVALID_REQUEST)


class NoAnswer(LauncherError):
    """Whether it is done, nobody knows."""

    exit_code = 26


def deletion_refused(target: Target, topic: str) -> str:
    """Why a topic is not deleted, though the brokers' own identity asks; nothing when it is.

    Raises:
        NoAnswer: the cluster does not say.
    """
    admin = broker.admin(target.kafka_identity, target.kafka_bootstrap)
    try:
        admin.delete_topics([topic], request_timeout=ANSWER_S)[topic].result(timeout=ANSWER_S + 5)
    except KafkaException as error:
        if error.args[0].code() in REFUSALS:
            return str(error.args[0].str())
        raise NoAnswer(f"{topic}: {error.args[0].str()}", "See the broker's log") from error
    return ""
