"""A FastAPI service whose handlers share a pool. Runs until Ctrl-C."""

import argparse
import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

import aiohttp
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from aiowebsocketclient import WebSocketClientSession, WebSocketPoolError
from aiowebsocketclient.testing import WebSocketServer


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the pool in this worker's event loop and process; close it at the end."""
    session = WebSocketClientSession(
        limit=100, max_waiting=500, acquire_timeout=5, conn_timeout=5, close_timeout=3
    )
    async with session:
        await session.prewarm(app.state.backend, 1)
        app.state.pool = session
        yield


async def pool_of(request: Request) -> WebSocketClientSession:
    pool: WebSocketClientSession = request.app.state.pool
    return pool


Pool = Annotated[WebSocketClientSession, Depends(pool_of)]
router = APIRouter()


@router.get("/ask")
async def ask(question: str, pool: Pool, request: Request) -> dict[str, str]:
    async with pool.ws_connect(request.app.state.backend) as ws:
        await ws.send_str(question)
        return {"answer": await ws.receive_str()}


@router.get("/")
async def health(pool: Pool) -> dict[str, Any]:
    return asdict(pool.stats())


async def too_much(request: Request, exc: Exception) -> JSONResponse:
    return JSONResponse({"detail": "try again"}, 503, headers={"Retry-After": "1"})


async def bad_gateway(request: Request, exc: Exception) -> JSONResponse:
    return JSONResponse({"detail": type(exc).__name__}, 502)


def make_app(backend: str) -> FastAPI:
    app = FastAPI(lifespan=lifespan)
    app.state.backend = backend
    app.include_router(router)
    # If two handlers match, Starlette calls the one for the closer class.
    app.add_exception_handler(WebSocketPoolError, too_much)
    app.add_exception_handler(aiohttp.ClientError, bad_gateway)
    # receive_str() raises WSMessageTypeError when the other side closes.
    app.add_exception_handler(aiohttp.WSMessageTypeError, bad_gateway)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="0: any free port")
    arguments = parser.parse_args()
    with WebSocketServer() as backend:
        uvicorn.run(make_app(backend.url), port=arguments.port)


if __name__ == "__main__":
    main()
