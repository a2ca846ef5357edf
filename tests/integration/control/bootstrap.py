"""With which servers of configuration the `xds:///` channels of the tests' own process begin."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from envoy.service.status.v3 import csds_pb2

from mesh.csds import applied
from tests.integration.control.world import eventually


@asynccontextmanager
async def bootstrapped(file: Path | str) -> AsyncIterator[None]:
    """Channels that are opened in here read this file.

    gRPC reads none while a channel that an earlier test has closed is not gone altogether: it goes on with the one of
    that channel.
    """
    await eventually(_none_left, "the channels of earlier tests are gone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPC_XDS_BOOTSTRAP", str(file))
        yield


async def _none_left() -> bool:
    # A call that failed, in a cycle with its own error, keeps its channel.
    gc.collect()
    return not csds_pb2.ClientStatusResponse.FromString(applied()).config
