"""What the contract calls personal lies in no column as text: the migrated database is held against the contract."""

import psycopg
import pytest

from mesh.contract import load
from mesh.contract.model import DataClass
from mesh.database.migrate import migrate, owners
from tests.integration.room import plain

# Columns of such a name that hold something else, and what.
OTHERWISE = {
    ("oauth", "clients", "name"): "what a program is called",
    ("oauth", "revocations", "name"): "what was revoked: an id, a digest",
    ("outbox", "event", "key"): "the id that events are kept apart by",
    ("payments", "difference", "name"): "what kind of difference it is",
    # Empty, by a constraint, as soon as the server has hashed what lay there before.
    ("oauth", "accounts", "login"): "nothing",
}
COLUMNS = """
    SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns
    WHERE table_schema = ANY(%s) AND column_name = ANY(%s)
    """


@pytest.fixture(scope="module")
def found(postgres_url: str) -> dict[tuple[str, str, str], str]:
    """The type of each column that has the name of a personal field."""
    migrate(postgres_url)
    contract = load()
    personal = {
        field.name
        for method in contract.methods.values()
        for message in (method.request, method.response)
        for field in contract.messages[message].values()
        if field.data_class >= DataClass.PERSONAL
    } | {field.name for field in contract.fields("isthmus.members.v1.Member").values() if field.data_class >= 3}
    schemas = [owner.schema for owner in owners()]
    with psycopg.connect(plain(postgres_url)) as connection:
        rows = connection.execute(COLUMNS, (schemas, sorted(personal))).fetchall()
    return {(schema, table, column): kind for schema, table, column, kind in rows}


def test_no_column_of_a_personal_fields_name_holds_text(found: dict[tuple[str, str, str], str]) -> None:
    assert {("members", "member", name) for name in ("phone", "name", "address")} <= found.keys()
    text = {place for place, kind in found.items() if kind != "bytea"}
    assert text == OTHERWISE.keys(), {place: found.get(place) for place in text ^ OTHERWISE.keys()}
