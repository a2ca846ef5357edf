"""A value opens where it was sealed, for its own subject, unaltered; anything else is a typed error."""

from dataclasses import replace

import pytest

from security.keys.envelope import DataKey, Envelope, Place
from security.keys.errors import EnvelopeMalformed, EnvelopeRejected, EnvelopeUnsupported
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


def test_every_flipped_bit_is_found(key: DataKey) -> None:
    stored = bytes(key.seal(b"value", PLACE))
    for position in range(len(stored)):
        altered = bytearray(stored)
        altered[position] ^= 1
        with pytest.raises((EnvelopeRejected, EnvelopeMalformed, EnvelopeUnsupported)):
            key.open(Envelope.parse(bytes(altered)), PLACE)


def test_every_truncation_is_found(key: DataKey) -> None:
    stored = bytes(key.seal(b"value", PLACE))
    for length in range(len(stored)):
        with pytest.raises((EnvelopeRejected, EnvelopeMalformed)):
            key.open(Envelope.parse(stored[:length]), PLACE)


@pytest.mark.parametrize("position", [0, 1], ids=["version", "suite"])
def test_an_envelope_from_the_future_says_so(key: DataKey, position: int) -> None:
    stored = bytearray(key.seal(b"value", PLACE))
    stored[position] = 2
    with pytest.raises(EnvelopeUnsupported):
        Envelope.parse(bytes(stored))


def test_no_error_repeats_a_value(key: DataKey) -> None:
    with pytest.raises(EnvelopeRejected) as raised:
        key.open(key.seal(b"+8613812341234", PLACE), replace(PLACE, row="member-2"))
    assert "138" not in str(raised.value)
    assert "member" not in raised.value.message
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
