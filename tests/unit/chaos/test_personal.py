"""A personal value in a file of the public zone is found wherever it stands in it."""

from pathlib import Path

import pytest

from chaos.checkers import personal
from chaos.checkers.personal import sightings

NAME = b"Customer of a test"


@pytest.mark.parametrize("before", [0, 1, personal.CHUNK_BYTES - 1, personal.CHUNK_BYTES - len(NAME) // 2])
def test_a_value_is_found_also_where_two_readings_meet(tmp_path: Path, before: int) -> None:
    leaking = tmp_path / "spool" / "edge-1" / "0001.seg"
    leaking.parent.mkdir(parents=True)
    leaking.write_bytes(bytes(before) + NAME + b"and more")
    assert sightings([tmp_path / "spool"], [b"nobody", NAME]) == [f"{leaking}: value 1"]


def test_a_log_is_looked_at_like_a_directory_and_what_is_clean_is_clean(tmp_path: Path) -> None:
    log = tmp_path / "edge-1.log"
    log.write_bytes(b"served Customer of a tes")
    assert sightings([log], [NAME]) == []
    log.write_bytes(b"served Customer of a test")
    assert sightings([log], [NAME]) == [f"{log}: value 0"]
