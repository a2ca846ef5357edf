from pathlib import Path

import pytest

from chaos.load.impressions import read_impressions
from chaos.load.input_error import BadInput

HEADER = (
    ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,user_feature_3"
)
GOOD = "0,2019-11-24 00:00:34.762830+00:00,14,3,1,0.0125,a,b,c,d"


def written(folder: Path, *lines: str, name: str = "men.csv") -> Path:
    file = folder / name
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_row_keeps_its_time_slot_item_click_and_features(tmp_path: Path) -> None:
    (row,) = read_impressions([written(tmp_path, HEADER, GOOD)])
    assert row.source_time_us == 1_574_553_634_762_830
    assert (row.collection, row.item, row.slot, row.clicked) == ("men", 14, "position-3", True)
    assert row.features == {"user_feature_0": "a", "user_feature_1": "b", "user_feature_2": "c", "user_feature_3": "d"}


def test_rows_of_several_files_come_in_the_order_of_their_time(tmp_path: Path) -> None:
    late = written(tmp_path, HEADER, GOOD, name="a.csv")
    early = written(tmp_path, HEADER, GOOD.replace("2019", "2018"), name="b.csv")
    assert [row.collection for row in read_impressions([late, early])] == ["b", "a"]


def test_the_limit_counts_the_rows_of_each_file(tmp_path: Path) -> None:
    files = [written(tmp_path, HEADER, GOOD, GOOD, GOOD, name=name) for name in ("a.csv", "b.csv")]
    assert len(read_impressions(files, limit=2)) == 4


def test_a_row_after_the_limit_is_not_looked_at(tmp_path: Path) -> None:
    assert len(read_impressions([written(tmp_path, HEADER, GOOD, "nonsense")], limit=1)) == 1


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (",14,3,", ",-14,3,", "item_id"),
        (",14,3,", ",14,0,", "position"),
        (",14,3,1,", ",14,3,2,", "click"),
        ("2019-11-24 00", "2019-11-31 00", "timestamp"),
        ("+00:00", "", "offset from UTC"),
        ("2019-11-24", "1969-11-24", "1970"),
        (",a,b", ",,b", "user_feature_0"),
        (",a,b", f",{'a' * 129},b", "user_feature_0"),
        (",c,d", ",c", "as many values"),
        (",c,d", ",c,d,e", "as many values"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_rule(tmp_path: Path, old: str, new: str, rule: str) -> None:
    file = written(tmp_path, HEADER, GOOD, GOOD.replace(old, new))
    with pytest.raises(BadInput, match=rule) as refused:
        read_impressions([file])
    assert (refused.value.file, refused.value.line) == (file, 3)


def test_a_bad_value_is_not_repeated(tmp_path: Path) -> None:
    file = written(tmp_path, HEADER, GOOD.replace(",14,", ",<secret>,"))
    with pytest.raises(BadInput) as refused:
        read_impressions([file])
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "the header lacks timestamp"),
        (HEADER.encode(), "has no rows"),
        (HEADER.replace("click", "clicks").encode(), "the header lacks click"),
        (HEADER.encode() + b"\n\xff\xfe\n", "UTF-8"),
        (HEADER.encode() + b'\n0,"2019', "CSV"),
    ],
)
def test_a_file_that_is_not_of_the_format_is_refused(tmp_path: Path, content: bytes, rule: str) -> None:
    file = tmp_path / "bad.csv"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=rule):
        read_impressions([file])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_impressions([tmp_path / "none.csv"])
