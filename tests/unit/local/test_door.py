"""The launcher's door: one line in, one line out, for its user alone."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from deploy.local import door
from deploy.local.door import Door, Refused
from deploy.local.errors import LauncherError, NotRunning
from deploy.local.leases import BadFault


async def handler(request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] != "echo":
        raise BadFault("only echo")
    return {"said": request["say"]}


@pytest.fixture
async def entrance(tmp_path: Path) -> Any:
    entrance = Door(tmp_path / "sockets" / "door.sock", handler)
    await entrance.open()
    yield tmp_path / "sockets" / "door.sock"
    await entrance.close()


async def test_an_answer_comes_back(entrance: Path) -> None:
    answer = await asyncio.to_thread(door.call, entrance, do="echo", say="hello")
    assert answer["said"] == "hello"


async def test_a_refusal_says_why(entrance: Path) -> None:
    with pytest.raises(Refused, match="only echo"):
        await asyncio.to_thread(door.call, entrance, do="other")


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b"{}\n", b'{"do":1}\n', b"\n", b"\xff\n"])
async def test_what_is_no_request_is_refused(entrance: Path, line: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(entrance))
    writer.write(line)
    assert b'"ok": false' in await reader.readline()
    writer.close()


async def test_only_its_user_may_open_it(entrance: Path) -> None:
    assert (entrance.stat().st_mode & 0o777, entrance.parent.stat().st_mode & 0o777) == (0o600, 0o700)


async def test_nobody_behind_the_door_is_no_mesh(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        await asyncio.to_thread(door.call, tmp_path / "door.sock", do="echo")


@pytest.mark.parametrize("how", ["open to others", "a link"])
async def test_a_directory_that_is_not_ours_alone_is_refused(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "sockets"
    if how == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        directory.symlink_to(tmp_path / "elsewhere")
    else:
        directory.mkdir()
        directory.chmod(0o755)
    with pytest.raises(LauncherError, match="open to others"):
        await Door(directory / "door.sock", handler).open()
