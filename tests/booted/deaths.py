"""deaths.py [WORD...]: each source of the daemon's dies, in each way that it can; only tests with one of the words in their names
run.

All the while units start and stop: what is left must do for them. When the source is back it must be used again by itself,
the kernel must be as the policy says, the log must have said so once, and nothing may have grown.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import machine as m

TESTS = []
SAID = pathlib.Path("/run/t-said")
JOURNALS = pathlib.Path("/var/log/journal")
BUS_SOCKET = pathlib.Path("/run/dbus/system_bus_socket")

# A unit of the system's, a user's that a selector selects, and one that a rule without a cgroup match is about: of that the bus
# and the journal tell. Only the bus tells of one by its alias, only cgroupfs of a cgroup that no unit has.
NAMED, CHOSEN, GATE, ALIAS, BARE = "t-named.service", "t-chosen.service", "t-gate.service", "t-alias.service", "t-bare.scope"
NAMED_CGROUP = f"system.slice/{NAMED}"
CHOSEN_CGROUP = f"{m.USER_SLICE}/{CHOSEN}"
BARE_CGROUP = f"system.slice/{BARE}"
STRANGER = "system.slice/t-stranger.service"
POLICY = [
    m.system_rule(NAMED),
    m.selected(f"user:{CHOSEN}", port=7002),
    m.rule(GATE, port=7003),
    m.rule(ALIAS, port=7004),
    m.system_rule(BARE),
]


def test(function):
    TESTS.append(function)
    return function


def set_up():
    for name in [NAMED, "t-stranger.service"]:
        m.service(name, "ExecStart=/bin/sleep infinity")
    m.service(CHOSEN, "ExecStart=/bin/sleep infinity", where=m.USER_UNITS)
    for name in [GATE, "t-real.service"]:
        m.service(name, "Type=oneshot", "RemainAfterExit=yes", "ExecStart=/bin/true")
    (m.UNITS / ALIAS).symlink_to("t-real.service")
    for name in ["systemd-journald.service", "dbus.service"]:
        m.drop_in(name, "[Unit]\nStartLimitIntervalSec=0\n")
    m.start(f"user@{m.UID}.service")
    m.reload_units()
    m.start("t-stranger.service")


def start_daemon(*options, more=""):
    """What it says goes to a file: the journal is one of those that die."""
    set_up()
    m.write_policy(*POLICY)
    m.load_base()
    SAID.write_text("")
    m.start_daemon(*options, more=f"StandardError=append:{SAID}\n{more}")
    m.linted()


def said():
    """The warnings and errors of the daemon's present run."""
    return SAID.read_text().splitlines()


def is_said():
    """Waits for one line more."""
    before = len(said())
    m.eventually(lambda: len(said()) > before, "nothing is said")


def user(verb, name=CHOSEN):
    m.as_user("systemctl", "--user", verb, name)


def gate_is(is_open, port=7003):
    m.eventually(
        lambda: m.gets_through(STRANGER, port) == is_open, lambda: f"port {port} should be {'open' if is_open else 'closed'}: {said()}"
    )


def elements_become(*expected):
    m.eventually(lambda: m.elements() == sorted(expected), lambda: f"elements: {m.elements()}, expected {sorted(expected)}: {said()}")


def cgroups_are_followed():
    """A unit of the system's and one of a user's come and go."""
    m.start(NAMED)
    user("start")
    elements_become(NAMED_CGROUP, CHOSEN_CGROUP)
    m.stop(NAMED)
    user("stop")
    elements_become()


def gate_is_followed(name=GATE, port=7003):
    """A unit comes and goes of which cgroupfs cannot tell."""
    m.start(name)
    gate_is(True, port)
    m.stop(name)
    gate_is(False, port)


def cgroupfs_is_used():
    """A cgroup comes and goes of which nobody else can tell."""
    (m.CGROUPS / BARE_CGROUP).mkdir()
    elements_become(BARE_CGROUP)
    (m.CGROUPS / BARE_CGROUP).rmdir()
    elements_become()


def bus_is_used():
    gate_is_followed("t-real.service", port=7004)


def journal_is_used():
    """For a daemon without a bus."""
    gate_is_followed()


