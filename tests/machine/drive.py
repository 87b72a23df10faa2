"""drive.py MACHINE ARCHIVE WORK [--shell] [PART...]: boots the machine, has it run its life (life.py), and turns it off.

Each part of life.py's is one command in the machine; between parts the machine reboots, or loses its power. Exit status: 0 if all
tests passed."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

# What comes when. Without `install` and `boot` there is nothing to look at.
LIFE = ["install", "reboot", "boot", "login", "nftset", "upgrade", "power-cut", "vpn", "removal"]
ALWAYS = ["install", "reboot", "boot"]
# A boot, or a part, that takes longer than so many seconds hangs; on a host that does much else give it more.
LIMIT = int(os.environ.get("SCNPM_MACHINE_LIMIT", "600"))
KERNEL = ["console=ttyS0", "quiet", "systemd.show_status=false", "mitigations=off", "init_on_alloc=0"]
# A thread of the host for each processor. systemd's patience is for machines that are not emulated.
PARALLEL = ["-accel", "tcg,thread=multi"]
PATIENT = ["systemd.default_timeout_start_sec=900", "systemd.default_device_timeout_sec=900"]
# On a host that does much else (SCNPM_MACHINE_BUSY=1): time in the machine goes by what its processors do, 2 ns for each
# instruction, and only when they are idle by the host's clock. The machine is slow and does not notice it.
COUNTED = ["-accel", "tcg", "-icount", "shift=1", "-rtc", "clock=vm"]


class Gone(Exception):
    """The machine does not answer."""


class Machine:
    def __init__(self, machine, archive, work, console):
        self.work = work
        line, monitor = work / "agent.sock", work / "monitor.sock"
        clock = COUNTED if os.environ.get("SCNPM_MACHINE_BUSY") else PARALLEL
        has_shell = console.startswith("mon:")
        kernel = [*KERNEL, *PATIENT, *([] if has_shell else ["systemd.mask=serial-getty@ttyS0.service"])]
        command = [
            "qemu-system-x86_64", *clock, "-cpu", "qemu64", "-smp", "2", "-m", "1280", "-nodefaults", "-nic", "none", "-display", "none",
            "-kernel", machine / "vmlinuz", "-initrd", machine / "initramfs", "-append", " ".join(kernel),
            "-drive", f"file={machine / 'disk'},format=raw,if=virtio,snapshot=on,cache=unsafe",
            "-drive", f"file={archive},format=raw,if=virtio,readonly=on",
            "-serial", console, "-serial", f"unix:{line},server=on,wait=off", "-qmp", f"unix:{monitor},server=on,wait=off",
        ]  # fmt: skip
        # What is written to the disk goes to a file there, and goes with the machine.
        self.began = time.monotonic()
        self.process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(work)}, stdin=None)
        self.line = self.connect(line)
        self.monitor = self.connect(monitor)
        self.buffer = b""
        self.ask_monitor("qmp_capabilities")

    def connect(self, path):
        end = time.monotonic() + 60
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(path))
                return connection
            except OSError:
                connection.close()
                if time.monotonic() > end or self.process.poll() is not None:
                    raise Gone("qemu does not start") from None
                time.sleep(0.1)

    def ask_monitor(self, command):
        self.monitor.sendall(json.dumps({"execute": command}).encode() + b"\n")

    def read_line(self, end):
        while b"\n" not in self.buffer:
            self.line.settimeout(max(0.1, end - time.monotonic()))
            try:
                data = self.line.recv(65536)
            except TimeoutError:
                raise Gone("it does not answer") from None
            if not data:
                raise Gone("qemu has ended")
            self.buffer += data
        text, self.buffer = self.buffer.split(b"\n", 1)
        return text.decode(errors="backslashreplace")

    def is_ready(self, what):
        began, used = time.monotonic(), self.cpu()
        while self.read_line(began + LIMIT) != "ready":
            pass
        print(f"figure: {what} | {time.monotonic() - began:.0f} s | {self.cpu() - used:.0f} s of CPU", flush=True)

    def start(self, *command):
        self.line.sendall(json.dumps(command).encode() + b"\n")

    def run(self, *command):
        """Prints what the command prints; its exit status."""
        self.start(*command)
        end = time.monotonic() + LIMIT
        while True:
            line = self.read_line(end)
            if line.startswith("| "):
                print(line[2:], flush=True)
            elif line.startswith("exit "):
                return int(line[5:])
            elif line == "ready":
                raise Gone("it has rebooted by itself")

    def cpu(self):
        """Seconds that it used so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def live(machine, parts):
    failed = 0
    machine.is_ready("first boot")
    for part in LIFE:
        if part not in ALWAYS and part not in parts:
            continue
        if part == "reboot":
            machine.start("systemctl", "reboot")
            machine.is_ready("reboot")
            continue
        print(f"--- {part}", flush=True)
        began, used = time.monotonic(), machine.cpu()
        if part == "power-cut":
            machine.ask_monitor("system_reset")
            machine.is_ready("boot after the power was cut")
        failed += machine.run("/usr/bin/python3", "-u", "/opt/tests/life.py", part) != 0
        print(f"figure: part {part} | {time.monotonic() - began:.0f} s | {machine.cpu() - used:.0f} s of CPU", flush=True)
    return failed


def main():
    machine, archive, work = map(pathlib.Path, sys.argv[1:4])
    words = sys.argv[4:]
    has_shell = "--shell" in words
    parts = [word for word in words if word != "--shell"]
    if unknown := set(parts) - set(LIFE):
        sys.exit(f"{', '.join(sorted(unknown))}: not in {' '.join(LIFE)}")
    console = work / "console"
    booted = Machine(machine, archive, work, "mon:stdio" if has_shell else f"file:{console}")
    try:
        if has_shell:
            print("root's shell. `poweroff`, or Ctrl-A X, ends it. The tests are in /opt/tests.", flush=True)
            booted.process.wait()
            return 0
        failed = live(booted, parts or LIFE)
        print(f"figure: all | {time.monotonic() - booted.began:.0f} s | {booted.cpu():.0f} s of CPU", flush=True)
        return 1 if failed else 0
    except Gone as error:
        print(f"FAIL the machine: {error}. The end of its console:", flush=True)
        if console.exists():
            print("\n".join(console.read_text(errors="replace").splitlines()[-40:]))
        return 1
    finally:
        booted.end()


sys.exit(main())
