"""The command `isthmus`, as a user or a script meets it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deploy.cli.main import app
from deploy.local import preflight
from deploy.local.settings import Home
from security.keys.keyring import Keyring


def isthmus(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_status_without_a_mesh_is_one_line_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))
    answer = isthmus("status", "--json")
    assert answer.exit_code == 16
    assert answer.stdout == ""
    assert answer.stderr.strip().endswith("Start one with `make run`")
    assert len(answer.stderr.strip().splitlines()) == 1


def test_a_second_run_in_one_home_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))
    with preflight.open_home(Home(tmp_path)):
        answer = isthmus("run")
    assert answer.exit_code == 10
    assert len(answer.stderr.strip().splitlines()) == 1
    assert "A mesh already runs" in answer.stderr


def test_a_database_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_DATABASE_URL", "postgresql+psycopg://me:hunter2@db.example/isthmus")
    answer = isthmus("config", "dump", "--json")
    assert "db.example" in answer.stdout
    assert "hunter2" not in answer.stdout


def test_lists_are_json_arrays() -> None:
    for command in (("config", "dump"), ("policy", "lint"), ("policy", "table")):
        assert isinstance(json.loads(isthmus(*command, "--json").stdout), list), command


def test_a_method_is_explained_by_the_end_of_its_name() -> None:
    told = json.loads(isthmus("policy", "explain", "Orders.PlaceOrder", "--json").stdout)
    assert told["method"] == "isthmus.orders.v1.Orders.PlaceOrder"
    assert isthmus("policy", "explain", "NoSuchMethod").exit_code == 2


def test_whoever_types_no_command_is_told_which_there_are() -> None:
    shown = isthmus("--help").stdout
    for command in ("run", "status", "check", "demo", "policy", "config"):
        assert command in shown


def test_a_keyring_is_copied_and_brought_back_also_where_no_mesh_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))
    keyring, copy = tmp_path / "data" / "keys" / "members" / "keyring.json", tmp_path / "copy.json"
    recovery = ("--recovery-key", str(tmp_path / "recovery.key"))
    assert "keyring.json" in isthmus("keys", "backup", str(copy), *recovery).stderr
    Keyring.open(keyring)
    done = isthmus("keys", "backup", str(copy), *recovery, "--json")
    assert json.loads(done.stdout)["versions"] == [1]
    assert "not on record" in done.stderr
    there = isthmus("keys", "restore", str(copy), *recovery)
    assert there.exit_code != 0
    assert "Move it away first" in there.stderr
    keyring.unlink()
    assert isthmus("keys", "restore", str(copy), *recovery).exit_code == 0
    assert Keyring.open(keyring).id in copy.read_text()
    for refused in (("backup", str(copy), *recovery, "--room", "ads"), ("restore", str(tmp_path), *recovery)):
        assert isthmus("keys", *refused).exit_code != 0
