"""A workload of the running mesh, called as the mesh's operator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from deploy.local import topology
from deploy.local.errors import LauncherError, NotRunning
from deploy.local.settings import LauncherSettings
from mesh.channel import Channels
from mesh.contract import load
from mesh.errors import MeshError
from mesh.spiffe import SpiffeId
from mesh.tls import Identity, IdentityError


@asynccontextmanager
async def operated(workload: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the first process of a private workload. Failures become one line with a remedy."""
    home = LauncherSettings().layout
    table = topology.read(home.topology)
    listens = [process.listen("grpc") for process in table.processes if process.workload == workload]
    listen = next((listen for listen in listens if listen is not None), None)
    if listen is None:
        raise NotRunning(f"{workload} does not listen", "Start the mesh with `make run`")
    try:
        channels = Channels(Identity(home.identity("operator")), load())
        try:
            yield channels.direct(str(listen), SpiffeId("private", workload, table.trust_domain))
        finally:
            await channels.close(0)
    except (MeshError, IdentityError) as error:
        remedy = (isinstance(error, MeshError) and error.remedy) or "See `isthmus status`"
        raise LauncherError(f"{workload} did not do it: {error}", remedy) from error
