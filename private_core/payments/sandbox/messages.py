"""The sandbox's operations as it tells and states them."""

from isthmus.payments.v1 import provider_pb2 as pb

from private_core.payments.sandbox.journal import Entry
from private_core.translation import money_message


def operation_message(entry: Entry) -> pb.ProviderOperation:
    return pb.ProviderOperation(
        operation_id=entry.key,
        kind=entry.kind,
        reference=entry.reference,
        amount=money_message(entry.amount),
        approved=entry.approved,
        provider_id=entry.provider_id,
        time_us=entry.time_us,
    )
