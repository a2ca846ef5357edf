"""The operator's channels into a running mesh, by which its books are read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc

from chaos.checkers.books import Channel
from deploy.local.settings import Home
from deploy.local.topology import Topology
from mesh.channel import Channels
from mesh.contract import load
from mesh.tls import Identity


@asynccontextmanager
async def operator(home: Home, table: Topology) -> AsyncIterator[Channel]:
    """Channels to the first node of each private workload. Ask anew before each call: a channel knows the roots and the
    leaf of its opening, and another is opened when these have been rotated."""
    identity, contract = Identity(home.identity("operator")), load()
    opened: dict[Path, Channels] = {}

    def to(workload: str) -> grpc.aio.Channel:
        version = identity.leaf.directory
        if version not in opened:
            opened[version] = Channels(identity, contract)
        nodes = (one for one in table.processes if one.workload == workload)
        address = str(next(nodes).listen("grpc"))
        return opened[version].direct(address, replace(identity.spiffe_id, workload=workload))

    try:
        yield to
    finally:
        for channels in opened.values():
            await channels.close()
