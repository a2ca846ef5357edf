from pathlib import Path

import pytest

from chaos.load.input_error import BadInput
from chaos.load.transactions import by_customer, read_transactions

GOOD = " 00004 0001 19970118  2   29.73\r"


def written(folder: Path, *lines: str) -> Path:
    file = folder / "sales.txt"
    file.write_text("\n".join(lines) + "\n", newline="")
    return file


def test_a_row_keeps_its_customer_day_month_pieces_and_amount(tmp_path: Path) -> None:
    (row,) = read_transactions(written(tmp_path, GOOD))
    assert (row.customer, row.pieces, row.amount_minor, row.month) == ("00004", 2, 2973, "1997-01")
    assert row.source_time_us == 853_545_600_000_000


@pytest.mark.parametrize(("dollars", "minor"), [("0.00", 0), ("29.1", 2910), ("7", 700), ("1.15", 115)])
def test_amounts_are_exact_in_minor_units(tmp_path: Path, dollars: str, minor: int) -> None:
    (row,) = read_transactions(written(tmp_path, GOOD.replace("29.73", dollars)))
    assert row.amount_minor == minor


def test_two_rows_that_are_alike_are_two_purchases(tmp_path: Path) -> None:
    rows = read_transactions(written(tmp_path, GOOD, GOOD))
    assert len(set(rows)) == 2


def test_a_customers_purchases_keep_the_order_of_the_file(tmp_path: Path) -> None:
    rows = read_transactions(written(tmp_path, GOOD, GOOD.replace("00004", "00005"), GOOD.replace("29.73", "1.00")))
    assert [[row.line for row in rows] for rows in by_customer(rows).values()] == [[1, 3], [2]]


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("00004", "x", "customer"),
        ("19970118", "19970231", "date"),
        ("19970118", "1997-1-8", "date"),
        ("19970118", "19691231", "date"),
        ("  2  ", "  0  ", "pieces"),
        ("  2  ", "  10001  ", "pieces"),
        ("29.73", "-29.73", "dollars"),
        ("29.73", "29.731", "dollars"),
        ("29.73", "1e9", "dollars"),
        ("29.73", "NaN", "dollars"),
        ("29.73", "٣", "dollars"),
        ("29.73", "", "5 fields"),
        ("29.73", "29.73 1", "5 fields"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_rule(tmp_path: Path, old: str, new: str, rule: str) -> None:
    file = written(tmp_path, GOOD, GOOD.replace(old, new))
    with pytest.raises(BadInput, match=rule) as refused:
        read_transactions(file)
    assert (refused.value.file, refused.value.line) == (file, 2)


def test_a_file_without_rows_or_text_is_refused(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.touch()
    binary.write_bytes(b"\xff\xfe")
    for file, rule in ((empty, "has no rows"), (binary, "UTF-8"), (tmp_path / "none.txt", "cannot be read")):
        with pytest.raises(BadInput, match=rule):
            read_transactions(file)
