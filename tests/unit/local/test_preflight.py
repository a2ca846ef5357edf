"""What keeps a mesh from starting is said in one line, with its remedy."""

import os
import socket
from pathlib import Path

import pytest

from deploy.local import preflight
from deploy.local.errors import AlreadyRunning, DiskFull, HomeNotWritable, LauncherError, PortTaken, ToolMissing
from deploy.local.settings import Home, LauncherSettings
from deploy.local.table import Row
from deploy.local.topology import Listen, Process


def test_a_second_start_in_the_same_home_names_the_first(tmp_path: Path) -> None:
    with preflight.open_home(Home(tmp_path)), pytest.raises(AlreadyRunning, match=f"launcher pid {os.getpid()}"):
        preflight.open_home(Home(tmp_path))
    preflight.open_home(Home(tmp_path)).close()


def test_a_taken_port_is_named_with_who_needs_it_and_who_has_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        listens = (Listen("https", "127.0.0.1", port, "https"),)
        row = Row(Process("edge-gateway", "public", "edge-gateway", "edge-gateway", None, listens))
        with pytest.raises(PortTaken, match=rf"Port {port}, which edge-gateway needs \(https\), .*pid {os.getpid()}"):
            preflight.check_ports([row])


def test_a_nearly_full_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="Make room"):
        preflight.check_disk(LauncherSettings(home=tmp_path, disk_free_mib_min=2**40))


def test_networks_that_would_hide_the_users_own_database_are_refused(tmp_path: Path) -> None:
    settings = LauncherSettings(home=tmp_path, zone_networks=True, database_url="postgresql://db.example/isthmus")
    with pytest.raises(LauncherError, match="Leave out ISTHMUS_ZONE_NETWORKS or ISTHMUS_DATABASE_URL"):
        preflight.check_networks(settings)


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeNotWritable, match="Set ISTHMUS_HOME"):
        preflight.open_home(Home(tmp_path / "file" / "home"))


def test_an_old_java_is_refused_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_292\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ToolMissing, match=r"version 8.*openjdk-17-jre-headless"):
        preflight.java_version()


def test_no_java_is_refused_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match=r"no `java` on the PATH.*openjdk-17-jre-headless"):
        preflight.java_version()
