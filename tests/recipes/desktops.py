"""docs/desktop.md: how programs that start applications name their units, and whether the first packet meets the rules."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import machine as m
import recipe

TESTS = []
OWN_CGROUP = "sed -n s,^0::/,,p /proc/self/cgroup"
MANAGER = f"user.slice/user-{m.UID}.slice/user@{m.UID}.service"
APPLICATIONS = pathlib.Path("/usr/share/applications")
BUS_SERVICES = pathlib.Path("/usr/share/dbus-1/services")
COPIES = pathlib.Path(f"/run/user/{m.UID}/scnpm/applications")
PLACE = pathlib.Path("/tmp/t-place")

# Ports 7001 to 7009 are refused unless a rule accepts, 7011 to 7019 pass unless a rule refuses.
BASE = m.BASE.replace("chain allowed { }", "chain allowed { }\n    chain games { }").replace(
    "tcp dport 7001-7009 jump", "tcp dport 7011-7019 jump games\n        tcp dport 7001-7009 jump"
)

# What GNOME Shell does: forks, and has the child moved afterwards.
SHELL = """#!/usr/bin/python3
import subprocess, sys
name, count, *command = sys.argv[1:]
for _ in range(int(count)):
    child = subprocess.Popen(command)
    scope = f"app-gnome-{name}-{child.pid}.scope"
    move = ["StartTransientUnit", "ssa(sv)a(sa(sv))", scope, "fail", "1", "PIDs", "au", "1", str(child.pid), "0"]
    manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    subprocess.run(["busctl", "--user", "--quiet", "call", *manager, *move], stderr=subprocess.DEVNULL)
    child.wait()
