"""docs/conditional.md: rules that hold while a target or a service is active, switched by timers, by hand and by NetworkManager."""

import contextlib
import datetime
import os
import pathlib
import re
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import machine as m
import recipe

PAGE = "conditional.md"
TESTS = []
HOURS, AT_BOOT = "Office hours", "office-hours-at-boot.service"
DISPATCHER = pathlib.Path("/etc/NetworkManager/dispatcher.d/50-network-targets")


def test(function):
    TESTS.append(function)
    return function


def pieces():
    """The blocks of the page, taken apart where a line begins with `# `."""
    return [piece for block in recipe.blocks(PAGE) for piece in re.split(r"\n(?=# )", block)]


def write_units():
    """Each piece that begins with a unit's path is that file."""
    for piece in pieces():
        path, _, rest = piece.partition("\n")
        if path.startswith("# /etc/systemd/system/"):
            pathlib.Path(path[2:]).write_text(rest)
    m.run("systemctl", "daemon-reload")


def annotations():
    return [piece.strip() + "\n" for piece in pieces() if " :: " in piece]


def base():
    return next(block for block in recipe.blocks(PAGE) if block.startswith("flush ruleset"))


def commands(heading):
    lines = [line for block in recipe.blocks(PAGE, heading) for line in block.splitlines()]
    return [line[2:] for line in lines if line.startswith("# systemctl")]


def do(heading):
    for command in commands(heading):
        m.run("bash", "-ec", command)


def is_open(port):
    """Whether a connection gets past the rules: there is a listener for each port."""
    return m.gets_through("system.slice", port)


def opens(port, after):
    """Waits until a port is open; how long after that the moment was, in milliseconds."""
    m.eventually(lambda: is_open(port), lambda: f"port {port} stays shut\n{m.ruleset()}\n{m.log()}", patience=30)
    return 1000 * (time.monotonic() - after)


def shuts(port):
    m.eventually(lambda: not is_open(port), lambda: f"port {port} stays open\n{m.ruleset()}\n{m.log()}", patience=30)


@test
def conditions_are_set_up_as_the_page_says():
    m.Listeners([7022, 7443, 7445])
    write_units()
    m.start_with(*annotations(), base=base())
    m.equal(m.checked()["findings"], [], "findings of the page")
    do(HOURS)
    m.run("systemctl", "stop", AT_BOOT, "office-hours.target")
    for port in [7022, 7443, 7445]:
        shuts(port)


@test
def targets_switch_rules():
    took = []
    for _ in range(10):
        began = time.monotonic()
        m.start("office-hours.target")
        took.append(opens(7443, began))
        m.start("after-hours.target")
        shuts(7443)
    recipe.figure("rule of a target in force, after `systemctl start` was called", f"{sorted(took)[len(took) // 2]:.0f} ms", f"at most {max(took):.0f} ms")
    m.run("systemctl", "start", "office-hours.target")
    opens(7443, 0)
    m.run("systemctl", "stop", "office-hours.target")
    shuts(7443)


@test
def timers_switch_targets():
    """With the page's timers, but for the time: a few seconds from now."""
    files = {name: pathlib.Path(f"/etc/systemd/system/{name}.timer") for name in ["office-hours", "after-hours"]}
    texts = {name: file.read_text() for name, file in files.items()}
    now = datetime.datetime.now()
    for name, seconds in [("office-hours", 8), ("after-hours", 12)]:
        at = now + datetime.timedelta(seconds=seconds)
        files[name].write_text(re.sub("OnCalendar=.*", f"OnCalendar={at:%Y-%m-%d %H:%M:%S}", texts[name]))
    m.run("systemctl", "daemon-reload")
    try:
        m.run("systemctl", "restart", "office-hours.timer", "after-hours.timer")
        m.check(not is_open(7443), "open before the time")
        opens(7443, 0)
        shuts(7443)
        m.check(m.active("after-hours.target"), "it was not the timer that shut it")
    finally:
        for name, file in files.items():
            file.write_text(texts[name])
        m.run("systemctl", "daemon-reload")


