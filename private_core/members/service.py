"""The Members service: convert, call the domain and the store, convert."""

import dataclasses
import uuid
from typing import Any, Final

from isthmus.members.v1 import members_pb2 as pb
from isthmus.members.v1 import members_pb2_grpc

from mesh.call import current_call
from mesh.clock import Clock
from mesh.contract import load
from mesh.contract.model import DataClass
from mesh.redaction import masked
from private_core.members import domain
from private_core.members.domain import Grade, IdentifierKind, Member, Particulars, Purpose
from private_core.members.grades import Grades
from private_core.members.identity import IdentityGraph
from private_core.members.phone import national, normalised
from private_core.members.rotation import KeyRotation
from private_core.members.store import MemberStore
from private_core.storage.idempotency import Answer, Intent, intent_of
from private_core.translation import current_caller, translated
from security.audit import attached
from security.keys.blind_index import BlindIndex

_PURPOSES: Final = {
    pb.PURPOSE_ACCOUNT: Purpose.ACCOUNT,
    pb.PURPOSE_DELIVERY: Purpose.DELIVERY,
    pb.PURPOSE_SUPPORT: Purpose.SUPPORT,
    pb.PURPOSE_ANALYTICS: Purpose.ANALYTICS,
    pb.PURPOSE_MARKETING: Purpose.MARKETING,
}
_KINDS: Final = {
    pb.IDENTIFIER_KIND_DEVICE: IdentifierKind.DEVICE,
    pb.IDENTIFIER_KIND_PHONE: IdentifierKind.PHONE,
    pb.IDENTIFIER_KIND_OPENID: IdentifierKind.OPENID,
    pb.IDENTIFIER_KIND_UNIONID: IdentifierKind.UNIONID,
}
_GRADES: Final = {pb.GRADE_GENERAL: Grade.GENERAL, pb.GRADE_SENSITIVE: Grade.SENSITIVE}
_GRADE_NUMBERS: Final = {grade: number for number, grade in _GRADES.items()}
_SEES: Final = {Grade.GENERAL: DataClass.PERSONAL, Grade.SENSITIVE: DataClass.SENSITIVE}
_KIND_NUMBERS: Final = {kind: number for number, kind in _KINDS.items()}
_NUMBERS: Final = {purpose: number for number, purpose in _PURPOSES.items()}


