"""A keyring whose file is gone or whose disk is full says so by a typed error; a clock that steps is nothing to it."""

import errno
from pathlib import Path
from typing import NoReturn

import pytest

from security.keys import wraps
from security.keys.errors import KeyringUnusable, KmsAway
from security.keys.keyring import Keyring
from security.keys.vault import CACHED_S_MAX, Vault
from security.keys.wraps import BLOCK


class Clock:
    """Its time of day may step; the time that it has run does not."""

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000
        self.s = 0.0

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "members" / "keyring.json"


def no_room(*about: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_keyring_whose_file_is_taken_away_wraps_and_unwraps_nothing_until_it_is_back(path: Path) -> None:
    keyring = Keyring.open(path)
    kek, ciphertext = await keyring.wrap(bytes(32), b"context")
    aside = path.rename(path.with_suffix(".aside"))
    for asked in (keyring.wrap(bytes(32), b"context"), keyring.unwrap(kek, ciphertext, b"context"), keyring.held()):
        with pytest.raises(KeyringUnusable, match="No such file"):
            await asked
    aside.rename(path)
    assert await keyring.unwrap(kek, ciphertext, b"context") == bytes(32)


async def test_on_a_full_disk_nothing_is_wrapped_uncounted_and_all_is_unwrapped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = Keyring.open(path)
    kek, ciphertext = await keyring.wrap(bytes(32), b"context")
    for _ in range(BLOCK - 1):
        keyring._wraps.spend(kek)
    with monkeypatch.context() as patch:
        patch.setattr(wraps, "write_file", no_room)
        with pytest.raises(KmsAway, match="No space left"):
            await keyring.wrap(bytes(32), b"context")
        assert await keyring.unwrap(kek, ciphertext, b"context") == bytes(32)
    await keyring.wrap(bytes(32), b"context")
    assert keyring._wraps.reserved(kek) == 2 * BLOCK


async def test_a_rotation_on_a_full_disk_leaves_the_keyring_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = Keyring.open(path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("security.keys.keyring.write_file", no_room)
        with pytest.raises(KeyringUnusable, match="No space left"):
            await keyring.rotate(1)
    assert path.read_bytes() == before
    assert (await keyring.rotate(1)).version == 2


@pytest.mark.parametrize("step_s", [-86_400, 86_400])
async def test_a_step_of_the_clock_neither_loses_cached_keys_nor_keeps_them_for_longer(path: Path, step_s: int) -> None:
    clock = Clock()
    vault = Vault(Keyring.open(path), "isthmus", clock=clock)
    _, wrapped = await vault.new_key("member-1")
    key = await vault.key(wrapped, "member-1")
    clock.us += step_s * 1_000_000
    clock.s += CACHED_S_MAX / 2
    assert await vault.key(wrapped, "member-1") is key
    clock.s += CACHED_S_MAX
    assert await vault.key(wrapped, "member-1") is not key