def holdings():
    """File descriptors and the memory that is the daemon's own, in kB."""
    pid = m.daemon_pid()
    status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return len(os.listdir(f"/proc/{pid}/fd")), int(status["RssAnon"].split()[0])


MEMORY_LIMIT_KB = 1024


def dies(once, *words, lines=None, again=2):
    """Has the source die once, and again. Each time there is one line with these words in the log; or, without words, none; or so
    many lines. Nothing grows."""
    lines = lines if lines is not None else 1 if words else 0
    already, (fds, _) = len(said()), holdings()
    once()
    said_becomes(already + lines, *words)
    _, memory = holdings()
    for _ in range(again):
        once()
    said_becomes(already + lines * (1 + again), *words)
    # What was closed is so a moment later.
    m.eventually(lambda: holdings()[0] <= fds, lambda: f"{holdings()[0]} descriptors, {fds} before")
    m.check(holdings()[1] <= memory + MEMORY_LIMIT_KB, lambda: f"{holdings()[1]} kB, {memory} before")


def said_becomes(lines, *words):
    m.eventually(lambda: len(said()) >= lines, lambda: f"less than {lines} lines: {said()}")
    m.equal(len(said()), lines, f"lines: {said()}")
    for word in words:
        m.check(all(word in line for line in said()), f"no {word} in each of {said()}")


# systemd


@test
def systemd_reads_its_files_again():
    start_daemon()

    def once():
        m.run("systemctl", "daemon-reload")
        what_is_left_does()
        bus_is_used()

    dies(once)


@test
def systemd_is_executed_again():
    start_daemon()

    def once():
        m.run("systemctl", "daemon-reexec")
        what_is_left_does()
        bus_is_used()

    dies(once)


@test
def manager_of_a_user_is_restarted():
    start_daemon()

    def once():
        user("start")
        elements_become(CHOSEN_CGROUP)
        m.run("systemctl", "restart", f"user@{m.UID}.service")
        elements_become()
        cgroups_are_followed()

    dies(once)


# inotify