class MembersService(members_pb2_grpc.MembersServicer):
    """`bodies` keys the hash of a request's body: a bare hash of a phone number is as good as the number."""

    def __init__(
        self,
        store: MemberStore,
        graph: IdentityGraph,
        grades: Grades,
        bodies: BlindIndex,
        default_region: str,
        clock: Clock,
    ) -> None:
        self._store = store
        self._grades = grades
        self._graph = graph
        self._bodies = bodies
        self._default_region = default_region
        self._clock = clock
        self._fields = load().fields("isthmus.members.v1.Member")

    async def RegisterMember(self, request: pb.RegisterMemberRequest, context: Any) -> pb.RegisterMemberResponse:
        with translated():
            self._store.require_here(request.region)
            phone = normalised(request.phone, self._default_region)
            particulars = Particulars.of(phone, request.name, request.address)
            member = Member(str(uuid.uuid4()), particulars, self._clock.now_us())
            response = pb.RegisterMemberResponse(member_id=member.member_id)
            earlier = await self._store.register(self._intent(request), member, Answer.of(response))
        return response if earlier is None else pb.RegisterMemberResponse.FromString(earlier.give())

    async def GetMember(self, request: pb.GetMemberRequest, context: Any) -> pb.GetMemberResponse:
        with translated():
            domain.require_own(request.member_id, _member())
            member = await self._found(request.member_id)
        return pb.GetMemberResponse(member=self._masked(member))

    async def RevealMember(self, request: pb.RevealMemberRequest, context: Any) -> pb.RevealMemberResponse:
        purpose = _PURPOSES[request.purpose]
        subject = _member()
        own = subject == request.member_id
        highest = DataClass.SENSITIVE
        with translated():
            if not own:
                grade = await self._grades.held(current_caller().subject)
                if grade is None:
                    raise domain.no_grade()
                highest = _SEES[grade]
            consented = own or await self._store.consented(request.member_id, purpose)
            domain.require_purpose(request.member_id, subject, consented)
            member = await self._found(request.member_id)
        # What for is on record with who and whom, and up to which class.
        attached.note(f"PURPOSE_{purpose.name} {highest.name}")
        return pb.RevealMemberResponse(member=self._up_to(member, highest))

    async def SetConsent(self, request: pb.SetConsentRequest, context: Any) -> pb.SetConsentResponse:
        with translated():
            domain.require_own(request.member_id, _member())
        purpose = _PURPOSES[request.purpose]
        await self._store.set_consent(request.member_id, purpose, request.granted, self._clock.now_us())
        await self._store.used(request.member_id)
        attached.note(f"{'GRANTED' if request.granted else 'WITHDRAWN'}_{purpose.name}")
        return pb.SetConsentResponse()

    async def ExportMember(self, request: pb.ExportMemberRequest, context: Any) -> pb.ExportMemberResponse:
        with translated():
            domain.require_own(request.member_id, _member())
            member = await self._found(request.member_id)
        return pb.ExportMemberResponse(
            member=_clear(member),
            consents=[
                pb.Consent(purpose=_NUMBERS[each.purpose], granted=each.granted, time_us=each.time_us)
                for each in await self._store.consents(request.member_id)
            ],
            identifiers=[
                pb.LinkedIdentifier(kind=_KIND_NUMBERS[each.kind], linked_time_us=each.time_us)
                for each in await self._graph.linked(request.member_id)
            ],
        )

    async def CheckMember(self, request: pb.CheckMemberRequest, context: Any) -> pb.CheckMemberResponse:
        return pb.CheckMemberResponse(registered=await self._store.exists(request.member_id))

    async def CountMembers(self, request: pb.CountMembersRequest, context: Any) -> pb.CountMembersResponse:
        return pb.CountMembersResponse(members=await self._store.count())

    async def _found(self, member_id: str) -> Member:
        member = await self._store.find(member_id)
        if member is None:
            raise domain.no_such_member()
        return member

    def _masked(self, member: Member) -> pb.Member:
        """As the contract's masks show it: 138****1234."""
        particulars, fields = member.particulars, self._fields
        return pb.Member(
            member_id=member.member_id,
            phone=masked(national(particulars.phone), fields["phone"]),
            name=masked(particulars.name, fields["name"]),
            address=masked(particulars.address, fields["address"]),
            registered_time_us=member.registered_time_us,
        )

    def _up_to(self, member: Member, highest: DataClass) -> pb.Member:
        """In clear but what is of a higher class."""
        shown, hidden = _clear(member), self._masked(member)
        for name, policy in self._fields.items():
            if policy.data_class > highest:
                setattr(shown, name, getattr(hidden, name))
        return shown

    def _intent(self, request: pb.RegisterMemberRequest) -> Intent:
        intent = intent_of(request, request.idempotency_key)
        return dataclasses.replace(intent, body=self._bodies.of(intent.body.hex()))


def _member() -> str:
    """The member who calls; "" when it is a client for itself."""
    claims = current_call().claims
    return claims.subject if claims is not None and claims.is_member else ""


def _clear(member: Member) -> pb.Member:
    return pb.Member(
        member_id=member.member_id,
        phone=member.particulars.phone,
        name=member.particulars.name,
        address=member.particulars.address,
        registered_time_us=member.registered_time_us,
    )