"""


def test(function):
    TESTS.append(function)
    return function


@contextlib.contextmanager
def files(**texts):
    """Files for a while, executable; by their paths."""
    try:
        for path, text in texts.items():
            pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
            pathlib.Path(path).write_text(text)
            pathlib.Path(path).chmod(0o755)
        yield
    finally:
        for path in texts:
            pathlib.Path(path).unlink(missing_ok=True)


def entry(command, more=""):
    return f"[Desktop Entry]\nType=Application\nName=Probe\nExec={command}\n{more}"


def accepts(selector):
    return m.selected(f"{m.USER}:{selector}")


def refuses(selector):
    return f"# {m.USER}:{selector} :: add rule inet filter games socket cgroupv2 unit tcp dport 7011 reject with tcp reset\n"


def passed(name):
    tries = m.tries(name)
    return f"{tries.count('ok')} of {len(tries)}"


@test
def launchers_without_units_leave_programs_with_the_caller():
    for launcher in [["gio", "launch"], ["dex"]]:
        program = f"#!/bin/sh\n{OWN_CGROUP} >/tmp/t-place\n"
        with files(**{"/tmp/t-probe": program, "/tmp/t-probe.desktop": entry("/tmp/t-probe")}):
            command = " ".join([*launcher, "/tmp/t-probe.desktop"])
            m.in_scope("t-caller.scope", f"{command}; sleep 1")
            m.eventually(lambda: PLACE.exists() and PLACE.read_text(), f"{command} starts nothing")
        m.equal(PLACE.read_text().strip(), f"{m.USER_SLICE}/t-caller.scope", f"the unit by {command}")
        PLACE.unlink()
        recipe.figure(f"{launcher[0]}", "unit", "the caller's")


@test
def units_that_programs_begin_in_have_their_rules_at_once():
    """Autostart and scopes that are entered before the program is executed."""
    autostart = pathlib.Path("/etc/xdg/autostart/t-mail.desktop")
    m.start_with(accepts("app:t-mail"), accepts("app:my-mail"), accepts("vte-spawn-*.scope"), base=BASE)
    with files(**{str(autostart): entry(m.connects("autostart"))}):
        m.as_user("systemctl", "--user", "daemon-reload")
        for _ in range(10):
            m.as_user("systemctl", "--user", "start", "app-t\\x2dmail@autostart.service", ok=False)
    m.as_user("systemctl", "--user", "daemon-reload")
    for number in range(10):
        m.in_scope(f"app-my\\x2dmail-{4711 + number}.scope", m.connects("scope"), ok=False)
        m.in_scope(f"app-my-mail-{4711 + number}.scope", m.connects("dash"), ok=False)
        uuid = f"3e7c7b9a-0f53-4d6f-8f0c-5f2a1c6b7d{number:02}"
        m.in_scope(f"vte-spawn-{uuid}.scope", m.connects("terminal"), ok=False)
    m.eventually(lambda: len(m.tries("autostart")) == 10, lambda: f"starts: {m.tries('autostart')}")
    for name, what in [("autostart", "systemd's autostart"), ("scope", "systemd-run --scope"), ("terminal", "vte-spawn-*.scope")]:
        recipe.figure(f"{what}, a rule that accepts", "passed", passed(name))
    m.equal([passed("autostart"), passed("dash")], ["10 of 10", "0 of 10"], "who passes")
    m.check(m.tries("scope").count("ok") >= 9 and m.tries("terminal").count("ok") >= 9, "scopes are let through late")


@test
def a_shell_that_moves_its_children_is_late_and_scnpm_run_is_not():
    m.start_with(accepts("app:t-plain"), refuses("app:t-game"), accepts("app:t-wrapped"), refuses("app:t-safe"), base=BASE)
    with files(**{"/opt/tests/shell/gnome-shell": SHELL}):
        for name, port, prefix in [
            ("t-plain", 7001, []),
            ("t-game", 7011, []),
            ("t-wrapped", 7001, [m.SCNPM, "run", "--app", "t-wrapped", "--"]),
            ("t-safe", 7011, [m.SCNPM, "run", "--wait", "--app", "t-safe", "--"]),
        ]:
            shell = ["/opt/tests/shell/gnome-shell", name, "30"]
            m.as_user("systemd-run", "--user", "--wait", "--quiet", "-E", f"PATH={os.environ['PATH']}", *shell, *prefix, *m.connects(name, port).split())
    recipe.figure("a move like GNOME Shell's, a rule that accepts", "passed", passed("t-plain"))
    recipe.figure("a move like GNOME Shell's, a rule that refuses", "passed", passed("t-game"))
    recipe.figure("the same by scnpm run, a rule that accepts", "passed", passed("t-wrapped"))
    recipe.figure("the same by scnpm run, a rule that refuses", "passed", passed("t-safe"))
    m.equal([passed("t-wrapped"), passed("t-safe")], ["30 of 30", "0 of 30"], "what scnpm run does to it")
    m.check(m.tries("t-plain").count("ok") < 30 and "ok" in m.tries("t-game"), "a move after the start harms nobody")


@test
def launchers_of_a_session_start_by_scnpm_run():
    m.start_with(accepts("app:t-late"), accepts("app:My\\x20Probe"), base=BASE)
    paths = [str(APPLICATIONS / f"{name}.desktop") for name in ["t-late", "My Probe", "t-flatpak"]]
    texts = [entry(m.connects("late"), "DBusActivatable=true\n"), entry(m.connects("probe")), entry("flatpak run t", "X-Flatpak=t\n")]
    m.as_user("systemctl", "--user", "start", "scnpm-launchers.service")
    try:
        with files(**dict(zip(paths, texts))):
            m.eventually(lambda: (COPIES / "t-late.desktop").exists() and (COPIES / "My Probe.desktop").exists(), "no copies")
            m.check(not (COPIES / "t-flatpak.desktop").exists(), "a flatpak is copied")
            dirs = m.as_user("systemctl", "--user", "show-environment").stdout
            m.check(f"XDG_DATA_DIRS=/run/user/{m.UID}/scnpm:/usr" in dirs, dirs)
            for name in ["t-late", "My Probe"]:
                for _ in range(10):
                    m.as_user("gio", "launch", str(COPIES / f"{name}.desktop"))
            m.eventually(lambda: len(m.tries("late")) == len(m.tries("probe")) == 10, "not all were started")
            recipe.figure("a copy of scnpm launchers by gio launch", "passed", passed("late"))
            m.equal([passed("late"), passed("probe")], ["10 of 10"] * 2, "first packets")
        m.eventually(lambda: not (COPIES / "t-late.desktop").exists(), "the copy of what was removed stays")
        m.as_user("systemctl", "--user", "restart", "scnpm-launchers.service")
        dirs = m.as_user("systemctl", "--user", "show-environment").stdout
        m.equal(dirs.count("/scnpm:"), 1, f"the directory in {dirs}")
    finally:
        m.as_user("systemctl", "--user", "stop", "scnpm-launchers.service")
    m.check(not COPIES.exists(), "the copies outlive the service")


@contextlib.contextmanager
def started_by_the_bus(more=""):
    """A program that D-Bus starts; gives its number and unit."""
    PLACE.unlink(missing_ok=True)
    program = f"#!/bin/sh\n{m.connects('bus')}\n{{ echo $$; {OWN_CGROUP}; }} >{PLACE}.new\nmv {PLACE}.new {PLACE}\nexec sleep 60\n"
    name = "org.scnpm.TBus"
    texts = {
        "/usr/local/bin/t-bus": program,
        str(BUS_SERVICES / f"{name}.service"): f"[D-BUS Service]\nName={name}\nExec=/usr/local/bin/t-bus\n{more}",
        str(APPLICATIONS / f"{name}.desktop"): entry("t-bus", "DBusActivatable=true\n"),
    }
    bus = ["busctl", "--user", "--timeout=5", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"]
    with files(**texts):
        m.as_user(*bus, "ReloadConfig")
        m.as_user(*bus, "StartServiceByName", "su", name, "0", ok=False)
        m.eventually(PLACE.exists, "D-Bus starts nothing")
        pid, where = PLACE.read_text().split()
        try:
            yield int(pid), where
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@test
def applications_that_dbus_daemon_starts_share_its_unit():
    m.start_with(accepts("app:org.scnpm.TBus"), base=BASE)
    with started_by_the_bus() as (pid, where):
        m.check(where.endswith("/dbus.service"), f"the unit: {where}")
        m.equal(m.tries("bus"), ["refused"], "the first packet")
        done = m.run(m.SCNPM, "units", "--pid", str(pid))
        m.check("dbus.service" in done.stdout and "shares dbus.service with" in done.stderr, f"{done.stdout}{done.stderr}")
        done = m.run(m.SCNPM, "units", "SLEEP", ok=False)
        m.check(done.returncode == 1 and f"process {pid} (sleep) shares dbus.service" in done.stderr, done.stderr)
        done = m.run(m.SCNPM, "explain", str(pid), ok=False)
        m.check("shares dbus.service with" in done.stdout, f"{done.stdout}{done.stderr}")
        done = m.run(m.SCNPM, "units", "--annotate", f"{m.USER}:dbus.service")
        m.check("SystemdService=" in done.stderr, done.stderr)
        m.check("W043" in m.codes(m.checked()), "check says nothing of it")
    recipe.figure("D-Bus activation by dbus-daemon", "unit", "dbus.service, shared")


@test
def a_unit_of_its_own_helps_with_dbus_daemon():
    m.unit("t-bus.service", "[Service]\nExecStart=/usr/local/bin/t-bus\n", m.USER_UNITS)
    m.as_user("systemctl", "--user", "daemon-reload")
    m.start_with(accepts("t-bus.service"), base=BASE)
    with started_by_the_bus("SystemdService=t-bus.service\n") as (_, where):
        m.check(where.endswith("/t-bus.service"), f"the unit: {where}")
        m.equal(m.tries("bus"), ["ok"], "the first packet")
        m.check("W043" not in m.codes(m.checked()), "check warns of it")
    recipe.figure("D-Bus activation with SystemdService=", "passed", passed("bus"))


@test
def dbus_broker_gives_applications_units_of_their_own():
    link = pathlib.Path("/etc/systemd/user/dbus.service")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("/usr/lib/systemd/user/dbus-broker.service")
    m.run("systemctl", "restart", f"user@{m.UID}.service")
    try:
        m.start_with(accepts("app:org.scnpm.TBus"), base=BASE)
        for _ in range(3):
            with started_by_the_bus() as (pid, where):
                m.check("/dbus-:1." in where and "org.scnpm.TBus@" in where, f"the unit: {where}")
                annotation = m.run(m.SCNPM, "units", "--pid", str(pid)).stdout
                m.check(f"# {m.USER}:app:org.scnpm.TBus :: " in annotation, annotation)
            time.sleep(0.2)
        m.equal(passed("bus"), "3 of 3", "first packets")
        m.check("W043" not in m.codes(m.checked()), "check warns of it")
        recipe.figure("D-Bus activation by dbus-broker", "passed", passed("bus"))
        recipe.figure("its unit", where.rsplit("/", 1)[1])
    finally:
        link.unlink()
        m.run("systemctl", "restart", f"user@{m.UID}.service")


@test
def login_sessions_are_their_users():
    m.start_with(accepts("session-*.scope"), base=BASE)
    for uid in [m.USER, m.OTHER]:
        name = f"login-{uid}"
        login = ["systemd-run", "--wait", "--quiet", "-p", "PAMName=login", "-p", f"User={uid}", "-E", "XDG_SESSION_CLASS=user"]
        told = f"{OWN_CGROUP} >/tmp/{name}; scnpm units --pid $$ >>/tmp/{name} 2>&1"
        with files(**{"/opt/tests/shell/login": f"#!/bin/sh\nsleep 0.5\n{told}\n{m.connects(name)}\ntrue\n"}):
            m.run(*login, "/opt/tests/shell/login")
    told = pathlib.Path(f"/tmp/login-{m.USER}").read_text()
    m.check(told.startswith(f"user.slice/user-{m.UID}.slice/session-"), told)
    m.check(f"# {m.USER}:session-*.scope :: " in told, told)
    m.equal([m.tries(f"login-{uid}") for uid in [m.USER, m.OTHER]], [["ok"], ["refused"]], "who passes")
    recipe.figure("a login session, alice:session-*.scope", "passed", passed(f"login-{m.USER}"))


if __name__ == "__main__":
    m.stop("t-boot-listener.socket", "t-boot-listener.service")
    listeners = m.Listeners([7001, 7011])
    recipe.main(TESTS)
