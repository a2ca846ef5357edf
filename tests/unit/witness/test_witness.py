"""A witness cosigns what grew out of what it has cosigned, and nothing else (C2SP tlog-witness, tlog-cosignature)."""

import base64
import hashlib
from http import HTTPStatus
from pathlib import Path

import pytest

from mesh.clock import SystemClock
from security.audit.checkpoint import Checkpoint
from security.audit.cosignature import Cosigner, WitnessVerifier, newest_witnessed
from security.audit.findings import KeptNote
from security.audit.merkle import consistency_proof, root
from security.audit.note import NoteRejected, Signer, WrongKey
from security.witness.state import WitnessedLog, WitnessStateDamaged
from security.witness.witness import PROOF_HASHES_MAX, Reply, Witness

ORIGIN = "isthmus.internal/audit"
LEAVES = [hashlib.sha256(bytes([number])).digest() for number in range(20)]
OTHERS = [*LEAVES[:4], *(hashlib.sha256(leaf).digest() for leaf in LEAVES[4:])]


class World:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.signer = Signer.open_or_create(home / "log.key", ORIGIN)
        self.cosigner = Cosigner.open_or_create(home / "witness.key", "isthmus.internal/witness")
        self.witness = self.start()

    def start(self) -> Witness:
        log = WitnessedLog(self.home / "state" / "newest.txt", self.home / "log.pub")
        log.load(self.cosigner.verifier)
        return Witness(log, self.cosigner, SystemClock())

    def note(self, size: int, leaves: list[bytes] = LEAVES, signer: Signer | None = None) -> str:
        return (signer or self.signer).sign(Checkpoint(ORIGIN, size, root(leaves[:size])).text)

    def add(self, old: int, size: int, leaves: list[bytes] = LEAVES, note: str = "") -> Reply:
        proof = consistency_proof(leaves[:size], old) if 0 < old <= size else []
        lines = "".join(f"\n{base64.b64encode(each).decode()}" for each in proof)
        return self.witness.add_checkpoint(f"old {old}{lines}\n\n{note or self.note(size, leaves)}")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_each_checkpoint_that_grew_is_cosigned(world: World) -> None:
    for old, size in ((0, 1), (1, 4), (4, 4), (4, 7), (7, 20)):
        reply = world.add(old, size)
        assert reply.status == HTTPStatus.OK, reply
        cosigned = world.note(size) + reply.body
        assert world.cosigner.verifier.open(cosigned).startswith(f"{ORIGIN}\n{size}\n")
        # The log's own signature counts beside it.
        assert Checkpoint.open(cosigned, world.signer.verifier).size == size


def test_a_forked_log_is_refused(world: World) -> None:
    world.add(0, 7)
    assert world.add(7, 9, OTHERS).status == HTTPStatus.UNPROCESSABLE_ENTITY
    assert world.add(7, 7, OTHERS).status == HTTPStatus.CONFLICT
    assert world.add(7, 9).status == HTTPStatus.OK


def test_a_log_that_fell_back_is_told_what_was_seen(world: World) -> None:
    world.add(0, 7)
    reply = world.add(3, 5)
    assert (reply.status, reply.body, reply.content_type) == (HTTPStatus.CONFLICT, "7\n", "text/x.tlog.size")
    assert world.add(7, 5).status == HTTPStatus.BAD_REQUEST
    assert world.add(0, 5).status == HTTPStatus.CONFLICT


def test_what_was_cosigned_outlives_the_process(world: World) -> None:
    world.add(0, 7)
    world.witness = world.start()
    assert world.add(0, 5).body == "7\n"
    # The key is pinned with the first checkpoint: a new key file changes nothing.
    other = Signer.open_or_create(world.home / "other.key", ORIGIN)
    (world.home / "log.pub").write_text(f"{other.verifier}\n")
    assert world.add(7, 9, note=world.note(9, signer=other)).status == HTTPStatus.FORBIDDEN
    assert world.add(7, 9).status == HTTPStatus.OK


def test_a_state_that_was_changed_stops_the_start(world: World) -> None:
    world.add(0, 7)
    path = world.home / "state" / "newest.txt"
    path.write_text(path.read_text().replace("\n7\n", "\n5\n"))
    with pytest.raises(WitnessStateDamaged):
        world.start()


def test_another_log_is_not_known(world: World) -> None:
    other = Signer.open_or_create(world.home / "other.key", "elsewhere/audit")
    note = other.sign(Checkpoint("elsewhere/audit", 1, root(LEAVES[:1])).text)
    assert world.add(0, 1, note=note).status == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize(
    "body",
    ["", "old", "old -1\n\nx", "old 01\n\nx", "old 0\n\nno checkpoint", "old 0\nnot base64\n\n", "old 0\nAAAA\n\n"],
)
def test_a_malformed_body_is_refused(world: World, body: str) -> None:
    assert world.witness.add_checkpoint(body).status == HTTPStatus.BAD_REQUEST


def test_a_proof_has_a_bound(world: World) -> None:
    line = "\n" + base64.b64encode(bytes(32)).decode()
    body = f"old 0{line * (PROOF_HASHES_MAX + 1)}\n\n{world.note(1)}"
    assert world.witness.add_checkpoint(body).status == HTTPStatus.BAD_REQUEST


def test_a_cosignature_is_over_the_text_and_its_time(world: World) -> None:
    cosigned = world.note(3) + world.add(0, 3).body
    verifier = WitnessVerifier.parse((world.home / "witness.pub").read_text())
    assert verifier == world.cosigner.verifier
    verifier.open(cosigned)
    with pytest.raises(NoteRejected):
        verifier.open(cosigned.replace("\n3\n", "\n4\n"))
    head, _, line = cosigned.rpartition(" ")
    raw = bytearray(base64.b64decode(line))
    # One second of the eight bytes behind the key's id.
    raw[11] ^= 1
    with pytest.raises(NoteRejected):
        verifier.open(f"{head} {base64.b64encode(raw).decode()}\n")
    with pytest.raises(WrongKey):
        verifier.open(world.note(3))


def test_the_newest_witnessed_checkpoint_is_the_largest_that_both_signed(world: World) -> None:
    verifiers = world.signer.verifier, world.cosigner.verifier
    first = world.note(3) + world.add(0, 3).body
    second = world.note(7) + world.add(3, 7).body
    forged = second.replace("\n7\n", "\n9\n")
    kept = [KeptNote(note, "here") for note in (first, second, forged, world.note(9), "nothing")]
    found = newest_witnessed(kept, *verifiers)
    assert found is not None
    assert found.size == 7
    assert newest_witnessed(kept[3:], *verifiers) is None
