"""load.py SCNPM DIRECTORY NUMBER: how long a policy of that many annotations takes until systemd is told that it is in force,
and what the daemon holds then. In a network namespace of its own. Prints: milliseconds of the load and of a reload, resident
memory after each (kB), and how many elements the last state speaks of."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

BASE = "table inet filter {\n    chain allowed { }\n    chain output { type filter hook output priority 0; jump allowed; }\n}\n"


def policy(number):
    match = 'socket cgroupv2 level 2 "system.slice/bench%d.service" tcp dport %d accept'
    rules = [f"# bench{each}.service :: add rule inet filter allowed " + match % (each, each + 1) for each in range(number)]
    return BASE + "\n".join(rules) + "\n"


def until_ready(notices):
    """What systemd was told last."""
    while True:
        said = notices.recv(4096).decode()
        if "READY=1" in said:
            return said


def rss(daemon):
    # What is looked at beside the loop is done when its thread is gone.
    while any(task.read_text() == "lint\n" for task in pathlib.Path(f"/proc/{daemon.pid}/task").glob("*/comm")):
        time.sleep(0.1)
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{daemon.pid}/status").read_text())[1])


def main():
    scnpm, directory, number = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
    file = directory / f"load{number}.nft"
    file.write_text(policy(number))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["nft", "-f", file], check=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.settimeout(60)
        (directory / "notify").unlink(missing_ok=True)
        notices.bind(str(directory / "notify"))
        environment = {**os.environ, "NOTIFY_SOCKET": notices.getsockname()}
        with open(directory / "load.log", "w") as log:
            began = time.monotonic()
            daemon = subprocess.Popen([scnpm, "--sources", "cgroup", file], env=environment, stderr=log)
        try:
            until_ready(notices)
            load = time.monotonic() - began
            after_load = rss(daemon)
            # The cooldown is over then.
            time.sleep(1)
            began = time.monotonic()
            daemon.send_signal(signal.SIGHUP)
            status = until_ready(notices)
            reload = time.monotonic() - began
            elements = re.search(r"of (\d+) elements", status)[1]
            # What was replaced is given back by then.
            time.sleep(2)
            print(round(load * 1000), round(reload * 1000), after_load, rss(daemon), elements)
        finally:
            daemon.terminate()
            daemon.wait()


main()
