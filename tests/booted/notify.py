"""Tests of `scnpm notify` with a real notification daemon (dunst) on a virtual display, for a tree of the kind `desktop`.

Arguments: words; only tests with one of them in their names run. One of them takes the picture of docs/desktop.md."""

import contextlib
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

sys.path.insert(0, os.path.dirname(__file__))
import control
import machine as m

TESTS = []
DISPLAY = ":99"
SCREEN = pathlib.Path("/run/t-screen")
WIDTH, HEIGHT, MARGIN = 460, 300, 12
NOTIFIER = "scnpm-notify.service"
BASE = control.RECORDING.replace(
    "tcp dport 7001-7009 jump refused\n        tcp dport 7001-7009 reject",
    "tcp dport { 443, 993, 7001-7009, 10001-11000 } jump refused\n        tcp dport { 443, 993, 7001-7009, 10001-11000 } reject",
)
# Actions are chosen in a menu, which dunst has another program for. This one chooses what a file says.
DUNSTRC = f"""[global]
    origin = top-right
    offset = {MARGIN}x{MARGIN}
    width = 410
    height = (0, 300)
    notification_limit = 5
    font = DejaVu Sans 11
    markup = full
    format = "<b>%s</b>\\n%b"
    dmenu = {SCREEN}/choose
    icon_position = off
    idle_threshold = 0
    show_age_threshold = -1
    frame_width = 1
    frame_color = "#5b7083"
[urgency_normal]
    background = "#22303c"
    foreground = "#ffffff"
    timeout = 0
"""
CHOOSE = f"""#!/bin/sh
grep -F -- "$(cat {SCREEN}/choice)" | head -n 1
"""


def test(function):
    TESTS.append(function)
    return function


def systemctl(*words, **options):
    return m.as_user("systemctl", "--user", *words, **options)


def dunstctl(*words):
    return m.as_user("dunstctl", *words, ok=False).stdout.strip()


# The session


def set_up():
    """A desktop's session: a display, and a unit that brings graphical-session.target up."""
    SCREEN.mkdir()
    (SCREEN / "choose").write_text(CHOOSE)
    (SCREEN / "choose").chmod(0o755)
    (SCREEN / "frame").mkdir()
    for directory in [SCREEN, SCREEN / "frame"]:
        os.chown(directory, m.UID, m.UID)
    pathlib.Path("/etc/xdg/dunst/dunstrc").write_text(DUNSTRC)
    sockets = pathlib.Path("/tmp/.X11-unix")
    sockets.mkdir(exist_ok=True)
    sockets.chmod(0o1777)
    frame = f"-screen 0 {WIDTH}x{HEIGHT}x24 -fbdir {SCREEN}/frame"
    m.unit("display.service", f"[Service]\nExecStart=/usr/bin/Xvfb {DISPLAY} {frame} -nolisten tcp\n", m.USER_UNITS)
    m.unit("session.service", "[Unit]\nBindsTo=graphical-session.target\nBefore=graphical-session.target\n[Service]\nType=oneshot\nExecStart=true\nRemainAfterExit=yes\n", m.USER_UNITS)
    m.start(f"user@{m.UID}.service", f"user@{m.OTHER_UID}.service")
    systemctl("daemon-reload")
    systemctl("set-environment", f"DISPLAY={DISPLAY}")
    systemctl("start", "display.service")
    m.eventually(lambda: pathlib.Path("/tmp/.X11-unix/X99").exists(), "there is no display")


def clean_up():
    systemctl("disable", "--quiet", NOTIFIER, ok=False)
    systemctl("stop", NOTIFIER, "session.service", "dunst.service", ok=False)
    systemctl("unmask", "--runtime", "--quiet", "dunst.service", ok=False)
    for drop_in in (m.USER_UNITS / f"{NOTIFIER}.d").glob("*.conf"):
        drop_in.unlink()
    systemctl("reset-failed", ok=False)
    m.run(m.SCNPM, "allow", "--undo", ok=False)
    m.reset()


def start(*annotations, options=()):
    """The daemon, and the notifier with these options in a session of its own; what is heard on the bus from now on."""
    m.start_with(*annotations, base=BASE)
    return start_notifier(options)


def start_notifier(options=(), environment="", says="refusals are told from now on"):
    if options or environment:
        text = f"[Service]\nExecStart=\nExecStart={m.SCNPM} notify {' '.join(options)}\n{environment}"
        m.unit("tests.conf", text, m.USER_UNITS / f"{NOTIFIER}.d")
    systemctl("daemon-reload")
    systemctl("enable", "--quiet", NOTIFIER)
    heard = Bus()
    systemctl("start", "session.service")
    m.eventually(lambda: says in log(), lambda: f"it does not begin:\n{log()}")
    return heard


