"""What of the processes' logs is kept when a drill did not hold."""

from pathlib import Path

import pytest

from chaos.drill import logbook
from chaos.drill.logbook import Logbook


def test_what_was_written_since_the_beginning_is_kept(tmp_path: Path) -> None:
    logs, kept = tmp_path / "logs", tmp_path / "kept"
    logs.mkdir()
    (logs / "orders-1.log").write_text("before\n")
    (logs / "silent.log").write_text("before\n")
    (logs / "emptied.log").write_text("long before\n")
    book = Logbook(logs)
    with (logs / "orders-1.log").open("a") as log:
        log.write("meanwhile\n")
    (logs / "emptied.log").write_text("anew\n")
    (logs / "started.log").write_text("from the first line on\n")
    assert book.keep(kept) == 3
    assert {each.name: each.read_text() for each in kept.iterdir()} == {
        "orders-1.log": "meanwhile\n",
        "emptied.log": "anew\n",
        "started.log": "from the first line on\n",
    }


def test_of_too_much_the_end_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logbook, "BYTES_MAX", 8)
    book = Logbook(tmp_path)
    (tmp_path / "orders-1.log").write_text("0123456789abcdef")
    assert book.keep(tmp_path / "kept") == 1
    assert (tmp_path / "kept" / "orders-1.log").read_text() == "89abcdef"


def test_a_mesh_whose_logs_lie_elsewhere_has_none_to_keep(tmp_path: Path) -> None:
    assert Logbook(tmp_path / "nowhere").keep(tmp_path / "kept") == 0
    assert not (tmp_path / "kept").exists()
