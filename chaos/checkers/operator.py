"""The operator's channels into a running mesh, by which its books are read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc

from chaos.checkers.books import Channel
from deploy.local.settings import Home
from deploy.local.topology import Topology
from mesh.channel import Channels
from mesh.contract import load
from mesh.tls import Identity


@asynccontextmanager
async def operator(home: Home, table: Topology) -> AsyncIterator[Channel]:
    """Channels to the first node of each private workload."""
    identity = Identity(home.identity("operator"))
    channels = Channels(identity, load())

    def to(workload: str) -> grpc.aio.Channel:
        nodes = (one for one in table.processes if one.workload == workload)
        return channels.direct(str(next(nodes).listen("grpc")), replace(identity.spiffe_id, workload=workload))

    try:
        yield to
    finally:
        await channels.close()