@test
def clock_at_boot_decides():
    """The service of the page, at hours and days that `date` is made to tell."""
    date = pathlib.Path("/usr/local/bin/date")
    try:
        for day, hour, expected in [(1, "08", True), (5, "17", True), (1, "07", False), (5, "18", False), (6, "12", False)]:
            date.write_text(f'#!/bin/sh\n[ "$1" = +%u ] && echo {day} || echo {hour}\n')
            date.chmod(0o755)
            m.run("systemctl", "stop", "office-hours.target")
            m.run("systemctl", "start", AT_BOOT, ok=False)
            m.eventually(lambda: m.active("office-hours.target") == expected, f"day {day} at {hour}: not {expected}")
    finally:
        date.unlink()
    m.run("systemctl", "stop", "office-hours.target")


@test
def rules_hold_over_reloads_and_ends_of_the_daemon():
    m.start("office-hours.target")
    opens(7443, 0)
    m.load_base()
    opens(7443, 0)
    m.run("systemctl", "reload", "scnpm.service")
    m.check(is_open(7443), "shut by a reload")
    m.run("systemctl", "restart", "scnpm.service")
    m.check(is_open(7443), "shut by a restart")
    m.stop("office-hours.target")
    shuts(7443)
    m.drop_in("scnpm.service", "[Service]\nRestart=no\n", "tests-more.conf")
    m.start("office-hours.target")
    opens(7443, 0)
    os.kill(m.daemon_pid(), signal.SIGKILL)
    m.eventually(lambda: not m.active("scnpm.service"), "the daemon lives")
    m.stop("office-hours.target")
    m.check(is_open(7443), "shut while the daemon was dead")
    m.run("systemctl", "reset-failed")
    m.start("scnpm.service")
    shuts(7443)


@test
def door_is_open_for_a_while():
    m.check(commands("For half an hour") == ["systemctl start door@30m.service"], "another command in the page")
    m.run("systemctl", "start", "door@3s.service")
    opens(7022, 0)
    m.check(not is_open(7443), "another port is open, too")
    shuts(7022)
    do("For half an hour")
    opens(7022, 0)
    m.stop("door@30m.service")
    shuts(7022)


@test
def service_of_a_tunnel_switches_its_rule():
    """wg-quick's service with another command in it: vpn.py has the tunnel."""
    m.unit("wg-quick@wg0.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n")
    m.reload_units()
    gate = r"meta mark @scnpm\.sometimes\.\d+\.active oifname \"wg0\" accept"
    name = re.search(r"scnpm\.\S+", re.search(gate, m.ruleset())[0])[0]

    def is_in_force():
        return "elements" in m.run("nft", "list", "set", "inet", "filter", name).stdout

    m.check(not is_in_force(), "in force without the service")
    m.start("wg-quick@wg0.service")
    m.eventually(is_in_force, "not in force with the service")
    m.stop("wg-quick@wg0.service")
    m.eventually(lambda: not is_in_force(), "in force after the service")


@contextlib.contextmanager
def network(name):
    """A connection of NetworkManager's that is up for a while."""
    words = f"type tun mode tun ifname t-{name} con-name {name} autoconnect no ipv4.method manual ipv4.addresses 192.0.2.9/32"
    m.run("nmcli", "connection", "add", *words.split())
    try:
        m.run("nmcli", "connection", "up", name)
        yield
    finally:
        m.run("nmcli", "connection", "delete", name)


@test
def network_switches_its_target():
    script = next(block for block in recipe.blocks(PAGE, "In a network") if block.startswith("#!/bin/sh"))
    DISPATCHER.write_text(script)
    DISPATCHER.chmod(0o755)
    m.start("NetworkManager.service")
    try:
        with network("elsewhere"):
            time.sleep(1)
            m.check(not is_open(7445), "open in another network")
        began = time.monotonic()
        with network("home"):
            recipe.figure("rule of a network in force, after nmcli was called", f"{opens(7445, began):.0f} ms")
        shuts(7445)
    finally:
        DISPATCHER.unlink()
        m.stop("NetworkManager.service")


if __name__ == "__main__":
    recipe.main(TESTS, clean_up=lambda: None)
