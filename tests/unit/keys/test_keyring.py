"""The keyring is made once, closed to others, keeps its old keys, and stops the start when it is not sound."""

import base64
import json
import threading
from pathlib import Path

import pytest

from mesh.errors import FailedPrecondition
from security.keys.aead import SEALED_MAX, Aead
from security.keys.errors import KeyExhausted, KeyringUnusable
from security.keys.keyring import Keyring
from security.keys.port import KekRef
from security.keys.seal import PassphraseSeal
from security.keys.vault import Vault
from security.keys.wraps import BLOCK, WrapLedger

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
    assert len({ring._index_key for ring in rings}) == 1


def test_a_keyring_that_others_can_read_is_refused(path: Path) -> None:
    Keyring.open(path)
    path.chmod(0o640)
    with pytest.raises(FailedPrecondition, match="KEY_FILE_EXPOSED"):
        Keyring.open(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("format", 3), ("seal", "tpm"), ("salt", "AAAAAAAAAAAAAAAAAAAAAA=="), ("sealed", "c2hvcnQ="), ("sealed", None)],
)
def test_a_damaged_or_newer_keyring_is_refused(path: Path, field: str, value: object) -> None:
    Keyring.open(path)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {field: value}))
    with pytest.raises(KeyringUnusable):
        Keyring.open(path)


async def test_what_the_file_holds_is_sealed_under_a_key_that_lies_elsewhere(path: Path) -> None:
    index_key = await Keyring.open(path).index_key("members.phone")
    (seal,) = path.parents[1].glob("seals/*.key")
    assert seal.stat().st_mode & 0o777 == 0o600
    assert b"keks" not in path.read_bytes()
    seal.rename(seal.with_suffix(".lost"))
    with pytest.raises(KeyringUnusable, match="another key"):
        Keyring.open(path)
    seal.with_suffix(".lost").rename(seal)
    assert await Keyring.open(path).index_key("members.phone") == index_key


async def test_a_passphrase_seals_as_well_and_a_wrong_one_opens_nothing(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.touch(mode=0o600)
    file.write_text("correct horse battery\n")
    ring = Keyring.open(path, PassphraseSeal(file))
    assert (await Keyring.open(path, PassphraseSeal(file)).held()) == (await ring.held())
    for wrong, why in (("correct horse batterz", "another key"), ("short", "fewer than")):
        file.write_text(wrong)
        with pytest.raises(KeyringUnusable, match=why):
            Keyring.open(path, PassphraseSeal(file))
    with pytest.raises(KeyringUnusable, match="sealed by 'passphrase'"):
        Keyring.open(path)


async def test_a_keyring_of_the_unsealed_format_is_sealed_when_it_is_opened(path: Path) -> None:
    secret = base64.b64encode(KEY).decode()
    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    document = {"format": 1, "seal": "none", "id": "local-1", "index_key": secret}
    path.write_text(json.dumps(document | {"keks": [{"version": 3, "key": secret}]}))
    assert await Keyring.open(path).held() == [KekRef("local-1", 3)]
    assert secret not in path.read_text()
    assert await Keyring.open(path).held() == [KekRef("local-1", 3)]


async def test_wraps_are_counted_over_restarts_and_copies_and_end_at_the_limit(path: Path) -> None:
    kek = KekRef("local-1", 1)
    ledger = WrapLedger(path, wraps_max=BLOCK + 10)
    ledger.spend(kek)
    assert ledger.reserved(kek) == BLOCK
    # Another process, or the same after a crash: what it may have wrapped counts.
    other = WrapLedger(path, wraps_max=BLOCK + 10)
    for _ in range(10):
        other.spend(kek)
    with pytest.raises(KeyExhausted):
        other.spend(kek)
    # Another key is another count.
    other.spend(KekRef("local-1", 2))
    # A child does not go on with its parent's block.
    ledger._pid -= 1
    with pytest.raises(KeyExhausted):
        ledger.spend(kek)
    path.write_text("{")
    with pytest.raises(KeyringUnusable):
        WrapLedger(path).spend(kek)


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