@test
def queue_of_inotify_overflows():
    start_daemon()
    events = int(pathlib.Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    system, users = m.CGROUPS / "system.slice/t-flood.service", m.CGROUPS / m.USER_SLICE / "t-flood.service"

    def once():
        pid = m.daemon_pid()
        user("start")
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(events // 2 + 1):
                for each in [system, users]:
                    each.mkdir()
                    each.rmdir()
            user("stop")
            m.start(NAMED)
        finally:
            os.kill(pid, signal.SIGCONT)
        elements_become(NAMED_CGROUP)
        m.stop(NAMED)
        cgroups_are_followed()
        cgroupfs_is_used()

    once()
    # More and more rarely: for each queue at the first, second, fourth time and so on.
    said_becomes(2, "overflowed (so far: 1)")
    once()
    once()
    said_becomes(4)


EXHAUST = """
import ctypes, os, select, sys
libc = ctypes.CDLL(None, use_errno=True)
fds = []
while len(fds) < int(sys.argv[1]) and (fd := libc.inotify_init1(0)) >= 0:
    fds.append(fd)
names = [b"/run/t-exhaust/%d" % number for number in range(int(sys.argv[2]))]
for name in names:
    os.mkdir(name)
pairs = ((fd, name) for fd in fds for name in names)
pair = next(pairs, None)
def fill():
    global pair
    while pair and libc.inotify_add_watch(*pair, 0x100) >= 0:
        pair = next(pairs, None)
fill()
print("exhausted", flush=True)
# What an earlier daemon had, the kernel takes back a moment later.
while not select.select([sys.stdin], [], [], 0.02)[0]:
    fill()
"""


def limit(name):
    return int(pathlib.Path(f"/proc/sys/fs/inotify/max_user_{name}").read_text())


@contextlib.contextmanager
def exhausted(instances, directories=0):
    """Uses up what the daemon's user may have of inotify, with so many instances that watch so many directories each."""
    pathlib.Path("/run/t-exhaust").mkdir(exist_ok=True)
    pathlib.Path("/run/t-exhaust").chmod(0o777)
    command = ["setpriv", "--reuid=scnpm", "--regid=scnpm", "--clear-groups", "python3", "-c", EXHAUST, str(instances), str(directories)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            m.equal(process.stdout.readline(), "exhausted\n", "what uses inotify up")
            yield
        finally:
            process.stdin.close()
            process.wait()
            shutil.rmtree("/run/t-exhaust")


# With several kinds of sources that die, there is a line for each.


@test
def watches_of_inotify_are_exhausted():
    start_daemon()
    m.stop(f"user@{m.UID}.service")

    def once():
        # Slices that are not there yet need watches of their own.
        with exhausted(100, limit("watches") // 100 + 1):
            m.start(f"user@{m.UID}.service")
            what_is_left_does()
        cgroups_are_followed()
        m.stop(f"user@{m.UID}.service")

    dies(once, "max_user_watches", again=0)


@test
def watches_of_inotify_are_exhausted_at_the_start():
    with exhausted(100, limit("watches") // 100 + 1):
        start_daemon("--watch-config")
        what_is_left_does()
        # More than a round of looks.
        what_is_left_does()
        said_becomes(4, "max_user_watches")
    everything_is_used_again()
    said_becomes(4)


def everything_is_used_again():
    cgroups_are_followed()
    cgroupfs_is_used()
    journal_is_used()
    changed_files_are_loaded()


def changed_files_are_loaded():
    m.write_policy(*POLICY, m.system_rule("t-stranger.service"))
    elements_become(STRANGER)
    m.write_policy(*POLICY)
    elements_become()


@test
def instances_of_inotify_are_exhausted_at_the_start():
    with exhausted(limit("instances")):
        start_daemon("--watch-config", *WITHOUT_BUS)
        cgroups_are_followed()
        said_becomes(5, "max_user_instances")
        cgroups_are_followed()
    everything_is_used_again()
    said_becomes(5)


def limit_fds(number):
    """Sets the daemon's soft limit."""
    m.run("setpriv", "--reuid=scnpm", "--regid=scnpm", "--clear-groups", "prlimit", f"--pid={m.daemon_pid()}", f"--nofile={number}:")


@test
def file_descriptors_are_exhausted():
    start_daemon("--watch-config")

    def once():
        m.stop(f"user@{m.UID}.service")
        limit_fds(4)
        try:
            m.start(f"user@{m.UID}.service")
            m.run("journalctl", "--rotate")
            what_is_left_does()
            time.sleep(2)
            what_is_left_does()
        finally:
            limit_fds(1024)
        everything_is_used_again()

    once()
    said_becomes(3, "Too many open files")
    # That users share an instance from now on is said already.
    dies(once, lines=2, again=0)


# cgroup v2


@test
def cgroup2_is_mounted_late():
    set_up()
    m.write_policy(*POLICY)
    m.load_base()
    with SAID.open("w") as file:
        daemon = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {m.CGROUPS} && exec {m.SCNPM} {m.CONF}"], stderr=file
        )
    try:
        m.eventually(lambda: "scnpm." in m.ruleset() or daemon.poll() is not None, "no policy")
        m.equal(daemon.poll(), None, f"exit status; {said()}")
        gate_is_followed()
        m.run("nsenter", f"--target={daemon.pid}", "--mount", "umount", str(m.CGROUPS))
        cgroups_are_followed()
        cgroupfs_is_used()
        said_becomes(1, "cgroup v2")
    finally:
        daemon.terminate()
        daemon.wait()


# The journal. The daemon has no bus here, so that nobody else tells of the gate.

WITHOUT_BUS = ["--sources", "cgroup,journal"]


def journals():
    return sorted(JOURNALS.glob("*/*.journal"))


def journal_dies(death, *words, lines=None):
    """Nothing is to be said where it is back at once."""
    start_daemon(*WITHOUT_BUS)
    journal_is_used()

    def once():
        death()
        cgroups_are_followed()
        journal_is_used()

    dies(once, *words, lines=lines)


@test
def journald_is_restarted():
    journal_dies(lambda: m.run("systemctl", "restart", "systemd-journald.service"))


def words_of_systemd():
    """How many messages of systemd's about a unit the journal has."""
    return m.run("journalctl", "--quiet", "--output=cat", "_PID=1", "UNIT=t-real.service", ok=False).stdout.count("\n")


@test
def journald_is_killed():
    def death():
        before = words_of_systemd()
        m.run("systemctl", "kill", "--signal=KILL", "systemd-journald.service")

        # What systemd says while there is no journald is lost, or comes by way of the kernel's log, which anybody may write to.
        def is_back():
            m.start("t-real.service")
            m.stop("t-real.service")
            return words_of_systemd() > before

        m.eventually(is_back, "the journal has nothing from systemd")

    journal_dies(death)


@test
def journal_is_rotated_and_vacuumed():
    journal_dies(lambda: m.run("journalctl", "--rotate", "--vacuum-files=1"))


SOCKETS = ["systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald-audit.socket"]


@test
def journald_is_stopped():
    def death():
        m.run("systemctl", "stop", *SOCKETS, "systemd-journald.service", ok=False)
        m.check(not m.active("systemd-journald.service"), "journald runs")
        try:
            cgroups_are_followed()
        finally:
            m.run("systemctl", "start", *SOCKETS[:2], "systemd-journald.service")

    journal_dies(death)


def new_journals():
    """journald looks every ten seconds whether its files are there; at once when it is told to."""
    m.run("journalctl", "--rotate")
    m.eventually(journals, "no journal")


@test
def files_of_the_journal_are_deleted():
    def death():
        for path in JOURNALS.glob("*/*"):
            path.unlink()
        is_said()
        cgroups_are_followed()
        new_journals()

    journal_dies(death, "the journal cannot be read for now")


@test
def directories_of_the_journal_are_deleted():
    def death():
        for path in JOURNALS.iterdir():
            shutil.rmtree(path)
        is_said()
        cgroups_are_followed()
        m.run("systemctl", "restart", "systemd-journald.service")
        m.run("journalctl", "--flush")
        m.eventually(journals, "no journal")

    journal_dies(death, "the journal cannot be read for now")


@test
def files_of_the_journal_are_truncated_while_they_are_read():
    def death():
        for part in [2, 1_000_000_000]:
            for path in journals():
                os.truncate(path, path.stat().st_size // part)
            cgroups_are_followed()
        # Before journald has made others, or after that.
        new_journals()

    start_daemon(*WITHOUT_BUS)
    journal_is_used()
    pid = m.daemon_pid()
    for number in range(1, 4):
        death()
        cgroups_are_followed()
        journal_is_used()
        m.check(len(said()) <= number, f"more than a line for each time: {said()}")
    m.equal(m.daemon_pid(), pid, "the daemon's PID")


# The bus


@contextlib.contextmanager
def without_bus():
    m.stop_dbus()
    try:
        yield
    finally:
        m.start_dbus()


def what_is_left_does():
    cgroups_are_followed()
    gate_is_followed()


@test
def bus_is_restarted():
    start_daemon()
    bus_is_used()

    def once():
        with without_bus():
            what_is_left_does()
        bus_is_used()

    dies(once, "bus")


@test
def bus_is_restarted_at_once():
    start_daemon()
    bus_is_used()

    def once():
        m.run("systemctl", "kill", "--signal=KILL", "dbus.service")
        m.run("systemctl", "reset-failed", "dbus.service", ok=False)
        m.start("dbus.service")
        bus_is_used()

    dies(once, "bus")


@test
def bus_is_not_there_at_the_start():
    with without_bus():
        # As at boot.
        BUS_SOCKET.unlink()
        start_daemon()
        what_is_left_does()
    bus_is_used()
    said_becomes(0)


@test
def bus_does_not_answer():
    start_daemon()
    bus_is_used()

    def once():
        with m.frozen("dbus.service"):
            cgroups_are_followed()
            m.start(GATE)
            gate_is(True)
            m.stop(GATE)
            gate_is(False)
        bus_is_used()

    dies(once, "bus", again=0)


@test
def bus_does_not_answer_at_the_start():
    with m.frozen("dbus.service"):
        start_daemon()
        what_is_left_does()
    bus_is_used()
    said_becomes(0)


def main(chosen):
    m.stop("t-boot-listener.socket", "t-boot-listener.service")
    m.reset()
    m.Listeners(range(7001, 7005))
    passed, failed = m.run_tests(TESTS, chosen)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
