"""Project Wycheproof's vectors for AES-GCM, AES-KWP, HMAC and Ed25519, driven through our own wrappers."""

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from security.audit.note import NoteRejected, Verifier
from security.keys.aead import KEY_BYTES, NONCE_BYTES, TAG_BYTES, Aead
from security.keys.blind_index import INDEX_BYTES, BlindIndex
from security.keys.errors import EnvelopeMalformed, EnvelopeRejected
from security.keys.recovery import unwrap, wrap


def groups_of(name: str) -> list[dict[str, Any]]:
    folder = os.environ.get("ISTHMUS_VECTORS")
    if not folder:
        pytest.skip("NOT TESTED: ISTHMUS_VECTORS names no folder of outside test vectors")
    document = json.loads((Path(folder) / "wycheproof" / name).read_text())
    groups: list[dict[str, Any]] = document["testGroups"]
    return groups


@pytest.fixture(scope="module")
def groups() -> list[dict[str, Any]]:
    return groups_of("aes_gcm_test.json")


def test_supported_parameters_agree_with_every_vector(groups: list[dict[str, Any]]) -> None:
    driven = 0
    for group in groups:
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (KEY_BYTES * 8, NONCE_BYTES * 8, TAG_BYTES * 8):
            continue
        for case in group["tests"]:
            key, nonce, associated, message, ciphertext, tag = (
                bytes.fromhex(case[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")
            )
            driven += 1
            if case["result"] == "valid":
                assert Aead(key).open(nonce, ciphertext + tag, associated) == message, case["tcId"]
                with mock.patch("os.urandom", return_value=nonce):
                    assert Aead(key).seal(message, associated) == (nonce, ciphertext + tag), case["tcId"]
            else:
                with pytest.raises(EnvelopeRejected):
                    Aead(key).open(nonce, ciphertext + tag, associated)
    assert driven >= 60


def test_any_other_parameter_is_refused(groups: list[dict[str, Any]]) -> None:
    refused = 0
    for group in groups:
        if (group["keySize"], group["ivSize"]) == (KEY_BYTES * 8, NONCE_BYTES * 8):
            continue
        for case in group["tests"]:
            with pytest.raises((ValueError, EnvelopeMalformed)):
                Aead(bytes.fromhex(case["key"])).open(
                    bytes.fromhex(case["iv"]), bytes.fromhex(case["ct"] + case["tag"]), bytes.fromhex(case["aad"])
                )
            refused += 1
    assert refused >= 200


def test_a_blind_index_is_the_hmac_of_every_vector_that_is_text() -> None:
    driven = 0
    for group in groups_of("hmac_sha256_test.json"):
        if group["tagSize"] != INDEX_BYTES * 8:
            continue
        for case in group["tests"]:
            try:
                value = bytes.fromhex(case["msg"]).decode()
            except UnicodeDecodeError:
                # An index is of text.
                continue
            made = BlindIndex(bytes.fromhex(case["key"])).of(value)
            assert (made.hex() == case["tag"]) is (case["result"] == "valid"), case["tcId"]
            driven += 1
    assert driven >= 20


def test_a_notes_signature_is_judged_as_every_vector_says() -> None:
    driven = 0
    for group in groups_of("ed25519_test.json"):
        verifier = Verifier("vector", bytes.fromhex(group["publicKey"]["pk"]))
        for case in group["tests"]:
            signature, message = bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"])
            if case["result"] == "valid":
                verifier._check(signature, message)
            else:
                with pytest.raises(NoteRejected):
                    verifier._check(signature, message)
            driven += 1
    assert driven >= 150


def test_keys_are_wrapped_with_padding_as_every_vector_says() -> None:
    driven = refused = 0
    for group in groups_of("aes_kwp_test.json"):
        for case in group["tests"]:
            key, message, wrapped = (bytes.fromhex(case[name]) for name in ("key", "msg", "ct"))
            if group["keySize"] != KEY_BYTES * 8:
                with pytest.raises((ValueError, EnvelopeMalformed)):
                    unwrap(key, wrapped)
                refused += 1
                continue
            driven += 1
            if case["result"] == "invalid":
                with pytest.raises((EnvelopeRejected, EnvelopeMalformed)):
                    unwrap(key, wrapped)
            else:
                assert unwrap(key, wrapped) == message, case["tcId"]
                assert wrap(key, message) == wrapped, case["tcId"]
    assert driven >= 60
    assert refused >= 100
