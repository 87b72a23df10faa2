"""Tests of the units that terminals and launchers of several desktops start programs in, without a screen. Needs a tree of its
own:

    SCNPM_TREE=terminals tests/booted/run.sh trixie target/release/scnpm terminals.py [WORD]

The tree takes 1.1 GB and some minutes to make, so this is not run with every change.
"""

import contextlib
import itertools
import os
import pathlib
import re
import shlex
import sys

sys.path.insert(0, os.path.dirname(__file__))
import machine as m

TESTS = []
RUNTIME = pathlib.Path(f"/run/user/{m.UID}")
ENTRY = pathlib.Path("/usr/share/applications/t-probe.desktop")
PLACE = pathlib.Path("/tmp/t-place")
# Writes down the cgroup that it is in when whoever started it has had the time to move it.
TELLS = "/opt/tests/tells"
TELLS_TEXT = f"#!/bin/sh\nsleep 3\nsed -n s,^0::/,,p /proc/self/cgroup >{PLACE}.new\nmv {PLACE}.new {PLACE}\n"
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
STARTS = 10
CALLS = itertools.count()
CALLER = r"t-caller-\d+\.scope"
# Plasma has one; without any, KDE knows no applications.
MENU = pathlib.Path("/etc/xdg/menus/applications.menu")
MENU_TEXT = "<Menu><Name>Applications</Name><DefaultAppDirs/><Include><All/></Include></Menu>\n"

SWAY = ["XDG_CURRENT_DESKTOP=sway", "WLR_BACKENDS=headless", "WLR_RENDERER=pixman", "WLR_LIBINPUT_NO_DEVICES=1"]
WAYLAND = ["WAYLAND_DISPLAY=wayland-1", "GDK_BACKEND=wayland", "GSK_RENDERER=cairo"]
X11 = ["DISPLAY=:77", "GDK_BACKEND=x11", "LIBGL_ALWAYS_SOFTWARE=1"]
OFFSCREEN = ["QT_QPA_PLATFORM=offscreen"]


def test(function):
    TESTS.append(function)
    return function


@contextlib.contextmanager
def service(name, environment, *command):
    """A program in a service of the user's, as a session has it."""
    settings = [word for setting in environment for word in ("-E", setting)]
    m.as_user("systemd-run", "--user", "--quiet", f"--unit={name}", *settings, *command)
    try:
        yield
    finally:
        m.as_user("systemctl", "--user", "stop", name, ok=False)


@contextlib.contextmanager
def sway():
    pathlib.Path("/tmp/t-sway").write_text("xwayland disable\n")
    command = ["sh", "-c", "exec sway -c /tmp/t-sway 2>/tmp/t-sway.log"]
    with service("t-sway.service", SWAY, *command):
        is_up = lambda: (RUNTIME / "wayland-1").exists() and any(RUNTIME.glob("sway-ipc.*"))
        m.eventually(is_up, lambda: f"sway does not come up\n{pathlib.Path('/tmp/t-sway.log').read_text()}", 30)
        yield f"SWAYSOCK={next(RUNTIME.glob('sway-ipc.*'))}"
    for left in [*RUNTIME.glob("sway-ipc.*"), *RUNTIME.glob("wayland-1*")]:
        left.unlink(missing_ok=True)


@contextlib.contextmanager
def x11():
    with service("t-xvfb.service", [], "Xvfb", ":77", "-screen", "0", "800x600x24", "-nolisten", "tcp"):
        m.eventually(lambda: pathlib.Path("/tmp/.X11-unix/X77").exists(), "Xvfb does not come up", 30)
        yield


def by_caller(environment, *launcher, patience=30):
    """Starts a program with a launcher that is run in a scope of its own, which the launcher is given some seconds to leave."""

    def start(*command):
        words = shlex.join(["timeout", str(patience), "env", *environment, *launcher, *command])
        m.in_scope(f"t-caller-{next(CALLS)}.scope", words, ok=False)

    return start


