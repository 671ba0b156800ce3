"""A server in a process of its own, so that what a script counts is the client's alone.

It ends with its standard input.  Beside the paths of ``servers.Server``:

* ``/dies``: closes the socket without a word a moment after a message;
* ``/pings``: answers a message, which is a number, with that many pings, and leaves when all of
  them have come back.

It listens on every address of the machine, so that 127.0.0.0/8 are as many endpoints.
"""

import asyncio
import sys
from pathlib import Path

from aiohttp import WSMsgType, web

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers import Server

# Long enough for the client to have released what it sent the message on.
MOMENT = 0.01


async def dies(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    await ws.receive()
    await asyncio.sleep(MOMENT)
    assert request.transport is not None
    request.transport.abort()
    return ws


async def pings(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(autoping=False)
    await ws.prepare(request)
    wanted = int(await ws.receive_str())
    await asyncio.sleep(MOMENT)
    for number in range(wanted):
        payload = b"%d" % number
        await ws.ping(payload)
        message = await ws.receive()
        assert (message.type, bytes(message.data)) == (WSMsgType.PONG, payload)
    await ws.close()
    return ws


async def main() -> None:
    app = web.Application()
    app.router.add_get("/dies", dies)
    app.router.add_get("/pings", pings)
    app.router.add_route("GET", "/{path:.*}", Server().handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0, backlog=2048).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    # Whatever is still going on ends with the process.


if __name__ == "__main__":
    asyncio.run(main())
