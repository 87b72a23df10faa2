"""reset.py SCNPM DIRECTORY UNITS ROUNDS: how long a policy is not whole after `nft flush ruleset; nft -f FILE`, with so many units
alive. In a network namespace of its own, with a cgroup2 mount whose cgroups may be made. Prints milliseconds from nft's commit to that
of scnpm's which makes it whole (median and worst), and how many elements the kernel has at the end."""

import contextlib
import ctypes
import json
import os
import pathlib
import select
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time

BASE = "table inet filter {\n    chain allowed { }\n    chain output { type filter hook output priority 0; jump allowed; }\n}\n"
CGROUPS = pathlib.Path("/sys/fs/cgroup")
SLICE = "scnpmbench.slice"
NEWGEN, PROC_NAME = 10 << 8 | 15, 3


def policy(units):
    match = f'socket cgroupv2 level 2 "{SLICE}/bench%d.service" tcp dport %d accept'
    rules = [f"# bench{one}.service :: add rule inet filter allowed " + match % (one, one + 1) for one in range(units)]
    return BASE + "\n".join(rules) + "\n"


class Commits:
    """Who committed, and when, as the kernel tells it."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        # Else thousands of other messages would have to be read before the one that is waited for. In classic BPF: load the type
        # of the message (in network byte order), and take it if it is this one.
        kind = struct.unpack(">H", struct.pack("=H", NEWGEN))[0]
        filter_ = struct.pack("=HBBIHBBIHBBIHBBI", 0x28, 0, 0, 4, 0x15, 0, 1, kind, 0x06, 0, 0, 0xFFFFFFFF, 0x06, 0, 0, 0)
        instructions = ctypes.create_string_buffer(filter_)
        program = struct.pack("@HP", len(filter_) // 8, ctypes.addressof(instructions))
        self.socket.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER
        self.socket.bind((0, 1 << 6))

    def read(self, seconds):
        """Names and times until it was quiet for so long."""
        found = []
        while select.select([self.socket], [], [], seconds)[0]:
            data, at = self.socket.recv(1 << 16), time.monotonic()
            while len(data) >= 16:
                length, kind = struct.unpack_from("=IH", data)
                if kind == NEWGEN:
                    found.append((self.name(data[20:length]), at))
                data = data[(length + 3) & ~3 :]
        return found

    @staticmethod
    def name(attributes):
        while len(attributes) >= 4:
            length, kind = struct.unpack_from("=HH", attributes)
            if kind == PROC_NAME:
                return attributes[4 : length - 1].decode()
            attributes = attributes[(length + 3) & ~3 :]
        return ""


def discard(notices):
    with contextlib.suppress(OSError):
        while notices.recv(4096):
            pass


def elements():
    listed = json.loads(subprocess.check_output(["nft", "-j", "list", "maps"]))["nftables"]
    return sum(len(one["map"].get("elem", [])) for one in listed if "map" in one)


def main():
    scnpm, directory, units, rounds = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    file = directory / "reset.nft"
    file.write_text(policy(units))
    made = [CGROUPS / SLICE] + [CGROUPS / SLICE / f"bench{one}.service" for one in range(units)]
    subprocess.run(["nft", "-f", file], check=True)
    daemon = None
    try:
        for cgroup in made:
            # A run that was interrupted leaves them.
            cgroup.mkdir(exist_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices, open(directory / "reset.log", "w") as log:
            (directory / "notify").unlink(missing_ok=True)
            notices.bind(str(directory / "notify"))
            environment = {**os.environ, "NOTIFY_SOCKET": notices.getsockname()}
            # With the priority that the unit file asks for.
            command = ["chrt", "--rr", "1", scnpm, "--sources", "cgroup", file]
            daemon = subprocess.Popen(command, env=environment, stderr=log)
            while b"READY=1" not in notices.recv(4096):
                pass
            # As systemd does: who does not read is waited for.
            threading.Thread(target=discard, args=[notices], daemon=True).start()
            commits = Commits()
            took = []
            for _ in range(rounds):
                subprocess.run(["nft", "flush", "ruleset"], check=True)
                subprocess.run(["nft", "-f", file], check=True)
                found = commits.read(0.3)
                ours = max((at for name, at in found if name != "nft"), default=float("inf"))
                took.append(1000 * (ours - max(at for name, at in found if name == "nft")))
        print(f"{statistics.median(took):.1f} {max(took):.1f} {elements()}")
    finally:
        if daemon:
            daemon.terminate()
            daemon.wait()
        if made[0].exists():
            for cgroup in [*filter(pathlib.Path.is_dir, made[0].iterdir()), made[0]]:
                cgroup.rmdir()


main()