def by_entry(environment, *launcher):
    """Starts the .desktop file of a program, called t-probe."""

    def start(*command):
        text = f"[Desktop Entry]\nType=Application\nName=Probe\nExec={shlex.join(command)}\n"
        if not ENTRY.exists() or ENTRY.read_text() != text:
            ENTRY.write_text(text)
            # KDE's programs have the file's lines from a cache.
            m.as_user("env", *OFFSCREEN, "kbuildsycoca6", "--noincremental")
        by_caller(environment, *launcher)()

    return start


def typed(start):
    """The same, with a command that is run a while after the terminal began, as one that is typed into its shell."""
    return lambda *command: start("sh", "-c", f"sleep 1; {shlex.join(command)}; true")


def unit_of(package, start, expected):
    """The unit of a program, by whoever started it."""
    PLACE.unlink(missing_ok=True)
    start(TELLS)
    m.eventually(PLACE.exists, "nothing was started", 30)
    unit = PLACE.read_text().strip().rsplit("/", 1)[1]
    m.check(re.fullmatch(expected, unit), f"the unit: {unit}")
    version = m.run("dpkg-query", "-W", "-f", "${Version}", package).stdout
    print("figure:", " | ".join([f"{package} {version}", "unit", unit]))


def passed(what, start, selector):
    """How many of so many starts got their first packet through by a rule that accepts."""
    name = what.replace(" ", "-")
    m.start_with(m.selected(f"{m.USER}:{selector}"))
    command = m.connects(name).split()
    for count in range(1, STARTS + 1):
        start(*command)
        m.eventually(lambda: len(m.tries(name)) >= count, f"start {count} was none", 30)
    found = m.tries(name).count("ok")
    print("figure:", " | ".join([what, selector, f"passed {found} of {STARTS}"]))
    return found


@test
def kde_starts_applications_in_services_of_their_own():
    by_client = by_entry(OFFSCREEN, "kioclient", "exec", str(ENTRY))
    unit_of("kde-cli-tools", by_client, r"app-t\\x2dprobe@[0-9a-f]{32}\.service")
    m.equal(passed("kioclient exec", by_client, "app:t-probe"), STARTS, "first packets")
    of_entry = by_entry(OFFSCREEN, "kstart", "--application", "t-probe")
    unit_of("kde-cli-tools", of_entry, r"app-t\\x2dprobe@[0-9a-f]{32}\.service")
    m.equal(passed("kstart of an application", of_entry, "app:t-probe"), STARTS, "first packets")
    of_command = by_caller(OFFSCREEN, "kstart", "--")
    unit_of("kde-cli-tools", of_command, r"app-\\x2fopt\\x2ftests\\x2ftells@[0-9a-f]{32}\.service")
    m.equal(passed("kstart of a path", of_command, r"app:\x2fopt\x2ftests\x2fconnect"), STARTS, "first packets")


@test
def konsole_leaves_programs_with_the_caller():
    start = by_caller(OFFSCREEN, "konsole", "-e")
    unit_of("konsole", start, CALLER)
    m.equal(passed("konsole", start, "t-caller-*.scope"), STARTS, "first packets")


@test
def konsole_that_limits_memory_moves_programs_at_times():
    """Whoever it has moved is let through, and nobody else."""
    settings = pathlib.Path(f"/home/{m.USER}/.config/konsolerc")
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("[MemorySettings]\nEnableMemoryMonitoring=true\n")
    m.start_with(m.selected(f"{m.USER}:app:org.kde.konsole"))
    start = by_caller(OFFSCREEN, "konsole", "-e")
    found = []
    try:
        for _ in range(STARTS):
            PLACE.unlink(missing_ok=True)
            start("sh", "-c", f"sleep 2; {m.connects('konsole-limits')}; exec {TELLS}")
            m.eventually(PLACE.exists, "nothing was started", 30)
            found.append((PLACE.read_text().strip(), m.tries("konsole-limits")[-1]))
    finally:
        settings.unlink()
    moved = [outcome for place, outcome in found if re.search(r"/app-org\.kde\.konsole-\d+\.scope/tab\(\d+\)\.scope$", place)]
    left = [outcome for place, outcome in found if re.search(f"/{CALLER}$", place)]
    print("figure:", " | ".join(["konsole with memory limits", f"moved {len(moved)} of {STARTS}", f"passed of those {moved.count('ok')}"]))
    m.equal([moved.count("ok"), left.count("ok"), len(moved) + len(left)], [len(moved), 0, STARTS], f"who passes of {found}")


