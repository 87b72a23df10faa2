"""The servers of the other end of the cable: they send back what they get. (asyncio takes seconds to load in the machine.)"""

import contextlib
import os
import selectors
import socket

ADDRESS = "192.0.2.10"
PORTS = range(7001, 7060)


def send_back(connection):
    data = b""
    with contextlib.suppress(OSError):
        data = connection.recv(4096)
        connection.sendall(data)
    return data


def main():
    selector = selectors.DefaultSelector()
    for port in PORTS:
        selector.register(socket.create_server((ADDRESS, port), backlog=1024), selectors.EVENT_READ, "server")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    while True:
        for key, _ in selector.select():
            if key.data == "server":
                selector.register(key.fileobj.accept()[0], selectors.EVENT_READ)
            elif not send_back(key.fileobj):
                selector.unregister(key.fileobj)
                key.fileobj.close()


main()
