"""A session in a terminal, for docs/pictures.sh: puts files where they belong, runs commands that are not shown, then those that
are, and prints all that the terminal got, in base64, as the last line."""

import base64
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios

import machine as m


def run(command, of_root, columns, lines):
    """What a command prints in a terminal of this size, by root or by an ordinary user."""
    process, wire = pty.fork()
    if process == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {"PATH": "/usr/sbin:/usr/bin", "TERM": "xterm", "LANG": "C.UTF-8", "SYSTEMD_PAGER": ""}
        words = ["bash", "-c", command]
        if not of_root:
            words = ["setpriv", f"--reuid={m.UID}", f"--regid={m.UID}", "--clear-groups", *words]
        os.execvpe(words[0], words, environment)
    said = b""
    while True:
        try:
            piece = os.read(wire, 65536)
        except OSError:
            piece = b""
        if not piece:
            break
        said += piece
    os.waitpid(process, 0)
    os.close(wire)
    return said


def main():
    wanted = json.loads(sys.argv[1])
    m.run("systemctl", "stop", "nftables.service", "scnpm.service")
    for path, text in wanted["files"].items():
        with open(path, "w") as file:
            file.write(text)
    for command in wanted["before"]:
        subprocess.run(["bash", "-c", command], check=True, stdout=sys.stderr)
    said = b""
    for prompt, command in wanted["session"]:
        said += f"\x1b[1m{prompt} {command}\x1b[0m\r\n".encode()
        said += run(command, prompt == "#", wanted["columns"], wanted["lines"])
    print(base64.b64encode(said).decode())


main()
