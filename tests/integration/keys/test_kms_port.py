"""What every key management system must do, tried on each: the keyring, a PKCS#11 module, Vault's transit, Google's."""

import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from mesh.errors import DataLoss
from security.keys.errors import EnvelopeRejected, KekUnknown, KeyringBusy, KmsAway, KmsRefused
from security.keys.google_cloud import GoogleCloudKms
from security.keys.hsm import HsmKms
from security.keys.keyring import Keyring
from security.keys.port import KekRef, Kms
from security.keys.transit import TransitKms
from security.keys.vault import Vault
from tests.integration.keys import google_server
from tests.integration.keys.google_server import RING, Google
from tests.integration.keys.transit_server import Key, Transit, serving

KEY = b"\x07" * 32
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "1234"

# Opens the same key management system again, as another process would.
Open = Callable[[], "AsyncIterator[Kms]"]


@pytest.fixture(scope="module")
def softhsm() -> Iterator[str]:
    """The label of a token that is made once: the module reads its configuration when it is loaded, and only then."""
    if not SOFTHSM.exists():
        pytest.skip("NOT TESTED: SoftHSM2 is not installed (Debian's package softhsm2)")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        configuration = Path(folder) / "softhsm2.conf"
        tokens = Path(folder) / "tokens"
        tokens.mkdir()
        configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        patch.setenv("SOFTHSM2_CONF", str(configuration))
        command = f"softhsm2-util --init-token --free --label isthmus --pin {PIN} --so-pin {PIN}"
        subprocess.run(command.split(), check=True, capture_output=True, timeout=30)
        yield "isthmus"


@pytest.fixture
def transit(tmp_path: Path) -> Iterator[tuple[Transit, str]]:
    transit = Transit()
    transit.keys |= {"members": Key(), "members-index": Key()}
    write_secret(tmp_path / "token", transit.token)
    with serving(transit) as url:
        yield transit, url


@pytest.fixture
def google(tmp_path: Path) -> Iterator[tuple[Google, str]]:
    google = Google()
    google.keys |= {"members": google_server.Key(), "members-index": google_server.Key("MAC", "HMAC_SHA256")}
    write_secret(tmp_path / "account.json", google.credentials())
    with google_server.serving(google) as url:
        yield google, url


