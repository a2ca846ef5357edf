"""How a command speaks to the running mesh: as its operator, over mutual TLS."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc.aio


@asynccontextmanager
async def channels(workload: str) -> "AsyncIterator[list[grpc.aio.Channel]]":
    """A channel to each process of a private workload.

    Raises LauncherError when the mesh does not run, or an answer is an error: then with the reason and its remedy.
    """
    from deploy.local import topology
    from deploy.local.errors import LauncherError, NotRunning
    from deploy.local.settings import LauncherSettings
    from mesh.channel import Channels
    from mesh.contract import load
    from mesh.errors import MeshError
    from mesh.spiffe import SpiffeId
    from mesh.tls import Identity, IdentityError

    home = LauncherSettings().layout
    table = topology.read(home.topology)
    listens = [process.listen("grpc") for process in table.processes if process.workload == workload and process.pid]
    found = [str(listen) for listen in listens if listen is not None]
    if not found:
        raise NotRunning(f"No process of {workload} listens", "Start the mesh with `make run`")
    try:
        opened = Channels(Identity(home.identity("operator")), load())
        try:
            peer = SpiffeId("private", workload, table.trust_domain)
            yield [opened.direct(address, peer) for address in found]
        finally:
            await opened.close(0)
    except IdentityError as error:
        raise LauncherError(f"The operator has no identity: {error}", "See `isthmus status`") from error
    except MeshError as error:
        remedy = error.remedy or "See `isthmus status`"
        raise LauncherError(f"{workload} answered {error.reason}: {error.message}", remedy) from error


@asynccontextmanager
async def gateway(scope: str) -> "AsyncIterator[grpc.aio.Channel]":
    """A channel for methods that ask for a token, through the core gateway. The operator's is bound to its certificate.

    Raises LauncherError as `channels` does.
    """
    from deploy.local import topology
    from deploy.local.errors import LauncherError, NotRunning
    from deploy.local.mesh import urls
    from deploy.local.settings import LauncherSettings
    from mesh.client.isthmus import Isthmus
    from mesh.client.token import ClientToken
    from mesh.errors import MeshError

    home = LauncherSettings().layout
    identity = home.identity("operator")
    if not identity.exists():
        raise NotRunning("The operator has no identity", "Start the mesh with `make run`")
    token = ClientToken("operator", None, scope)
    root, own = identity / "bundle.pem", identity / "keypair.pem"
    try:
        url = urls(home, topology.read(home.topology))["core_gateway"]
        async with Isthmus(url, token, root_certificate=root, certificate=own) as mesh:
            yield mesh.channel
    except MeshError as error:
        remedy = error.remedy or "See `isthmus status`"
        raise LauncherError(f"The core gateway answered {error.reason}: {error.message}", remedy) from error
