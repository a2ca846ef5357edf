"""Processes read the newest revision of their schema without Alembic, and come to the same."""

from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from mesh.database.migrate import Owner, newest, owners
from mesh.errors import FailedPrecondition


@pytest.mark.parametrize("owner", owners(), ids=lambda owner: owner.schema)
def test_the_newest_revision_is_the_one_that_alembic_finds(owner: Owner) -> None:
    scripts = ScriptDirectory(str(owner.versions.parent), version_locations=[str(owner.versions)])
    assert newest(owner) == scripts.get_current_head()


def test_two_newest_revisions_are_refused(tmp_path: Path) -> None:
    for name in ("0002", "0003"):
        (tmp_path / f"{name}.py").write_text(f'revision: str = "{name}"\ndown_revision = "0001"\n')
    (tmp_path / "0001.py").write_text('revision = "0001"\ndown_revision = None\n')
    with pytest.raises(FailedPrecondition, match="2 newest"):
        newest(Owner("orders", tmp_path))