def write_secret(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(secret)


@pytest.fixture(params=["keyring", "hsm", "transit", "google"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Kms, Kms]]:
    """Twice the same, as two replicas have it open."""
    if request.param == "keyring":
        path = tmp_path / "keys" / "members" / "keyring.json"
        yield Keyring.open(path), Keyring.open(path)
    elif request.param == "transit":
        _, url = request.getfixturevalue("transit")
        both = [TransitKms(url, "members", tmp_path / "token") for _ in range(2)]
        for each in both:
            await each.open()
        yield both[0], both[1]
        for each in both:
            await each.close()
    elif request.param == "google":
        _, url = request.getfixturevalue("google")
        two = [GoogleCloudKms(RING, "members", tmp_path / "account.json", url) for _ in range(2)]
        for one in two:
            await one.open()
        yield two[0], two[1]
        for one in two:
            await one.close()
    else:
        token = request.getfixturevalue("softhsm")
        write_secret(tmp_path / "pin", PIN)
        label = f"members-{tmp_path.name}"
        # One session each: a second login in one process is refused by the standard, so that both share it here.
        hsm = HsmKms(SOFTHSM, token, label, tmp_path / "pin", tmp_path / "keys" / "hsm")
        await hsm.open()
        yield hsm, hsm
        await hsm.close()


async def test_a_wrapped_key_is_bound_to_its_context_and_kek(opened: tuple[Kms, Kms]) -> None:
    kms, other = opened
    kek, ciphertext = await kms.wrap(KEY, b"context")
    assert KEY not in ciphertext
    assert (await other.wrap(KEY, b"context"))[1] != ciphertext
    assert await other.unwrap(kek, ciphertext, b"context") == KEY
    with pytest.raises(EnvelopeRejected):
        await kms.unwrap(kek, ciphertext, b"another")
    with pytest.raises(KekUnknown):
        await kms.unwrap(KekRef("elsewhere", kek.version), ciphertext, b"context")
    flipped = ciphertext[:-2] + bytes((ciphertext[-2] ^ 1,)) + ciphertext[-1:]
    for damaged in (b"", ciphertext[:20], flipped):
        with pytest.raises(DataLoss):
            await kms.unwrap(kek, damaged, b"context")
    await kms.rotate(kek.version)
    with pytest.raises(EnvelopeRejected):
        await kms.unwrap(KekRef(kek.id, kek.version + 1), ciphertext, b"context")


async def test_a_rotation_is_seen_by_all_and_stops_nobody(opened: tuple[Kms, Kms]) -> None:
    kms, other = opened
    kek, ciphertext = await kms.wrap(KEY, b"context")
    assert (await other.rotate(1)).version == 2
    # Whoever asks a moment later, knowing of one version only, adds no third.
    assert (await kms.rotate(1)).version == 2
    assert [each.version for each in await kms.held()] == [1, 2]
    assert await kms.unwrap(kek, ciphertext, b"context") == KEY
    assert (await kms.wrap(KEY, b"context"))[0] == KekRef(kek.id, 2)


async def test_a_retired_version_is_gone_and_the_newest_never_is(opened: tuple[Kms, Kms]) -> None:
    kms, other = opened
    kek, ciphertext = await kms.wrap(KEY, b"context")
    await kms.rotate(1)
    with pytest.raises(KeyringBusy):
        await kms.retire([1], settled_s=60)
    assert await kms.retire([1, 2], settled_s=0) == [1]
    assert [each.version for each in await other.held()] == [2]
    assert await kms.retire([2], settled_s=0) == []
    with pytest.raises(KekUnknown):
        await other.unwrap(kek, ciphertext, b"context")


async def test_blind_index_keys_differ_by_name_and_outlive_rotations(opened: tuple[Kms, Kms]) -> None:
    kms, other = opened
    made = await kms.index_key("members.phone")
    assert len(made) == 32
    assert made != await kms.index_key("members.email")
    await kms.rotate(1)
    await kms.retire([1], settled_s=0)
    assert await other.index_key("members.phone") == made


async def test_a_data_key_is_for_its_subject_whatever_wraps_it(opened: tuple[Kms, Kms]) -> None:
    kms, other = opened
    _, wrapped = await Vault(kms, "isthmus").new_key("member-1")
    assert (await Vault(other, "isthmus").key(wrapped, "member-1")).key_id == wrapped.key_id
    with pytest.raises(EnvelopeRejected):
        await Vault(other, "isthmus").key(wrapped, "member-2")
    with pytest.raises(EnvelopeRejected):
        await Vault(other, "another-tenant").key(wrapped, "member-1")


async def test_vault_away_sealed_and_forbidden_are_told_apart(transit: tuple[Transit, str], tmp_path: Path) -> None:
    engine, url = transit
    kms = TransitKms(url, "members", tmp_path / "token")
    await kms.open()
    engine.sealed = True
    with pytest.raises(KmsAway):
        await kms.wrap(KEY, b"context")
    engine.sealed = False
    engine.token = "hvs.renewed"
    with pytest.raises(KmsRefused, match="token"):
        await kms.wrap(KEY, b"context")
    # Whoever renews the token writes it there; nothing is started again.
    (tmp_path / "token").write_text(engine.token)
    await kms.wrap(KEY, b"context")
    with pytest.raises(KmsAway):
        await TransitKms("http://127.0.0.1:1", "members", tmp_path / "token").wrap(KEY, b"context")
    with pytest.raises(KmsRefused, match="https"):
        TransitKms("http://vault.example:8200", "members", tmp_path / "token")


async def test_a_key_that_can_be_taken_out_of_vault_or_is_missing_stops_the_start(
    transit: tuple[Transit, str], tmp_path: Path
) -> None:
    engine, url = transit
    engine.keys["members"].config["exportable"] = True
    with pytest.raises(KmsRefused, match="taken out"):
        await TransitKms(url, "members", tmp_path / "token").open()
    with pytest.raises(KmsRefused, match="there is no key"):
        await TransitKms(url, "orders", tmp_path / "token").open()


async def test_a_module_that_is_none_and_a_wrong_pin_stop_the_start(softhsm: str, tmp_path: Path) -> None:
    write_secret(tmp_path / "pin", "9999")
    for module, token, why in (
        (SOFTHSM, softhsm, "PIN"),
        (SOFTHSM, "another", "no token"),
        (tmp_path / "no.so", softhsm, "module"),
    ):
        hsm = HsmKms(module, token, "members", tmp_path / "pin", tmp_path / "hsm")
        with pytest.raises(KmsRefused, match=why):
            await hsm.open()
        await hsm.close()


async def test_google_away_and_refusing_are_told_apart(google: tuple[Google, str], tmp_path: Path) -> None:
    service, url = google
    kms = GoogleCloudKms(RING, "members", tmp_path / "account.json", url)
    await kms.open()
    service.outage = True
    with pytest.raises(KmsAway, match="UNAVAILABLE"):
        await kms.wrap(KEY, b"context")
    service.outage = False
    (tmp_path / "account.json").write_text(Google().credentials())
    with pytest.raises(KmsRefused, match="credentials"):
        await kms.wrap(KEY, b"context")
    # Whoever changes the account's key writes the new one there; nothing is started again.
    (tmp_path / "account.json").write_text(service.credentials())
    await kms.wrap(KEY, b"context")
    (tmp_path / "account.json").write_text("{}")
    with pytest.raises(KmsRefused, match="no key of a service account"):
        await kms.wrap(KEY, b"context")
    await kms.close()
    nowhere = GoogleCloudKms(RING, "members", tmp_path / "account.json", "http://127.0.0.1:1")
    (tmp_path / "account.json").write_text(service.credentials())
    with pytest.raises(KmsAway):
        await nowhere.wrap(KEY, b"context")
    await nowhere.close()
    with pytest.raises(KmsRefused, match="https"):
        GoogleCloudKms(RING, "members", tmp_path / "account.json", "http://kms.example")


async def test_what_is_damaged_on_the_way_to_google_or_back_is_not_taken(
    google: tuple[Google, str], tmp_path: Path
) -> None:
    service, url = google
    kms = GoogleCloudKms(RING, "members", tmp_path / "account.json", url)
    kek, ciphertext = await kms.wrap(KEY, b"context")
    for service.damage_in, service.damage_out in ((True, False), (False, True)):
        for asked in (
            kms.wrap(KEY, b"context"),
            kms.unwrap(kek, ciphertext, b"context"),
            kms.index_key("members.phone"),
        ):
            with pytest.raises(KmsAway, match="damaged"):
                await asked
    await kms.close()


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({}, "not found"),
        ({"members": google_server.Key("ASYMMETRIC_SIGN")}, "something else"),
        ({"members": google_server.Key(), "members-index": google_server.Key("MAC", "HMAC_SHA512")}, "something else"),
    ],
)
async def test_a_key_at_google_that_is_missing_or_for_something_else_stops_the_start(
    google: tuple[Google, str], tmp_path: Path, keys: dict[str, google_server.Key], why: str
) -> None:
    service, url = google
    service.keys = keys
    kms = GoogleCloudKms(RING, "members", tmp_path / "account.json", url)
    with pytest.raises(KmsRefused, match=why):
        await kms.open()
    await kms.close()
