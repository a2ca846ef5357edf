"""The undo journal survives the death of whoever writes it."""

from pathlib import Path

from chaos.drill.undo import Undo, UndoJournal

ONE, TWO = Undo("one", "launcher", "kafka held"), Undo("two", "links", "link core cut")


def test_what_is_not_done_is_open_for_the_next_runner_newest_first(tmp_path: Path) -> None:
    journal = UndoJournal(tmp_path / "drill" / "undo.jsonl")
    journal.will(ONE)
    journal.will(TWO)
    assert UndoJournal(journal.path).open == [TWO, ONE]


def test_what_is_done_is_over(tmp_path: Path) -> None:
    journal = UndoJournal(tmp_path / "undo.jsonl")
    journal.will(ONE)
    journal.will(TWO)
    journal.done("one")
    assert UndoJournal(journal.path).open == [TWO]
    journal.done("two")
    assert UndoJournal(journal.path).open == []
    assert not journal.path.exists()


def test_a_line_cut_off_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    journal = UndoJournal(tmp_path / "undo.jsonl")
    journal.will(ONE)
    with journal.path.open("a") as file:
        file.write('{"key": "two", "door": "la')
    assert UndoJournal(journal.path).open == [ONE]
