from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.edge.edge_room import EdgeRoom


@pytest.fixture
def room(tmp_path: Path) -> Iterator[EdgeRoom]:
    made = EdgeRoom(tmp_path / "spool")
    yield made
    made.spool.close()
