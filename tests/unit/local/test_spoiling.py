"""Leaves that nobody may accept, and the way back from them."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from deploy.local import spoiling
from deploy.local.leases import BadFault
from deploy.local.settings import Home
from deploy.local.topology import Process
from security.identity import wallet
from security.identity.authority import Authority

ORDERS = Process("orders-1", "private", "orders", "orders-1")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    authority = Authority.open_or_create(tmp_path / "ca" / "private", "isthmus.internal", "private")
    leaf = authority.issue("orders", timedelta(hours=1))
    wallet.write(home.run("orders-1") / "identity", wallet.Wallet(leaf, authority.root_pem))
    return home


def shown(home: Home) -> x509.Certificate:
    return x509.load_pem_x509_certificate((home.identity("orders-1") / "svid.pem").read_bytes())


def root(home: Home) -> x509.Certificate:
    return x509.load_pem_x509_certificate((home.root / "ca" / "private" / "root.pem").read_bytes())


async def test_an_expired_leaf_is_of_the_right_authority_and_over(home: Home) -> None:
    before = shown(home)
    restore = await spoiling.spoil(home, ORDERS, home.run("orders-1") / "identity", "expired")
    shown(home).verify_directly_issued_by(root(home))
    assert shown(home).not_valid_after_utc < datetime.now(UTC)
    await restore()
    assert shown(home) == before


async def test_a_strangers_leaf_has_the_right_name_and_the_wrong_authority(home: Home) -> None:
    before = shown(home)
    restore = await spoiling.spoil(home, ORDERS, home.run("orders-1") / "identity", "stranger")
    with pytest.raises(InvalidSignature):
        shown(home).verify_directly_issued_by(root(home))
    assert shown(home).not_valid_after_utc > datetime.now(UTC)
    assert shown(home).subject == before.subject
    await restore()
    assert shown(home) == before


async def test_a_stolen_leaf_is_revoked_once_its_root_has_been_replaced(home: Home) -> None:
    before, directory = shown(home), home.run("orders-1") / "identity"
    kept = spoiling.stolen(directory)
    with pytest.raises(BadFault, match="not been replaced"):
        await spoiling.spoil(home, ORDERS, directory, "revoked", kept)
    shutil.rmtree(home.root / "ca" / "private")
    authority = Authority.open_or_create(home.root / "ca" / "private", "isthmus.internal", "private")
    wallet.write(directory, wallet.Wallet(authority.issue("orders", timedelta(hours=1)), authority.root_pem))
    newer = shown(home)
    restore = await spoiling.spoil(home, ORDERS, directory, "revoked", kept)
    assert shown(home) == before
    with pytest.raises(InvalidSignature):
        shown(home).verify_directly_issued_by(root(home))
    await restore()
    assert shown(home) == newer


async def test_what_nobody_stole_cannot_come_back(home: Home) -> None:
    with pytest.raises(BadFault, match="stolen"):
        await spoiling.spoil(home, ORDERS, home.run("orders-1") / "identity", "revoked")


async def test_what_the_agent_has_given_since_is_left_alone(home: Home) -> None:
    directory = home.run("orders-1") / "identity"
    restore = await spoiling.spoil(home, ORDERS, directory, "stranger")
    authority = Authority.open_or_create(home.root / "ca" / "private", "isthmus.internal", "private")
    newer = wallet.write(directory, wallet.Wallet(authority.issue("orders", timedelta(hours=1)), authority.root_pem))
    await restore()
    assert home.identity("orders-1").resolve() == newer
