"""A value opens where it was sealed, for its own subject, unaltered; anything else is a typed error."""

from dataclasses import replace

import pytest

from security.keys.aead import SEALED_MAX
from security.keys.envelope import DataKey, Envelope, Place
from security.keys.errors import EnvelopeMalformed, EnvelopeRejected, EnvelopeUnsupported, KeyExhausted
from security.keys.port import KekRef

KEK = KekRef("local-00000001", 1)
PLACE = Place("isthmus", "members.member", "phone", "member-1")


@pytest.fixture
def key() -> DataKey:
    return DataKey(b"\x01" * 16, KEK, b"\x02" * 32)


def test_a_value_opens_where_it_was_sealed(key: DataKey) -> None:
    stored = bytes(key.seal(b"+8613812341234", PLACE))
    assert b"138" not in stored
    assert key.open(Envelope.parse(stored), PLACE) == b"+8613812341234"


def test_equal_values_have_unequal_envelopes(key: DataKey) -> None:
    assert bytes(key.seal(b"same", PLACE)) != bytes(key.seal(b"same", PLACE))


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(PLACE, tenant="other"),
        replace(PLACE, table="members.other"),
        replace(PLACE, column="name"),
        replace(PLACE, row="member-2"),
        replace(PLACE, field_version=2),
        # The same letters, cut at another point.
        Place("isthmus", "members.memberp", "hone", "member-1"),
    ],
)
def test_a_value_does_not_open_in_another_place(key: DataKey, elsewhere: Place) -> None:
    with pytest.raises(EnvelopeRejected):
        key.open(key.seal(b"value", PLACE), elsewhere)


def test_a_value_does_not_open_with_another_subjects_key(key: DataKey) -> None:
    with pytest.raises(EnvelopeRejected):
        DataKey(b"\x09" * 16, KEK, b"\x02" * 32).open(key.seal(b"value", PLACE), PLACE)
    with pytest.raises(EnvelopeRejected):
        DataKey(b"\x01" * 16, KEK, b"\x03" * 32).open(key.seal(b"value", PLACE), PLACE)


def test_a_value_opens_after_its_key_was_wrapped_anew(key: DataKey) -> None:
    later = DataKey(b"\x01" * 16, KekRef("local-00000001", 2), b"\x02" * 32)
    assert later.open(key.seal(b"value", PLACE), PLACE) == b"value"


def test_a_key_that_is_nearly_used_up_seals_a_row_whole_or_not_at_all(key: DataKey) -> None:
    key._aead.sealed = SEALED_MAX - 1
    with pytest.raises(KeyExhausted):
        key.seal_each([(b"one", b"place"), (b"other", b"place")])
    assert len(key.seal_each([(b"one", b"place")])) == 1


def test_no_two_values_of_a_row_share_a_nonce(key: DataKey) -> None:
    sealed = key.seal_each([(b"same", b"place")] * 100)
    assert len({each.nonce for each in sealed}) == 100


def test_every_flipped_bit_is_found(key: DataKey) -> None:
    stored = bytes(key.seal(b"value", PLACE))
    for position in range(len(stored)):
        altered = bytearray(stored)
        altered[position] ^= 1
        with pytest.raises((EnvelopeRejected, EnvelopeMalformed, EnvelopeUnsupported)):
            key.open(bytes(altered), PLACE)


def test_every_truncation_is_found(key: DataKey) -> None:
    stored = bytes(key.seal(b"value", PLACE))
    for length in range(len(stored)):
        with pytest.raises((EnvelopeRejected, EnvelopeMalformed)):
            key.open(stored[:length], PLACE)


@pytest.mark.parametrize("position", [0, 1], ids=["version", "suite"])
def test_an_envelope_from_the_future_says_so(key: DataKey, position: int) -> None:
    stored = bytearray(key.seal(b"value", PLACE))
    stored[position] = 2
    with pytest.raises(EnvelopeUnsupported):
        Envelope.parse(bytes(stored))
    with pytest.raises(EnvelopeUnsupported):
        key.open(bytes(stored), PLACE)


def test_no_error_repeats_a_value(key: DataKey) -> None:
    with pytest.raises(EnvelopeRejected) as raised:
        key.open(key.seal(b"+8613812341234", PLACE), replace(PLACE, row="member-2"))
    assert "138" not in str(raised.value)
    assert "member" not in raised.value.message
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
