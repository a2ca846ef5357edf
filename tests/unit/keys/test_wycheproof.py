"""Project Wycheproof's AES-GCM vectors, driven through our own wrapper."""

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from security.keys.aead import KEY_BYTES, NONCE_BYTES, TAG_BYTES, Aead
from security.keys.errors import EnvelopeMalformed, EnvelopeRejected


@pytest.fixture(scope="module")
def groups() -> list[dict[str, Any]]:
    folder = os.environ.get("ISTHMUS_VECTORS")
    if not folder:
        pytest.skip("NOT TESTED: ISTHMUS_VECTORS names no folder of outside test vectors")
    document = json.loads((Path(folder) / "wycheproof" / "aes_gcm_test.json").read_text())
    groups: list[dict[str, Any]] = document["testGroups"]
    return groups


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
