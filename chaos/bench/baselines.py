"""What the edge is measured against: servers that do nothing."""

from typing import Any

from fastapi import FastAPI


async def hello(scope: Any, proto: Any) -> None:
    """A bare RSGI application for granian."""
    proto.response_bytes(200, [("content-type", "text/plain")], b"hello")


def constant() -> FastAPI:
    """FastAPI returning a constant, for uvicorn."""
    app = FastAPI()

    @app.get("/v1/ads:decide")
    async def decide() -> dict[str, str]:
        return {"impression_id": "", "click_url": ""}

    return app
