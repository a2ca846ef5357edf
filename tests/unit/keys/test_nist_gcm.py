"""NIST's vectors for AES-256-GCM (CAVP, CAVS 14.0), driven through our own wrapper."""

from collections.abc import Iterator
from unittest import mock

import cryptography_vectors
import pytest

from mesh.errors import DataLoss
from security.keys.aead import NONCE_BYTES, TAG_BYTES, Aead
from security.keys.errors import EnvelopeRejected


def cases(name: str) -> Iterator[dict[str, bytes | None]]:
    """The cases of a file; PT is None where decryption must fail."""
    case: dict[str, bytes | None] = {}
    with cryptography_vectors.open_vector_file(f"ciphers/AES/GCM/{name}", "r") as file:
        for line in file:
            field, _, value = line.strip().partition(" =")
            if field == "FAIL":
                case["PT"] = None
            elif field in ("Key", "IV", "CT", "AAD", "Tag", "PT"):
                case[field] = bytes.fromhex(value)
            if {"Key", "IV", "CT", "AAD", "Tag", "PT"} <= case.keys():
                yield case
                case = {}


@pytest.mark.parametrize(
    ("name", "opened_min", "forged_min", "refused_min"),
    [("gcmDecrypt256.rsp", 150, 150, 7000), ("gcmEncryptExtIV256.rsp", 375, 0, 7000)],
)
def test_every_vector_is_sealed_opened_or_refused_as_it_says(
    name: str, opened_min: int, forged_min: int, refused_min: int
) -> None:
    opened = forged = refused = 0
    for case in cases(name):
        key, nonce, ciphertext, associated, tag = (case[field] or b"" for field in ("Key", "IV", "CT", "AAD", "Tag"))
        plaintext, aead = case["PT"], Aead(key)
        if len(nonce) != NONCE_BYTES or len(tag) != TAG_BYTES:
            # Other lengths are no form of ours, whatever they would open to.
            with pytest.raises(DataLoss):
                aead.open(nonce, ciphertext + tag, associated)
            refused += 1
        elif plaintext is None:
            with pytest.raises(EnvelopeRejected):
                aead.open(nonce, ciphertext + tag, associated)
            forged += 1
        else:
            assert aead.open(nonce, ciphertext + tag, associated) == plaintext
            with mock.patch("os.urandom", return_value=nonce):
                assert aead.seal(plaintext, associated) == (nonce, ciphertext + tag)
            opened += 1
    assert opened >= opened_min
    assert forged >= forged_min
    assert refused >= refused_min
