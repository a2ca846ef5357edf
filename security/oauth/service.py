"""gRPC: what services need to check tokens, and accounts for members."""

import asyncio
from typing import Any

import grpc
from isthmus.oauth.v1 import oauth_pb2, oauth_pb2_grpc

from mesh.call import current_call
from mesh.errors import InvalidArgument
from security.oauth.erasure import Erasure
from security.oauth.journal import Caller
from security.oauth.signin import Accounts
from security.oauth.signing import SigningKeys
from security.oauth.trust import Trust
from security.tokens.remote import KINDS


class KeysService(oauth_pb2_grpc.KeysServicer):
    """isthmus.oauth.v1.Keys"""

    def __init__(self, keys: SigningKeys, trust: Trust) -> None:
        self._keys = keys
        self._trust = trust

    async def ListKeys(
        self, request: oauth_pb2.ListKeysRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> oauth_pb2.ListKeysResponse:
        gateway_jwks = await self._trust.jwks(request.key_id)
        return oauth_pb2.ListKeysResponse(jwks=self._keys.published(), gateway_jwks=gateway_jwks)

    async def ListRevocations(
        self, request: oauth_pb2.ListRevocationsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> oauth_pb2.ListRevocationsResponse:
        version = self._trust.version
        if request.version == version:
            return oauth_pb2.ListRevocationsResponse(version=version, unchanged=True)
        answer = oauth_pb2.ListRevocationsResponse(version=version)
        for each in self._trust.revocations:
            answer.revocations.add(kind=KINDS[each.kind], name=each.name, revoked_at=each.revoked_at)
        return answer

    async def PublishGatewayKey(
        self, request: oauth_pb2.PublishGatewayKeyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> oauth_pb2.PublishGatewayKeyResponse:
        try:
            return oauth_pb2.PublishGatewayKeyResponse(key_id=await self._trust.publish(request.jwk))
        except ValueError as error:
            raise InvalidArgument("KEY_INVALID", "not a public P-256 signing key") from error

    async def ReplaceSigningKeys(
        self, request: oauth_pb2.ReplaceSigningKeysRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> oauth_pb2.ReplaceSigningKeysResponse:
        dates = await self._keys.replace()
        signs_from_us = round(dates.not_before.timestamp() * 1e6)
        return oauth_pb2.ReplaceSigningKeysResponse(key_id=dates.kid, signs_from_us=signs_from_us)


class AccountsService(oauth_pb2_grpc.AccountsServicer):
    """isthmus.oauth.v1.Accounts"""

    def __init__(self, accounts: Accounts, erasure: Erasure) -> None:
        self._accounts = accounts
        self._erasure = erasure

    async def CreateAccount(
        self, request: oauth_pb2.CreateAccountRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> oauth_pb2.CreateAccountResponse:
        await asyncio.to_thread(self._accounts.create, request.member_id, request.login, request.password)
        return oauth_pb2.CreateAccountResponse(member_id=request.member_id)

    async def EnrolSecondFactor(
        self, request: oauth_pb2.EnrolSecondFactorRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> oauth_pb2.EnrolSecondFactorResponse:
        uri = await asyncio.to_thread(self._accounts.enrol, request.member_id)
        return oauth_pb2.EnrolSecondFactorResponse(uri=uri)

    async def SignOutEverywhere(
        self, request: oauth_pb2.SignOutEverywhereRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> oauth_pb2.SignOutEverywhereResponse:
        by = Caller(peer=str(current_call().peer), trace_id=current_call().trace_id)
        await asyncio.to_thread(self._accounts.sign_out_everywhere, request.member_id, by)
        return oauth_pb2.SignOutEverywhereResponse()

    async def EraseAccount(
        self, request: oauth_pb2.EraseAccountRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> oauth_pb2.EraseAccountResponse:
        by = Caller(peer=str(current_call().peer), trace_id=current_call().trace_id)
        # First what is open: with the account gone, nobody could end it.
        await asyncio.to_thread(self._accounts.sign_out_everywhere, request.member_id, by)
        await asyncio.to_thread(self._erasure.erase, request.member_id)
        return oauth_pb2.EraseAccountResponse()
