"""The keyring is made once, closed to others, keeps its old keys, and stops the start when it is not sound."""

import json
import threading
from pathlib import Path

import pytest

from mesh.errors import FailedPrecondition
from security.keys.aead import SEALED_MAX, Aead
from security.keys.errors import EnvelopeRejected, KekUnknown, KeyExhausted, KeyringBusy, KeyringUnusable
from security.keys.keyring import Keyring
from security.keys.port import KekRef
from security.keys.vault import Vault

KEY = b"\x07" * 32


class Clock:
    now = 0.0

    def now_us(self) -> int:
        return 0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "members" / "keyring.json"


def test_the_file_is_closed_to_others(path: Path) -> None:
    Keyring.open(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_replicas_that_start_together_make_one_keyring(path: Path) -> None:
    rings: list[Keyring] = []
    threads = [threading.Thread(target=lambda: rings.append(Keyring.open(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(rings) == 8
    assert len({ring.id for ring in rings}) == 1
    assert len({ring.index_key("members.phone") for ring in rings}) == 1


async def test_a_key_wrapped_before_a_rotation_unwraps_after_it(path: Path) -> None:
    kek, ciphertext = await Keyring.open(path).wrap(KEY, b"context")
    # Another process that has the same file open takes the new one up without a restart.
    ring, other = Keyring.open(path), Keyring.open(path)
    assert other.rotate(1).version == 2
    assert other.rotate(1).version == 2
    assert await ring.unwrap(kek, ciphertext, b"context") == KEY
    assert (await ring.wrap(KEY, b"context"))[0].version == 2


async def test_a_wrapped_key_is_bound_to_its_context_and_kek(path: Path) -> None:
    ring = Keyring.open(path)
    kek, ciphertext = await ring.wrap(KEY, b"context")
    with pytest.raises(EnvelopeRejected):
        await ring.unwrap(kek, ciphertext, b"another")
    with pytest.raises(KekUnknown):
        await ring.unwrap(KekRef(ring.id, 2), ciphertext, b"context")
    ring.rotate(1)
    with pytest.raises(EnvelopeRejected):
        await Keyring.open(path).unwrap(KekRef(ring.id, 2), ciphertext, b"context")


def test_blind_index_keys_differ_by_name(path: Path) -> None:
    ring = Keyring.open(path)
    assert ring.index_key("members.phone") != ring.index_key("members.email")
    assert ring.index_key("members.phone") == Keyring.open(path).index_key("members.phone")


def test_a_keyring_that_others_can_read_is_refused(path: Path) -> None:
    Keyring.open(path)
    path.chmod(0o640)
    with pytest.raises(FailedPrecondition, match="KEY_FILE_EXPOSED"):
        Keyring.open(path)


@pytest.mark.parametrize("field", ["format", "seal", "keks", "index_key", "id"])
def test_a_damaged_or_newer_keyring_is_refused_without_showing_it(path: Path, field: str) -> None:
    Keyring.open(path)
    document = json.loads(path.read_text())
    secret = document["index_key"]
    document[field] = {"format": 2, "seal": "tpm", "keks": [], "index_key": "c2hvcnQ=", "id": ""}[field]
    path.write_text(json.dumps(document))
    with pytest.raises(KeyringUnusable) as raised:
        Keyring.open(path)
    assert secret not in str(raised.value)


async def test_a_wrapped_key_opens_for_its_own_subject_only(path: Path) -> None:
    vault = Vault(Keyring.open(path), "isthmus")
    _, wrapped = await vault.new_key("member-1")
    assert (await vault.key(wrapped, "member-1")).key_id == wrapped.key_id
    with pytest.raises(EnvelopeRejected):
        await vault.key(wrapped, "member-2")


async def test_cached_keys_are_few_and_short_lived(path: Path) -> None:
    ring = Keyring.open(path)
    unwraps = 0
    unwrap = ring.unwrap

    async def counted(kek: KekRef, ciphertext: bytes, context: bytes) -> bytes:
        nonlocal unwraps
        unwraps += 1
        return await unwrap(kek, ciphertext, context)

    ring.unwrap = counted  # type: ignore[method-assign]
    clock = Clock()
    vault = Vault(ring, "isthmus", clock=clock, cached_keys_max=2, cached_s_max=60)
    keys = [(await vault.new_key(f"member-{number}"))[1] for number in range(3)]
    for number, wrapped in enumerate(keys):
        await vault.key(wrapped, f"member-{number}")
    await vault.key(keys[2], "member-2")
    assert unwraps == 3
    await vault.key(keys[0], "member-0")
    assert unwraps == 4
    clock.now = 61.0
    await vault.key(keys[0], "member-0")
    assert unwraps == 5
    vault.forget("member-0")
    await vault.key(keys[0], "member-0")
    assert unwraps == 6


async def test_a_retired_key_is_gone_for_every_process(path: Path) -> None:
    ring, other = Keyring.open(path), Keyring.open(path)
    kek, ciphertext = await ring.wrap(KEY, b"context")
    ring.rotate(1)
    with pytest.raises(KeyringBusy):
        ring.retire([1, 2], settled_s=60)
    assert ring.retire([1, 2], settled_s=0) == [1]
    assert [each.version for each in other.held] == [2]
    with pytest.raises(KekUnknown):
        await other.unwrap(kek, ciphertext, b"context")
    assert b"1," not in path.read_bytes().split(b'"keks"')[1]


async def test_another_keyring_in_its_place_is_refused(path: Path) -> None:
    ring = Keyring.open(path)
    path.unlink()
    Keyring.open(path)
    with pytest.raises(KeyringUnusable):
        await ring.wrap(KEY, b"context")


def test_a_key_seals_no_more_than_random_nonces_allow() -> None:
    key = Aead(KEY)
    key.sealed = SEALED_MAX - 1
    key.seal(b"", b"")
    with pytest.raises(KeyExhausted):
        key.seal(b"", b"")
