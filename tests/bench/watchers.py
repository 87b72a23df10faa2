"""watchers.py SOCKET COUNT SILENT: that many connections which watch scnpm's status, some of which read nothing.

Prints a line when all are connected, and ends with its standard input.
"""

import selectors
import socket
import sys

CALL = b'{"method":"io.scnpm.GetStatus","parameters":{},"more":true}\0'


def main(path, count, silent):
    events = selectors.DefaultSelector()
    watchers = []
    for number in range(count):
        watcher = socket.socket(socket.AF_UNIX)
        watcher.connect(path)
        watcher.sendall(CALL)
        watchers.append(watcher)
        if number >= silent:
            if not watcher.recv(1 << 20):
                sys.exit(f"watcher {number} was turned away")
            events.register(watcher, selectors.EVENT_READ)
    print("watching", flush=True)
    events.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in events.select():
            if key.fileobj is sys.stdin:
                return
            if not key.fileobj.recv(1 << 20):
                sys.exit("a watcher that reads was turned away")


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
