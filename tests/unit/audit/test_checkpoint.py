"""Checkpoints are signed notes that other tools read too; what another key signed does not count, nor what is torn."""

from pathlib import Path

import pytest

from mesh.errors import FailedPrecondition
from security.audit.checkpoint import Checkpoint, CheckpointFile
from security.audit.note import KeyMalformed, NoteRejected, Signer, Verifier, WrongKey

ORIGIN = "isthmus.internal/audit"
ROOT = bytes(range(32))
# Of Go's golang.org/x/mod/sumdb/note.
FOREIGN_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
FOREIGN_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def signed(tmp_path: Path, size: int = 3) -> tuple[str, Verifier]:
    signer = Signer.open_or_create(tmp_path / "keys" / "checkpoint.key", ORIGIN)
    return signer.sign(Checkpoint(ORIGIN, size, ROOT).text), signer.verifier


def test_a_note_of_another_implementation_is_read() -> None:
    verifier = Verifier.parse(FOREIGN_KEY)
    assert str(verifier) == FOREIGN_KEY
    assert verifier.open(FOREIGN_NOTE) == FOREIGN_NOTE[: FOREIGN_NOTE.index("\n\n") + 1]
    with pytest.raises(NoteRejected, match="does not fit"):
        verifier.open(FOREIGN_NOTE.replace("answer", "Answer"))


def test_a_checkpoint_comes_back_as_it_was_signed(tmp_path: Path) -> None:
    note, verifier = signed(tmp_path)
    assert Checkpoint.open(note, verifier) == Checkpoint(ORIGIN, 3, ROOT)
    assert note.startswith(f"{ORIGIN}\n3\n")


def test_the_key_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    _, first = signed(tmp_path)
    _, second = signed(tmp_path)
    assert first == second
    path = tmp_path / "keys" / "checkpoint.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert Verifier.parse(path.with_suffix(".pub").read_text()) == first
    path.chmod(0o644)
    with pytest.raises(FailedPrecondition, match="KEY_FILE_EXPOSED"):
        signed(tmp_path)


def test_another_key_does_not_count(tmp_path: Path) -> None:
    note, _ = signed(tmp_path / "a")
    _, other = signed(tmp_path / "b")
    with pytest.raises(WrongKey):
        Checkpoint.open(note, other)


@pytest.mark.parametrize("text", ["", "a+b", f"{ORIGIN}+00000000+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"])
def test_a_malformed_key_is_refused(text: str) -> None:
    with pytest.raises(KeyMalformed):
        Verifier.parse(text)


@pytest.mark.parametrize("text", ["", "x\n1\n", f"x\n01\n{'A' * 43}=\n", f"x\n-1\n{'A' * 43}=\n", "x\n1\nAAAA\n"])
def test_text_that_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteRejected):
        Checkpoint.parse(text)


def test_the_file_keeps_every_checkpoint_and_passes_over_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoints.txt"
    file = CheckpointFile(path)
    assert file.newest() is None
    first, second = signed(tmp_path, 3)[0], signed(tmp_path, 4)[0]
    file.append(first)
    with path.open("a") as torn:
        torn.write(second[:-30])
    file.append(second)
    assert file.notes() == [first, second]
    assert file.newest() == second
