"""The embedded PostgreSQL."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text

from chaos.drill.custody import heal_leftovers
from chaos.drill.target import Target
from deploy.local import postgres, replication, slow_disk
from deploy.local.mesh import LocalMesh
from deploy.local.settings import LauncherSettings
from tests.integration.conftest import Background
from tests.integration.local.killed_runner import killed

DEADLINE_S = 60.0


def ask(url: str, question: str) -> object:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.execute(text(question)).scalar()
    finally:
        engine.dispose()


def test_a_module_gets_an_empty_database(postgres_url: str) -> None:
    assert ask(postgres_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


def test_it_listens_on_no_network(postgres_server: LocalMesh, postgres_url: str) -> None:
    assert ask(postgres_url, "SHOW listen_addresses") == ""
    pid = postgres_server.process("postgres").pid
    assert pid is not None
    assert not [one for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN]


def test_an_answered_commit_is_on_the_disk(postgres_url: str) -> None:
    assert [ask(postgres_url, f"SHOW {name}") for name in ("fsync", "full_page_writes", "synchronous_commit")] == [
        "on"
    ] * 3


def test_it_never_runs_as_root(postgres_server: LocalMesh) -> None:
    pid = postgres_server.process("postgres").pid
    assert pid is not None
    assert psutil.Process(pid).uids().effective != 0


def test_it_has_no_capability_but_reading_past_directory_modes(postgres_server: LocalMesh) -> None:
    pid = postgres_server.process("postgres").pid
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    assert effective & ~(1 << postgres.CAP_DAC_READ_SEARCH) == 0


def test_its_socket_is_for_the_user_of_the_mesh_alone(postgres_server: LocalMesh) -> None:
    directory = postgres_server.home.sockets("postgres")
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / ".s.PGSQL.5432").stat().st_mode & 0o777 == 0o700
    assert os.access(directory, os.R_OK)


def test_a_slow_disk_holds_up_every_commit_until_it_is_healed(
    postgres_server: LocalMesh, postgres_url: str, background: Background
) -> None:
    def delay() -> tuple[object, object]:
        return ask(postgres_url, "SHOW commit_delay"), ask(postgres_url, "SHOW commit_siblings")

    before = delay()
    background.run(slow_disk.slow(postgres_server.home, "postgres", 12.5))
    becomes(delay, ("12500", "0"))
    background.run(slow_disk.quick(postgres_server.home, "postgres"))
    becomes(delay, before)


def test_a_slow_disk_is_quick_again_after_the_runner_of_its_drill_was_killed(
    postgres_server: LocalMesh, postgres_url: str, background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = postgres_server.home
    monkeypatch.setenv("ISTHMUS_HOME", str(home.root))
    fault = {"do": "slow-disk", "names": ["postgres"], "for_s": 500.0, "latency_ms": 5.0}
    radius = {"workloads": ["postgres"], "whole": ["postgres"], "processes_max": 1}
    before = ask(postgres_url, "SHOW commit_delay")
    background.run(killed(home.root, radius, [("break_processes", fault)]))
    becomes(lambda: ask(postgres_url, "SHOW commit_delay"), "5000")
    assert heal_leftovers(Target(LauncherSettings())) == ["postgres: slow-disk"]
    becomes(lambda: ask(postgres_url, "SHOW commit_delay"), before)


def test_a_slow_disk_does_not_outlive_a_launcher_that_was_killed(tmp_path: Path) -> None:
    settings = tmp_path / "postgresql.auto.conf"
    settings.write_text("work_mem = '1MB'\ncommit_delay = '12500'\ncommit_siblings = '0'\n")
    replication.stand_alone(tmp_path)
    assert settings.read_text() == "work_mem = '1MB'\n"


def becomes(read: Callable[[], object], wanted: object) -> None:
    ends = time.monotonic() + DEADLINE_S
    while read() != wanted:
        assert time.monotonic() < ends, f"{read()} is not {wanted}"
        time.sleep(0.05)
