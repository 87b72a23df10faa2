"""The servers of the other end of the cable: they send back what they get."""

import asyncio
import os
import socket

ADDRESS = "192.0.2.10"
PORTS = range(7001, 7060)


async def serve(reader, writer):
    try:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def main():
    for port in PORTS:
        await asyncio.start_server(serve, ADDRESS, port, backlog=1024)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    await asyncio.Event().wait()


asyncio.run(main())