@test
def foot_and_sway_leave_programs_with_the_caller():
    with sway() as socket:
        start = by_caller(WAYLAND, "foot")
        unit_of("foot", start, CALLER)
        m.equal(passed("foot", start, "t-caller-*.scope"), STARTS, "first packets")
        start = by_caller([socket], "swaymsg", "exec", "--")
        unit_of("sway", start, r"t-sway\.service")
        m.equal(passed("exec of sway", start, "t-sway.service"), STARTS, "first packets")


@test
def i3_and_exo_open_leave_programs_with_the_caller():
    pathlib.Path("/tmp/t-i3").write_text("font pango:monospace 8\n")
    with x11(), service("t-i3.service", X11, "i3", "-c", "/tmp/t-i3"):
        is_up = lambda: m.as_user("env", *X11, "i3-msg", "-t", "get_version", ok=False).returncode == 0
        m.eventually(is_up, "i3 does not come up", 30)
        start = by_caller(X11, "i3-msg", "exec", "--")
        unit_of("i3-wm", start, r"t-i3\.service")
        m.equal(passed("exec of i3", start, "t-i3.service"), STARTS, "first packets")
        start = by_entry(X11, "exo-open", str(ENTRY))
        unit_of("exo-utils", start, CALLER)
        m.equal(passed("exo-open", start, "t-caller-*.scope"), STARTS, "first packets")


@test
def kitty_has_a_scope_before_the_program_starts():
    with x11():
        start = by_caller(X11, "kitty")
        unit_of("kitty", start, r"kitty-\d+-\d+\.scope")
        m.equal(passed("kitty", start, "kitty-*.scope"), STARTS, "first packets")


def moves_late(what, package, start, kind):
    """A terminal's program is moved after it began; what is typed into its shell begins in the scope."""
    unit_of(package, start, rf"{kind}-{UUID}\.scope")
    late = passed(what, start, f"{kind}-*.scope")
    m.check(late < STARTS, f"{what} has become better: {late} of {STARTS}")
    m.equal(passed(f"{what}, typed", typed(start), f"{kind}-*.scope"), STARTS, "first packets of what is typed")


@test
def xfce_terminal_moves_its_program_late():
    with x11():
        moves_late("xfce4-terminal", "xfce4-terminal", by_caller(X11, "xfce4-terminal", "--disable-server", "-x"), "vte-spawn")


@test
def gnome_console_moves_its_program_late():
    # Its window stays when the program is over.
    with sway():
        moves_late("GNOME Console", "gnome-console", by_caller(WAYLAND, "kgx", "--", patience=4), "vte-spawn")


@test
def tmux_moves_its_program_late():
    try:
        moves_late("tmux", "tmux", by_caller([], "tmux", "-L", "t", "new-session", "-d"), "tmux-spawn")
    finally:
        m.as_user("tmux", "-L", "t", "kill-server", ok=False)


if __name__ == "__main__":
    m.stop("t-boot-listener.socket", "t-boot-listener.service")
    m.reset()
    listeners = m.Listeners([7001])
    pathlib.Path(TELLS).write_text(TELLS_TEXT)
    pathlib.Path(TELLS).chmod(0o755)
    MENU.parent.mkdir(parents=True, exist_ok=True)
    MENU.write_text(MENU_TEXT)
    passed, failed = m.run_tests(TESTS, sys.argv[1:])
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)
