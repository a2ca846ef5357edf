"""The keys of members' personal data, as an operator rotates them."""

from isthmus.members.v1 import members_pb2 as pb
from isthmus.members.v1.members_pb2_grpc import DataKeysStub

from chaos.checkers.books import DEADLINE_S, Channel

BATCH = 500


async def rotated(channel: Channel) -> int:
    """Wrap every data key under a new key-encryption key; returns how many of these there are then.

    Raises:
        MeshError: the members' room does not answer.
    """
    keys = DataKeysStub(channel("members"))
    before = await keys.GetKeyStatus(pb.GetKeyStatusRequest(), timeout=DEADLINE_S)
    await keys.AddKek(pb.AddKekRequest(newest_version=before.keks[-1].version), timeout=DEADLINE_S)
    # Each round makes it less, or somebody else does: at most as many rounds as there are keys.
    for _ in range(before.remaining + sum(kek.data_keys for kek in before.keks) + 1):
        answer = await keys.RewrapDataKeys(pb.RewrapDataKeysRequest(limit=BATCH), timeout=DEADLINE_S)
        if not answer.remaining:
            break
    return len((await keys.GetKeyStatus(pb.GetKeyStatusRequest(), timeout=DEADLINE_S)).keks)
