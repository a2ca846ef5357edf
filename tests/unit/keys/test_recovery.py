"""A keyring comes back from its copy with the recovery key alone, and from nothing that was changed or is another's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import AlreadyExists, FailedPrecondition
from security.keys import key_file
from security.keys.errors import EnvelopeMalformed, EnvelopeRejected, KeyringUnusable
from security.keys.key_file import open_or_create
from security.keys.keyring import Keyring
from security.keys.recovery import back_up, restore, unwrap, wrap
from security.keys.seal import KeyFileSeal

CONTEXT, DATA_KEY = b"context", b"\x07" * 32


@pytest.fixture
def seal(tmp_path: Path) -> KeyFileSeal:
    return KeyFileSeal(tmp_path / "seals" / "members.key")


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    return tmp_path / "members" / "keyring.json"


async def test_a_lost_keyring_comes_back_under_another_seal(keyring: Path, seal: KeyFileSeal, tmp_path: Path) -> None:
    ring = Keyring.open(keyring, seal)
    first, wrapped = await ring.wrap(DATA_KEY, CONTEXT)
    await ring.rotate(1)
    index = await ring.index_key("members.phone")
    copy, recovery = tmp_path / "copy.json", open_or_create(tmp_path / "recovery.key")
    assert back_up(keyring, seal, recovery, copy) == [1, 2]
    with pytest.raises(AlreadyExists, match="KEYRING_THERE"):
        restore(copy, recovery, keyring, seal)

    keyring.unlink()
    other = KeyFileSeal(tmp_path / "elsewhere" / "members.key")
    assert restore(copy, key_file.read(tmp_path / "recovery.key"), keyring, other) == [1, 2]
    again = Keyring.open(keyring, other)
    assert await again.unwrap(first, wrapped, CONTEXT) == DATA_KEY
    assert await again.index_key("members.phone") == index
    assert [kek.version for kek in await again.held()] == [1, 2]


def exchanged(document: dict[str, Any]) -> None:
    one, other = document["keks"]
    one["wrapped"], other["wrapped"] = other["wrapped"], one["wrapped"]


def promoted(document: dict[str, Any]) -> None:
    document["keks"][0]["wrapped"] = document["index_key"]


def renamed(document: dict[str, Any]) -> None:
    document["id"] = "local-00000000"


def cut(document: dict[str, Any]) -> None:
    document["keks"][0]["wrapped"] = document["keks"][0]["wrapped"][:-4]


def emptied(document: dict[str, Any]) -> None:
    document["keks"] = []


def from_the_future(document: dict[str, Any]) -> None:
    document["format"] = 2


@pytest.mark.parametrize("change", [exchanged, promoted, renamed, cut, emptied, from_the_future])
async def test_a_copy_that_was_changed_makes_no_keyring(
    keyring: Path, seal: KeyFileSeal, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    await Keyring.open(keyring, seal).rotate(1)
    copy, recovery = tmp_path / "copy.json", open_or_create(tmp_path / "recovery.key")
    back_up(keyring, seal, recovery, copy)
    document = json.loads(copy.read_text())
    change(document)
    copy.write_text(json.dumps(document))
    keyring.unlink()
    with pytest.raises(KeyringUnusable):
        restore(copy, recovery, keyring, seal)
    assert not keyring.exists()


def test_another_recovery_key_opens_nothing_and_an_exposed_one_is_refused(
    keyring: Path, seal: KeyFileSeal, tmp_path: Path
) -> None:
    Keyring.open(keyring, seal)
    copy, path = tmp_path / "copy.json", tmp_path / "recovery.key"
    back_up(keyring, seal, open_or_create(path), copy)
    keyring.unlink()
    with pytest.raises(KeyringUnusable, match="another recovery key"):
        restore(copy, open_or_create(tmp_path / "other.key"), keyring, seal)
    path.chmod(0o644)
    with pytest.raises(FailedPrecondition, match="KEY_FILE_EXPOSED"):
        key_file.read(path)


def test_what_is_no_wrapped_key_is_told_from_what_another_key_wrapped() -> None:
    wrapped = wrap(DATA_KEY, b"key")
    assert unwrap(DATA_KEY, wrapped) == b"key"
    with pytest.raises(EnvelopeRejected):
        unwrap(bytes(32), wrapped)
    for damaged in (b"", wrapped[:8], wrapped[:-1]):
        with pytest.raises(EnvelopeMalformed):
            unwrap(DATA_KEY, damaged)
