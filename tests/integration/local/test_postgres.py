"""The embedded PostgreSQL."""

import os
from pathlib import Path

import psutil
from sqlalchemy import create_engine, text

from deploy.local import postgres
from deploy.local.mesh import LocalMesh


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
