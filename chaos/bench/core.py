"""How fast the private core is, beside the bare primitives that it stands on, on the same database in the same run.

Rounds of both sides are interleaved and a ratio is the median of the rounds' ratios, so that a neighbour on the machine
disturbs both sides. No service and no wire are measured here: what a call adds to them is the same for every method.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy.engine.default import DefaultDialect

from chaos.bench import books, leaves
from chaos.bench.report import Result
from chaos.bench.rounds import ROUNDS, compared, timed
from chaos.bench.tools import free_ports
from deploy.local import migrate, postgres
from deploy.local.mesh import LocalMesh
from mesh.database.migrate import migrate as upgrade
from private_core.members.store import MEMBER
from private_core.storage.encrypted import Encrypted, RowCipher
from security.keys.envelope import DataKey
from security.keys.port import KekRef

SEALED: Final = 1_000
_PARTICULARS: Final = {
    "phone": "+8613812340099",
    "name": "Marisol Vandenbroucke",
    "address": "7 Quillfeather Lane, Shenzhen",
}


def run(home: Path) -> list[Result]:
    """Measure under `home`/bench/core."""
    bench = home / "bench" / "core"
    shutil.rmtree(bench, ignore_errors=True)
    bench.mkdir(parents=True)
    try:
        return asyncio.run(_measure(bench))
    finally:
        shutil.rmtree(bench, ignore_errors=True)


async def _measure(bench: Path) -> list[Result]:
    results = [_sealing()]
    names = ("few_books", "many_books", "few_leaves", "many_leaves")
    async with _databases(bench, *names) as (few_books, many_books, few_leaves, many_leaves):
        results += await books.measure(few_books, many_books)
        results += await leaves.measure(few_leaves, many_leaves, bench)
    return results


@contextlib.asynccontextmanager
async def _databases(bench: Path, *names: str) -> AsyncIterator[list[str]]:
    """A server of its own, and a migrated database of each name."""
    mesh = LocalMesh(bench / "home", free_ports(1)[0], only=("postgres",))
    await mesh.start()
    try:
        urls = [postgres.url(mesh.home, name) for name in names]
        for url in urls:
            migrate.create_database(url)
            upgrade(url)
        yield urls
    finally:
        await mesh.stop()


def _sealing() -> Result:
    """A member's record through every layer that stands between the service and SQL, against the cipher alone."""
    cipher, row, key = RowCipher(MEMBER, "isthmus"), secrets.token_hex(18), os.urandom(32)
    data_key, bare = DataKey(os.urandom(16), KekRef("local-5f0c1d2e", 1), key), AESGCM(key)
    bound = Encrypted().bind_processor(DefaultDialect())
    associated = os.urandom(120)

    def ours() -> None:
        for _ in range(SEALED):
            sealed = cipher.seal(data_key, row, _PARTICULARS)
            # The driver stores these bytes and gives them back as they are.
            cipher.open(data_key, row, {name: bound(each) or b"" for name, each in sealed.items()})

    def alone() -> None:
        for _ in range(SEALED):
            stored = {}
            for name, text in _PARTICULARS.items():
                nonce = os.urandom(12)
                stored[name] = nonce + bare.encrypt(nonce, text.encode(), associated)
            _ = {name: bare.decrypt(each[:12], each[12:], associated).decode() for name, each in stored.items()}

    ours()
    alone()
    rounds = [(timed(ours), timed(alone)) for _ in range(5 * ROUNDS)]
    return compared("a member's record sealed and opened", "records/s", "AESGCM alone", SEALED, rounds, 0.5)
