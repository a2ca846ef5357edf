"""Calls out: the authorization server, over the channels of the mesh."""

import grpc
from isthmus.oauth.v1 import oauth_pb2, oauth_pb2_grpc


class AccountsClient:
    """domain.Accounts over gRPC."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: oauth_pb2_grpc.AccountsAsyncStub = oauth_pb2_grpc.AccountsStub(channel)

    async def erase(self, member_id: str) -> None:
        await self._stub.EraseAccount(oauth_pb2.EraseAccountRequest(member_id=member_id))
