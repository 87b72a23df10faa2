"""What docs/pictures.sh and docs/session.sh run: the world, units, and a terminal whose screen becomes a picture."""

import asyncio
import base64
import ctypes
import fcntl
import json
import os
import pty
import re
import select
import socket
import struct
import sys
import termios
import time
from html import escape, unescape

SERVED = [
    ("tcp", "192.0.2.25", 25),
    ("udp", "192.0.2.53", 53),
    ("tcp", "198.51.100.7", 22),
    ("tcp", "203.0.113.9", 443),
    ("tcp", "2001:db8:443::7", 443),
]


def world(process):
    """Serves whoever gets through, in the network namespace of a process."""
    with open(f"/proc/{process}/ns/net") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    async def take(reader, writer):
        while await reader.read(65536):
            pass
        writer.close()

    async def serve():
        loop = asyncio.get_running_loop()
        for protocol, address, port in SERVED:
            if protocol == "tcp":
                await asyncio.start_server(take, address, port)
            else:
                await loop.create_datagram_endpoint(asyncio.DatagramProtocol, (address, port))
        await asyncio.Event().wait()

    asyncio.run(serve())


def unit(size, rate, protocol, address, port):
    """Sends, and tries again when it is refused."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    pause = 1 / float(rate)
    while True:
        try:
            with socket.socket(family, kind) as wire:
                wire.settimeout(2)
                wire.connect((address, int(port)))
                while True:
                    wire.send(b"x" * int(size))
                    time.sleep(pause)
        except OSError:
            time.sleep(pause)


# The colours of a terminal with a dark background, by pyte's names for them.
INK, PAPER, FAINT = "#d8d8d8", "#1c1f26", "#8a8f99"
COLOURS = {"cd0000": "#ef6b73", "00cd00": "#8fd694", "cdcd00": "#f0c674", "00cdcd": "#7fd6e0"}
NAMED = {"red": "#ef6b73", "green": "#8fd694", "brown": "#f0c674", "cyan": "#7fd6e0"}
CELL, LINE, SIZE = 8.43, 17, 14


def make_screen(pyte, columns, lines):
    class Screen(pyte.Screen):
        """pyte knows no faint text: it is kept as italics, which nothing here has."""

        def select_graphic_rendition(self, *attributes, **more):
            if attributes[:2] in [(38, 5), (48, 5)]:
                return super().select_graphic_rendition(*attributes, **more)
            mapped = []
            for attribute in attributes:
                mapped += {2: [3], 22: [22, 23]}.get(attribute, [attribute])
            return super().select_graphic_rendition(*mapped, **more)

    return Screen(columns, lines)


class Terminal:
    """A program in a terminal."""

    def __init__(self, words, columns, lines):
        import pyte

        self.screen = make_screen(pyte, columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.process, self.wire = pty.fork()
        if self.process == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            os.environ["TERM"] = "xterm"
            os.environ.pop("NO_COLOR", None)
            os.execv(words[0], words)
        fcntl.ioctl(self.wire, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def look(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.wire], [], [], left)[0]:
                try:
                    self.stream.feed(os.read(self.wire, 65536))
                except OSError:
                    return

    def shows(self, text):
        for _ in range(200):
            self.look(0.1)
            if any(text in line for line in self.screen.display):
                return
        raise SystemExit("no `%s` on the screen:\n%s" % (text, "\n".join(self.screen.display)))

    def press(self, keys, seconds=0.6):
        os.write(self.wire, keys.encode())
        self.look(seconds)

    def end(self):
        self.press("q")
        _, status = os.waitpid(self.process, 0)
        if status != 0:
            raise SystemExit(f"it ended with the status {status}")

    def picture(self, title):
        return svg(self.screen, title)


def svg(screen, title):
    """A screen as SVG: each run of cells that look alike is a text of a fixed length, whatever the font."""
    columns, lines = screen.columns, screen.lines
    width, height = columns * CELL + 20, lines * LINE + 20
    shapes = []
    for y in range(lines):
        row = [screen.buffer[y][x] for x in range(columns)]
        x = 0
        while x < columns:
            start, look = x, row[x]._replace(data="")
            while x < columns and row[x]._replace(data="") == look:
                x += 1
            text = "".join(cell.data for cell in row[start:x])
            shapes += run(text, look, start, y, x - start)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
            f'font-family="DejaVu Sans Mono, Liberation Mono, Menlo, Consolas, monospace" font-size="{SIZE}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="100%" height="100%" rx="6" fill="{PAPER}"/>',
            *shapes,
            "</svg>\n",
        ]
    )


def run(text, look, column, line, cells):
    ink = COLOURS.get(look.fg) or NAMED.get(look.fg) or (FAINT if look.italics else INK)
    x, y, length = 10 + column * CELL, 10 + line * LINE, cells * CELL
    if look.reverse:
        yield f'<rect x="{x:g}" y="{y:g}" width="{length:g}" height="{LINE}" fill="{ink}"/>'
        ink = PAPER
    # Spaces at the ends of a run need not be drawn.
    begin = len(text) - len(text.lstrip(" "))
    text = text.strip(" ")
    if text:
        weight = ' font-weight="bold"' if look.bold else ""
        yield (
            f'<text x="{x + begin * CELL:g}" y="{y + 13:g}" textLength="{len(text) * CELL:g}" xml:space="preserve" '
            f'fill="{ink}"{weight}>{escape(text)}</text>'
        )


def pictures(program, work):
    command = [program, "top", "--socket", f"{work}/control"]

    def keep(name, terminal, title):
        with open(f"{work}/{name}.svg", "w") as file:
            file.write(terminal.picture(title))

    small = Terminal(command, 80, 24)
    small.shows("bytes/s")
    small.shows("Weather")
    small.look(6)
    keep("top", small, "scnpm top: units, and what was refused")
    small.press("\t")
    while not any("Weather-2954.scope to" in line for line in small.screen.display):
        small.press("j")
    small.press("a")
    small.shows("[y/N]")
    keep("top-allow", small, "scnpm top: a question before something is allowed for 5 minutes")
    small.press("y", 2)
    small.shows("ALLOWED")
    small.end()

    wide = Terminal(command, 200, 50)
    wide.shows("bytes/s")
    wide.shows("ALLOWED")
    wide.look(6)
    keep("top-wide", wide, "scnpm top in 200 columns")
    wide.end()


# The session in README.md: its files and commands, those that are not shown first.
BEFORE = ["systemd-run --unit=door systemd-socket-activate --listen=7022 --accept --inetd echo welcome"]
SESSION = [
    ("$", "tail -n 1 /etc/nftables.conf"),
    ("$", "scnpm check /etc/nftables.conf"),
    ("#", "nft -f /etc/nftables.conf"),
    ("#", "systemctl enable --now nftables.service scnpm.service"),
    ("$", "cat </dev/tcp/localhost/7022"),
    ("#", "systemctl start backup.service"),
    ("$", "scnpm status"),
]
# What only the picture has.
OF_PICTURE = {"tail -n 1 /etc/nftables.conf"}


def wanted(readme):
    """Prints what tests/booted/session.py is to do, as JSON."""
    with open(readme) as file:
        text = file.read()
    files = dict(re.findall(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    for command in [*BEFORE, *(command for _, command in SESSION)]:
        if command not in OF_PICTURE and not re.search(rf"^[$#] {re.escape(command)}$", text, re.MULTILINE):
            raise SystemExit(f"README.md does not have the command `{command}` any more: mend docs/pictures.py")
    print(json.dumps({"files": files, "before": BEFORE, "session": SESSION, "columns": 102, "lines": 40}))


def session(wanted, said, path, *options):
    """Makes the picture of what a terminal got; with `--check` says whether the one there is still right."""
    import pyte

    screen = make_screen(pyte, json.loads(wanted)["columns"], 200)
    pyte.ByteStream(screen).feed(base64.b64decode(said))
    # What is below was never written to.
    screen.lines = max((number for number, line in enumerate(screen.display, 1) if line.strip()), default=0)
    made = svg(screen, "scnpm check, a refusal, a start, scnpm status")
    for needed in ["no problems found", "Connection refused", "all is in force"]:
        if needed not in words(made):
            sys.exit(f"the terminal does not show `{needed}`:\n{words(made)}")
    if "--check" not in options:
        with open(path, "w") as file:
            file.write(made)
        return
    with open(path) as file:
        kept = file.read()
    if words(kept) != words(made):
        sys.exit(f"{path} is not what a terminal shows today: make it anew with docs/session.sh\n{words(made)}")
    print(f"{path} is what a terminal shows today")


# The pictures of `scnpm top`, and the screens in tests/top that have the same columns.
TOPS = {"top.svg": "80x24.txt", "top-wide.svg": "200x50.txt", "top-allow.svg": "allow.txt"}


def tops(docs, screens):
    """Says whether the pictures of `scnpm top` have the columns that it has today."""
    for picture, screen in TOPS.items():
        with open(f"{screens}/{screen}") as file:
            lines = [" ".join(line.split()) for line in file]
        heads = [line for line in lines if "UNIT" in line.split() and line == line.upper()]
        with open(f"{docs}/{picture}") as file:
            shown = words(file.read()).split("\n")
        if len(heads) != 2 or not set(heads) <= set(shown):
            sys.exit(f"{docs}/{picture} does not have the columns {heads}: make it anew with docs/pictures.sh")
        print(f"{docs}/{picture} has the columns of today")


# Processes, times and how often a source was the first: they differ each time.
VARYING = [(r"process \d+", "process N"), (r"\d+(\.\d+)? (ms|s)\b", r"N \2"), (r"tell (once|\d+ times)", "tell N times")]


def words(picture):
    """The text of a picture, line by line, without what differs each time and with single spaces between columns."""
    lines = {}
    for y, text in re.findall(r'<text x="\S+" y="(\S+)"[^>]*>(.*?)</text>', picture):
        lines[float(y)] = lines.get(float(y), "") + " " + unescape(text)
    text = "\n".join(" ".join(lines[y].split()) for y in sorted(lines))
    for pattern, replacement in VARYING:
        text = re.sub(pattern, replacement, text)
    return text


if __name__ == "__main__":
    {"world": world, "unit": unit, "pictures": pictures, "wanted": wanted, "session": session, "tops": tops}[sys.argv[1]](*sys.argv[2:])
