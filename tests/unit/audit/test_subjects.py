"""A record names an id as it is, and nothing else that somebody put in its place."""

from pathlib import Path

import pytest

from security.audit.subjects import HASHED, WITHHELD, Subjects


@pytest.mark.parametrize(
    "value", ["", "member-1", "0192f0c1-5d3e-7a43-8000-0123456789ab", "order_7", "/isthmus.orders.v1.Orders/PlaceOrder"]
)
def test_an_id_is_named_as_it_is(tmp_path: Path, value: str) -> None:
    assert Subjects(tmp_path / "key").named(value) == value
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize(
    "value", ["+8613955501237", "13955501237", "139-5550-1237", "a@b.example", "9 Umbrellabird Terrace", "Zoë", "a\nb"]
)
def test_anything_else_is_a_keyed_hash_that_every_process_finds_again(tmp_path: Path, value: str) -> None:
    named = Subjects(tmp_path / "keys" / "key").named(value)
    assert named.startswith(HASHED)
    assert value not in named
    assert Subjects(tmp_path / "keys" / "key").named(value) == named
    assert Subjects(tmp_path / "other").named(value) != named


def test_without_a_key_a_value_is_withheld(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    (tmp_path / "key").chmod(0o600)
    assert Subjects(tmp_path / "key").named("+8613955501237") == WITHHELD