class IdentitiesService(members_pb2_grpc.IdentitiesServicer):
    """Who is one person."""

    def __init__(self, graph: IdentityGraph, clock: Clock) -> None:
        self._graph = graph
        self._clock = clock

    async def LinkIdentifier(self, request: pb.LinkIdentifierRequest, context: Any) -> pb.LinkIdentifierResponse:
        kind, subject = _KINDS[request.kind], _member()
        with translated():
            if subject:
                domain.require_own(request.member_id, subject)
            await self._graph.link(request.member_id, kind, request.value, self._clock.now_us())
        attached.note(f"LINKED_{kind.name}")
        return pb.LinkIdentifierResponse()

    async def ResolveIdentifier(
        self, request: pb.ResolveIdentifierRequest, context: Any
    ) -> pb.ResolveIdentifierResponse:
        with translated():
            domain.require_system(_member())
            member_id = await self._graph.resolve(_KINDS[request.kind], request.value)
        return pb.ResolveIdentifierResponse(member_id=member_id)

    async def MergeMembers(self, request: pb.MergeMembersRequest, context: Any) -> pb.MergeMembersResponse:
        with translated():
            await self._graph.merge(request.kept_member_id, request.merged_member_id, self._clock.now_us())
        attached.note(f"MERGED_INTO {request.kept_member_id}")
        return pb.MergeMembersResponse()

    async def SplitMember(self, request: pb.SplitMemberRequest, context: Any) -> pb.SplitMemberResponse:
        with translated():
            await self._graph.split(request.merged_member_id, self._clock.now_us())
        return pb.SplitMemberResponse()


class GradesService(members_pb2_grpc.GradesServicer):
    """Who may see others' records, for the operator."""

    def __init__(self, grades: Grades) -> None:
        self._grades = grades

    async def SetGrade(self, request: pb.SetGradeRequest, context: Any) -> pb.SetGradeResponse:
        grade = _GRADES.get(request.grade)
        if grade is None:
            await self._grades.take(request.subject)
            attached.note("GRADE_TAKEN")
            return pb.SetGradeResponse()
        with translated():
            ends_us = await self._grades.give(request.subject, grade, request.days)
        attached.note(f"GRADE_{grade.name} {request.days} days")
        return pb.SetGradeResponse(ends_time_us=ends_us)

    async def ListGrades(self, request: pb.ListGradesRequest, context: Any) -> pb.ListGradesResponse:
        return pb.ListGradesResponse(
            grades=[
                pb.GivenGrade(
                    subject=each.subject,
                    grade=_GRADE_NUMBERS[each.grade],
                    given_time_us=each.given_us,
                    ends_time_us=each.ends_us,
                )
                for each in await self._grades.given()
            ]
        )


class DataKeysService(members_pb2_grpc.DataKeysServicer):
    """Rotation and erasure, for the operator."""

    def __init__(self, store: MemberStore, rotation: KeyRotation, accounts: domain.Accounts, clock: Clock) -> None:
        self._store = store
        self._rotation = rotation
        self._accounts = accounts
        self._clock = clock

    async def GetKeyStatus(self, request: pb.GetKeyStatusRequest, context: Any) -> pb.GetKeyStatusResponse:
        status = await self._rotation.status()
        return pb.GetKeyStatusResponse(
            keks=[
                pb.Kek(id=use.kek.id, version=use.kek.version, held=use.held, data_keys=use.data_keys)
                for use in status.keks
            ],
            remaining=status.remaining,
            erased=status.erased,
        )

    async def AddKek(self, request: pb.AddKekRequest, context: Any) -> pb.AddKekResponse:
        return pb.AddKekResponse(newest_version=await self._rotation.add(request.newest_version))

    async def RewrapDataKeys(self, request: pb.RewrapDataKeysRequest, context: Any) -> pb.RewrapDataKeysResponse:
        rewrapped, remaining = await self._rotation.rewrap(request.limit)
        return pb.RewrapDataKeysResponse(rewrapped=rewrapped, remaining=remaining)

    async def RetireKeks(self, request: pb.RetireKeksRequest, context: Any) -> pb.RetireKeksResponse:
        return pb.RetireKeksResponse(retired=await self._rotation.retire())

    async def EraseMember(self, request: pb.EraseMemberRequest, context: Any) -> pb.EraseMemberResponse:
        # Without it nobody signs in as a member who is no more. A repetition finds nothing left of it.
        await self._accounts.erase(request.member_id)
        with translated():
            erased_time_us = await self._store.erase(request.member_id, self._clock.now_us())
            if erased_time_us is None:
                raise domain.no_such_member()
        return pb.EraseMemberResponse(erased_time_us=erased_time_us)
