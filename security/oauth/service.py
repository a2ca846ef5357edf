"""gRPC: the public keys for services that check tokens, and accounts for members."""

import asyncio
from typing import Any

import grpc
from isthmus.oauth.v1 import oauth_pb2, oauth_pb2_grpc

from security.oauth.signin import Accounts
from security.oauth.signing import SigningKeys


class KeysService(oauth_pb2_grpc.KeysServicer):
    """isthmus.oauth.v1.Keys"""

    def __init__(self, keys: SigningKeys) -> None:
        self._keys = keys

    async def ListKeys(
        self, request: oauth_pb2.ListKeysRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> oauth_pb2.ListKeysResponse:
        return oauth_pb2.ListKeysResponse(jwks=self._keys.published())


class AccountsService(oauth_pb2_grpc.AccountsServicer):
    """isthmus.oauth.v1.Accounts"""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def CreateAccount(
        self, request: oauth_pb2.CreateAccountRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> oauth_pb2.CreateAccountResponse:
        await asyncio.to_thread(self._accounts.create, request.member_id, request.login, request.password)
        return oauth_pb2.CreateAccountResponse(member_id=request.member_id)
