"""Calls out: members and payments, over the channels of the mesh."""

import grpc
from isthmus.members.v1 import members_pb2, members_pb2_grpc
from isthmus.payments.v1 import payments_pb2, payments_pb2_grpc

_LIVE = frozenset(
    {payments_pb2.PAYMENT_STATE_PENDING, payments_pb2.PAYMENT_STATE_AUTHORIZED, payments_pb2.PAYMENT_STATE_CAPTURED}
)


class MembersClient:
    """domain.Members over gRPC."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: members_pb2_grpc.MembersAsyncStub = members_pb2_grpc.MembersStub(channel)

    async def registered(self, member_id: str) -> bool:
        answer = await self._stub.CheckMember(members_pb2.CheckMemberRequest(member_id=member_id))
        return answer.registered


class PaymentsClient:
    """domain.Payments over gRPC."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: payments_pb2_grpc.PaymentsAsyncStub = payments_pb2_grpc.PaymentsStub(channel)

    async def any_live(self, order_id: str) -> bool:
        answer = await self._stub.ListPayments(payments_pb2.ListPaymentsRequest(order_id=order_id))
        return any(payment.state in _LIVE for payment in answer.payments)