def log():
    """What the notifier has said since it was started last."""
    invocation = systemctl("show", "--value", "-p", "InvocationID", NOTIFIER).stdout.strip()
    m.run("journalctl", "--sync", ok=False)
    return m.run("journalctl", "-o", "cat", f"_SYSTEMD_INVOCATION_ID={invocation}", ok=False).stdout


class Bus:
    """Hears all calls of Notify on the session bus."""

    def __init__(self):
        name = {"XDG_RUNTIME_DIR": f"/run/user/{m.UID}", "PATH": os.environ["PATH"]}
        user = ["setpriv", f"--reuid={m.UID}", f"--regid={m.UID}", "--init-groups"]
        command = ["busctl", "--user", "--json=short", "monitor", "--match=interface='org.freedesktop.Notifications'"]
        self.process = subprocess.Popen([*user, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=name)
        self.calls = []
        self.is_there = False
        threading.Thread(target=self._read, daemon=True).start()
        m.eventually(self._probe, "busctl does not monitor")

    def _probe(self):
        m.as_user("busctl", "--user", "call", "org.freedesktop.DBus", "/", "org.freedesktop.Notifications", "Probe", ok=False)
        return self.is_there

    def _read(self):
        for line in self.process.stdout:
            message = json.loads(line)
            self.is_there = self.is_there or message.get("member") == "Probe"
            if message["type"] == "method_call" and message.get("member") == "Notify":
                _, replaces, _, summary, body, actions, _, _ = message["payload"]["data"]
                self.calls.append((summary, body, actions[1::2], replaces))

    def summaries(self):
        return [summary for summary, *_ in self.calls]

    def become(self, *summaries):
        m.eventually(
            lambda: sorted(self.summaries()) == sorted(summaries),
            lambda: f"notifications: found {self.summaries()}, expected {list(summaries)}\n{log()}",
        )

    def last(self, summary):
        """The last one, once it has this summary."""
        m.eventually(
            lambda: self.calls and self.calls[-1][0] == summary,
            lambda: f"the last notification is not {summary!r}: {self.calls}\n{log()}",
        )
        return self.calls[-1]


def refused(app, port=7001, number=1, uid=m.UID):
    """An application is refused."""
    m.check(not control.connects_from(f"app-t-{app}-{number}.scope", port, uid), f"{app} gets through to {port}")


def press(label):
    """Presses a button of a notification, in dunst's menu."""
    (SCREEN / "choice").write_text(label)
    dunstctl("context")


# What is told


@test
def it_is_off_until_a_user_switches_it_on():
    m.start_with(base=BASE)
    systemctl("start", "session.service")
    m.equal(systemctl("is-active", "graphical-session.target").stdout, "active\n", "the session")
    m.equal(systemctl("is-active", NOTIFIER, ok=False).stdout, "inactive\n", "the service")
    systemctl("stop", "session.service")
    start_notifier()
    m.equal(systemctl("is-active", NOTIFIER).stdout, "active\n", "the service")
    systemctl("stop", "graphical-session.target", ok=False)
    systemctl("stop", "session.service")
    m.eventually(
        lambda: systemctl("is-active", NOTIFIER, ok=False).stdout == "inactive\n", "it goes on without the session"
    )


@test
def each_application_and_destination_is_told_once_and_only_ones_own():
    m.start_with(base=BASE)
    refused("early")
    bus = start_notifier()
    for number in range(3):
        refused("mail", number=number)
    refused("mail", 7002)
    refused("chat")
    refused("foreign", uid=m.OTHER_UID)
    refused("mail", number=4)
    bus.become("mail was refused", "mail was refused", "chat was refused")
    # Nothing else comes with what comes next.
    refused("mail", number=5)
    refused("foreign", 7003, uid=m.OTHER_UID)
    refused("last")
    bus.become("mail was refused", "mail was refused", "chat was refused", "last was refused")
    bodies = sorted(body for _, body, _, _ in bus.calls)
    m.equal(bodies, ["To 127.0.0.1, tcp port 7001"] * 3 + ["To 127.0.0.1, tcp port 7002"], "what they say")
    m.equal(bus.calls[0][2:], (["Allow for 5 minutes", "Copy the rule"], 0), "the buttons, and what it replaces")
    m.equal(dunstctl("count", "displayed"), "4", "notifications on the display")


@test
def flood_is_a_few_and_a_number():
    bus = start()
    scan = "import socket\nfor port in range(10001, 11001):\n    socket.socket().connect_ex(('127.0.0.1', port))\n"
    m.as_user("systemd-run", "--user", "--scope", "--quiet", "--unit=app-t-scan-1.scope", "python3", "-c", scan)
    # The kernel records so many of a flood.
    recorded = len(json.loads(m.as_user(m.SCNPM, "denied", "--json").stdout)["refusals"])
    m.check(recorded >= 100, f"{recorded} are recorded")
    m.eventually(lambda: f"{recorded - 3} more were refused" in bus.summaries(), lambda: f"found {bus.summaries()}\n{log()}")
    m.equal(bus.summaries().count("scan was refused"), 3, f"refusals that are told: {bus.summaries()}")
    refused("mail")
    m.eventually(lambda: "mail was refused" in bus.summaries(), "another application is not told of")
    numbers = [call for call in bus.calls if "more" in call[0]]
    m.check(len(numbers) <= 3 and all(call[3] for call in numbers[1:]), f"numbers are not replaced: {numbers}")
    # Again within the hour: nothing.
    before = len(bus.calls)
    m.as_user("systemd-run", "--user", "--scope", "--quiet", "--unit=app-t-scan-2.scope", "python3", "-c", scan)
    refused("chat")
    m.eventually(lambda: "chat was refused" in bus.summaries(), "another application is not told of")
    m.equal(len(bus.calls), before + 1, f"notifications: {bus.summaries()}")


@test
def names_are_shown_as_they_are():
    bus = start()
    name = "app-t-\\x3cb\\x3eevil\\x3c\\x2fb\\x3e\\x0ax-1.scope"
    m.check(not control.connects_from(name), "it gets through")
    m.eventually(lambda: bus.calls, lambda: f"nothing is told\n{log()}")
    summary, body, *_ = bus.calls[0]
    m.check("\n" not in summary and "evil" in summary and "<" not in body, f"{summary!r} {body!r}")


# Buttons


@test
def allowing_is_as_polkit_says():
    bus = start(options=["--for", "1h"])
    refused("mail")
    m.equal(bus.last("mail was refused")[2], ["Allow for 60 minutes", "Copy the rule"], "the buttons")
    press("Allow")
    _, body, buttons, replaced = bus.last("mail is not allowed")
    m.check("polkit does not permit it" in body and replaced > 0, f"{bus.calls[-1]}")
    m.equal(buttons, ["Allow for 60 minutes", "Copy the rule"], "the buttons")
    refused("mail", number=2)
    with control.rule("YES", action="allow"):
        press("Allow")
        _, _, buttons, replaced = bus.last("mail is allowed for 60 minutes")
        m.check(replaced > 0 and buttons == ["Copy the rule"], f"{bus.calls[-1]}")
    m.eventually(lambda: control.connects_from("app-t-mail-3.scope"), lambda: f"it is refused: {bus.calls}")
    refused("chat")
    bus.last("chat was refused")


@test
def what_was_allowed_is_told_again_afterwards():
    bus = start(options=["--for", "2s"])
    refused("mail")
    bus.last("mail was refused")
    with control.rule("YES", action="allow"):
        press("Allow")
        bus.last("mail is allowed for 2 seconds")
    m.eventually(lambda: not control.connects_from("app-t-mail-9.scope"), "it passes for good")
    m.eventually(lambda: refused("mail", number=5) or bus.summaries().count("mail was refused") == 2, lambda: f"{bus.summaries()}")


@test
def rule_is_copied_or_shown():
    bus = start()
    refused("mail")
    bus.last("mail was refused")
    press("Copy")
    _, body, *_ = bus.last("The rule for mail is copied")
    denied = json.loads(m.as_user(m.SCNPM, "denied", "--json").stdout)["refusals"]
    rule = denied[0]["annotation"]
    m.check(rule in body, f"{rule!r} is not in {body!r}")
    m.equal(m.as_user("env", f"DISPLAY={DISPLAY}", "xclip", "-out", "-selection", "clipboard").stdout, rule, "the clipboard")
    systemctl("stop", "session.service", NOTIFIER, "dunst.service")
    bus = start_notifier(environment="Environment=PATH=/usr/sbin\n")
    refused("chat")
    m.equal(bus.last("chat was refused")[2][1], "Show the rule", "the button")
    press("Show")
    m.check("app:chat :: add rule" in bus.last("The rule for chat allows it")[1], f"{bus.calls[-1]}")


# What comes and goes


@test
def daemon_that_is_started_anew_is_followed():
    bus = start()
    refused("mail")
    bus.last("mail was refused")
    m.stop("scnpm.service")
    m.eventually(lambda: "nothing can be told for now" in log(), lambda: f"it does not say so:\n{log()}")
    m.start("scnpm.service")
    m.eventually(lambda: log().count("refusals are told from now on") == 2, lambda: f"it does not come back:\n{log()}")
    refused("mail", number=2)
    refused("chat")
    bus.become("mail was refused", "chat was refused")
    m.equal(log().count("nothing can be told"), 1, f"how often it says so:\n{log()}")


@test
def policy_that_records_nothing_is_waited_for():
    m.start_with()
    bus = start_notifier(says="nothing is recorded")
    m.write_policy(base=BASE)
    m.load_base()
    m.run(m.SCNPM, "reload")
    m.eventually(lambda: "refusals are told from now on" in log(), lambda: f"it does not see it:\n{log()}")
    refused("mail")
    bus.last("mail was refused")
    m.equal(log().count("nothing can be told"), 1, f"how often it says so:\n{log()}")


@test
def notification_daemon_may_come_and_go():
    systemctl("mask", "--runtime", "--quiet", "dunst.service")
    bus = start()
    refused("mail")
    refused("chat")
    m.eventually(lambda: "no notification daemon answers" in log(), lambda: f"it does not say so:\n{log()}")
    systemctl("unmask", "--runtime", "--quiet", "dunst.service")
    systemctl("start", "dunst.service")
    m.eventually(lambda: dunstctl("count", "displayed") == "2", lambda: f"they are not shown: {bus.calls}\n{log()}")
    m.equal(log().count("no notification daemon"), 1, f"how often it says so:\n{log()}")
    systemctl("kill", "--signal=KILL", "dunst.service")
    m.eventually(lambda: systemctl("is-active", "dunst.service", ok=False).stdout == "failed\n", "dunst lives")
    systemctl("reset-failed", "dunst.service")
    systemctl("start", "dunst.service")
    refused("last")
    bus.last("last was refused")
    # Its numbers are the new one's.
    press("Show" if "Show the rule" in bus.calls[-1][2] else "Copy")
    bus.last("The rule for last is copied")


@test
def without_a_session_bus_it_says_so():
    m.start_with(base=BASE)
    done = m.as_user("env", "-u", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent", m.SCNPM, "notify", ok=False)
    m.check(done.returncode == 1 and "no session bus" in done.stderr, f"{done}")


# The picture


def screen():
    """What is on the display down to the last notification, as rows of bytes of red, green and blue (XWDFile.h)."""
    data = (SCREEN / "frame/Xvfb_screen0").read_bytes()
    head = struct.unpack(">25I", data[:100])
    size, width, height, bytes_per_line, colours = head[0], head[4], head[5], head[12], head[19]
    pixels = data[size + 12 * colours :]

    def colour(row):
        values = bytearray(3 * width)
        for channel in range(3):
            values[2 - channel :: 3] = row[channel : 4 * width : 4]
        return bytes(values)

    rows = [colour(pixels[bytes_per_line * row :]) for row in range(height)]
    last = max((row for row in range(height) if any(rows[row])), default=0)
    return rows[: last + MARGIN]


def png(rows):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", WIDTH, len(rows), 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def connects_to(unit, address, port):
    """Whether a unit of the user's gets through."""
    program = f"import socket\nsocket.create_connection(('{address}', {port}), 5)\n"
    scope = ["systemd-run", "--user", "--scope", "--quiet", f"--unit={unit}"]
    return m.as_user(*scope, "python3", "-c", program, ok=False).returncode == 0


@contextlib.contextmanager
def hosts():
    """Two hosts that are this machine, one of which has a name in the policy."""
    addresses = ["192.0.2.10", "192.0.2.25"]
    for address in addresses:
        m.run("ip", "address", "add", f"{address}/32", "dev", "lo")
    try:
        with m.known_hosts("www.example.org", address=addresses[0]), socket.create_server((addresses[0], 443)):
            yield addresses
    finally:
        for address in addresses:
            m.run("ip", "address", "del", f"{address}/32", "dev", "lo")


@test
def picture_is_taken_and_host_with_a_name_is_allowed():
    named = f"# {m.USER}:app:other :: add rule inet filter refused socket cgroupv2 unit ip daddr www.example.org accept\n"
    with hosts() as (web, mail), control.rule("YES", action="allow"):
        bus = start(named)
        m.check(not connects_to("app-gnome-firefox-4711.scope", web, 443), "it gets through")
        m.equal(bus.last("firefox was refused")[1], f"To www.example.org ({web}), tcp port 443", "what it says")
        press("Allow")
        bus.last("firefox is allowed for 5 minutes")
        m.check(connects_to("app-gnome-firefox-4712.scope", web, 443), f"it is refused: {bus.calls}")
        m.check(not connects_to("app-gnome-thunderbird-4713.scope", mail, 993), "it gets through")
        bus.last("thunderbird was refused")
    m.eventually(lambda: dunstctl("count", "displayed") == "2", "not two are on the display")
    m.eventually(lambda: len(set(screen())) > 30, "nothing is on the display")
    # It may still be drawn.
    time.sleep(1)
    pathlib.Path("/opt/tests/notification.png").write_bytes(png(screen()))


def main(chosen):
    m.stop("t-boot-listener.socket", "t-boot-listener.service")
    set_up()
    m.Listeners(range(7001, 7010))
    m.reset()
    passed, failed = m.run_tests(TESTS, chosen, clean_up=clean_up)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
