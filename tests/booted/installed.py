"""installed.py: the Debian package from its installation to its purge, on a machine that has nothing of scnpm.

Runs with SCNPM=none (run.sh), in two boots. In /opt/tests/packages are two packages of one program: old.deb and new.deb.
"""

import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(__file__))
import machine as m

PACKAGES = pathlib.Path("/opt/tests/packages")
DOC = pathlib.Path("/usr/share/doc/scnpm")
KEPT = pathlib.Path("/var/lib/scnpm")
ETC = pathlib.Path("/etc/systemd/system")
BOOTED = pathlib.Path("/var/lib/t-booted")
FIRST = [f"t-first-{number}.service" for number in range(10)]
PORT = 7001
NEXT = ["Next: scnpm check /etc/nftables.conf", "Then: systemctl enable --now scnpm.service"]
OUT = "The rules of scnpm are out of the kernel."
ENVIRONMENT = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LANG": "C.UTF-8"}


def dpkg(*words):
    """What the package's own scripts print."""
    done = m.run(*words, env=ENVIRONMENT)
    own = re.compile(
        r"\(Reading database|Selecting|Preparing|Unpacking|Setting up|Removing|Purging|Processing triggers|Reading package lists"
        r"|Building dependency tree|Reading state information|Note, selecting|The following|  scnpm|.* newly installed|Get:"
        # Debian 12 has this directory as /lib/systemd/system-generators.
        r"|dpkg: warning: while removing scnpm, directory .*system-generators|After this operation|Need to get|debconf: |Scanning|N: |W: |  [a-z]|Use 'apt|Fetched|.*inst |Suggested|Recommended"
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return [line for line in lines if not own.match(line.split("\r")[-1])]


def install(package):
    return dpkg("dpkg", "--install", str(PACKAGES / package))


def links():
    """What is enabled of the package's."""
    found = [*ETC.rglob("scnpm*"), *pathlib.Path("/etc/systemd/user").rglob("scnpm*")]
    return sorted(str(path) for path in found)


def annotation(unit, cgroup="socket cgroupv2 unit", comment=""):
    return f"{comment}# {unit} :: add rule inet filter services {cgroup} tcp dport {PORT} accept\n"


def write_policy():
    """The example for servers, which is in force on the loopback interface, too."""
    text = (DOC / "examples/server.conf").read_text()
    loopback = "        oif lo accept\n"
    m.check(loopback in text, "the example lets everything through on the loopback interface no more")
    ours = f"        oif lo tcp dport {PORT} jump services\n        oif lo tcp dport {PORT} reject with tcp reset\n"
    text = text.replace(loopback, ours + loopback)
    for unit in [*FIRST, "t-stream.service", "t-start.service"]:
        text += annotation(unit, f'socket cgroupv2 level 2 "system.slice/{unit}"')
    text += annotation("system:t-wait.service", comment="# scnpm: wait\n") + annotation(f"{m.USER}:t-login.service")
    m.CONF.write_text(text)
    # There is no DNS here.
    pathlib.Path("/etc/hosts").write_text("127.0.0.1 localhost\n192.0.2.30 payments.example.com\n")


def units():
    """Some that connect at boot at once, and some for later."""
    oneshot = f"Type=oneshot\nExecStart=-{m.CONNECT} {PORT} /run/%N\nRemainAfterExit=yes\n"
    listener = "Requires=t-listener.socket\nAfter=t-listener.socket\n"
    for unit in [*FIRST, "t-stranger.service"]:
        m.unit(unit, f"[Unit]\n{listener}[Service]\n{oneshot}[Install]\nWantedBy=multi-user.target\n", ETC)
    m.unit("t-login.service", f"[Service]\nType=oneshot\nExecStart=-{m.CONNECT} {PORT} %t/%N\nRemainAfterExit=yes\n"
           "[Install]\nWantedBy=default.target\n", pathlib.Path("/etc/systemd/user"))
    # PID 1 itself listens, so that a connection made before anything else runs is taken.
    m.unit("t-listener.socket", f"[Socket]\nListenStream=127.0.0.1:{PORT}\n[Install]\nWantedBy=sockets.target\n", ETC)
    m.unit("t-listener.service", "[Service]\nExecStart=/bin/sleep infinity\n", ETC)
    m.unit("t-stream.service", "[Service]\nExecStart=/bin/sleep infinity\n", ETC)
    for unit in ["t-start.service", "t-wait.service"]:
        m.unit(unit, f"[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nExecStart=-{m.CONNECT} {PORT} /run/%N\n", ETC)
    m.reload_units()
    m.run("systemctl", "enable", *FIRST, "t-stranger.service", "t-listener.socket")
    m.run("systemctl", "--global", "enable", "t-login.service")


# Before the first boot with it


def installation_prints_two_commands_and_switches_nothing_on():
    m.equal(install("old.deb"), NEXT, "what is printed")
    m.equal(links(), [], "what is enabled")
    m.equal(m.run("systemctl", "is-enabled", "scnpm.service", ok=False).stdout, "disabled\n", "scnpm.service")
    running = m.run("systemctl", "list-units", "--plain", "--no-legend", "scnpm*").stdout
    m.equal(running, "", "what runs")
    m.check("systemd-journal" in m.run("id", "scnpm").stdout, "the user is not in systemd-journal")
    m.equal(m.run("dpkg", "--verify", "scnpm").stdout, "", "files that are not as in the package")
    m.equal(m.run("systemd-analyze", "verify", "--man=no", "scnpm.service").stderr, "", "systemd-analyze verify")


def the_two_commands_work():
    units()
    write_policy()
    check, enable = (line.split(maxsplit=1)[1] for line in NEXT)
    checked = m.as_user(*check.split(), ok=False)
    m.check(checked.returncode == 0, f"{check}:\n{checked.stdout}{checked.stderr}")
    m.run("systemctl", "enable", "nftables.service")
    m.run("nft", "-f", str(m.CONF))
    m.run(*enable.split())
    m.check(m.active("scnpm.service"), "the daemon does not run")
    m.equal([path for path in links() if path.startswith("/etc/systemd/system/sysinit")],
            ["/etc/systemd/system/sysinit.target.wants/scnpm.service"], "links of systemctl enable")


# After it


def policy_is_in_force_from_the_first_moment():
    began = int(m.show("scnpm.service", "ActiveEnterTimestampMonotonic"))
    m.check(began, f"the daemon did not start: {m.log()}")
    for later in ["sysinit.target", "network-pre.target", FIRST[0]]:
        at = int(m.show(later, "ActiveEnterTimestampMonotonic"))
        m.check(at == 0 or began < at, f"{later} came before the daemon")
    outcomes = {unit: pathlib.Path(f"/run/{unit[:-8]}").read_text().split() for unit in FIRST}
    m.equal(outcomes, {unit: ["ok"] for unit in FIRST}, "the first packets at boot")
    m.equal(pathlib.Path("/run/t-stranger").read_text().split(), ["refused"], "a service without a rule")
    print(f"figure: package|services at boot whose first connection passed|{len(FIRST)} of {len(FIRST)}")


def rules_of_a_user_apply_at_login():
    login = pathlib.Path(f"/run/user/{m.UID}/t-login")
    m.eventually(login.exists, "the user's unit did not run")
    m.equal(login.read_text().split(), ["ok"], "the first packet of the user's unit")
    m.run("systemctl", "start", f"user@{m.OTHER_UID}.service")
    login = pathlib.Path(f"/run/user/{m.OTHER_UID}/t-login")
    m.eventually(login.exists, "the other user's unit did not run")
    m.equal(login.read_text().split(), ["refused"], "that of another user")
    m.run("systemctl", "stop", f"user@{m.OTHER_UID}.service")


class Starts:
    """Starts a unit again and again."""

    def __init__(self, unit):
        self.unit, self.is_over, self.failed = unit, False, 0
        self.thread = threading.Thread(target=self._start)
        self.thread.start()

    def _start(self):
        while not self.is_over:
            self.failed += m.run("systemctl", "start", self.unit, ok=False).returncode != 0

    def outcomes(self):
        self.is_over = True
        self.thread.join()
        return pathlib.Path(f"/run/{self.unit[:-8]}").read_text().split()


ECHO = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10) as stream:
    for number in range(10**9):
        if sys.stdin in __import__("select").select([sys.stdin], [], [], 0.001)[0]:
            break
        stream.sendall(b"x")
        if stream.recv(1) != b"x":
            sys.exit("closed")
print(number)
"""


def upgrade_under_traffic_drops_nothing():
    """A long connection, new ones of a service that runs, and services that start all the while."""
    # The listener of PID 1 takes no more than its backlog.
    m.run("systemctl", "stop", "t-listener.socket", "t-listener.service")
    server = socket.create_server(("127.0.0.1", PORT), backlog=4096)

    def echo(connection):
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    def serve():
        while True:
            threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    m.run("systemctl", "start", "t-stream.service")
    cgroup = "system.slice/t-stream.service"
    m.is_let_through(cgroup, PORT)

    def move():
        (m.CGROUPS / cgroup / "cgroup.procs").write_text("0")

    long = subprocess.Popen(["python3", "-c", ECHO, str(PORT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            preexec_fn=move)
    probe = m.Probe(cgroup, PORT)
    stranger = m.Probe("system.slice/systemd-journald.service", PORT)
    starts, waits = Starts("t-start.service"), Starts("t-wait.service")
    time.sleep(1)
    before = m.daemon_pid()
    began = time.monotonic()
    said = install("new.deb")
    took = time.monotonic() - began
    time.sleep(1)
    started, waited = starts.outcomes(), waits.outcomes()
    refusals, strangers = probe.refusals(), stranger.end()
    exchanged, _ = long.communicate("end\n", timeout=20)
    m.equal(said, [], "what an upgrade prints")
    m.check(m.daemon_pid() not in (0, before), "the daemon is still the old one")
    m.equal(m.run("dpkg-query", "-W", "-f", "${Version}", "scnpm").stdout, "0.1.1-1", "the version")
    m.equal(long.returncode, 0, "the long connection")
    m.equal(refusals, [], "new connections that were refused, in ms")
    m.equal({what for what, _, _ in strangers}, {"refused"}, "connections of a service without a rule")
    m.equal((waits.failed, set(waited)), (0, {"ok"}), "starts of a unit that waits: failures and first tries")
    refused = started.count("refused")
    print(f"figure: package|upgrade ({took:.1f} s): round trips of a long connection, dropped|{exchanged.strip()}, 0")
    print(f"figure: package|… first tries of a unit that starts all the while, refused|{len(started)}, {refused}")
    print(f"figure: package|… the same with `scnpm: wait`|{len(waited)}, 0")
    # Each of the two daemons loads the policy when the other has, and may be a moment behind with a unit that starts just then.
    m.check(refused * 10 <= len(started), f"{refused} of {len(started)} first tries were refused")
    stopped = m.log()
    m.check("error" not in stopped.lower(), stopped)


def ours_in_the_kernel():
    return "scnpm" in m.ruleset()


def leftovers():
    """Files that the package or the daemon may have left."""
    places = ["/etc", "/usr", "/var/lib", "/var/cache", "/run", "/opt"]
    found = m.run("find", *places, "-xdev", "-iname", "*scnpm*", ok=False).stdout.splitlines()
    ours = ("/opt/tests/", "/run/log/", "/var/lib/dpkg/", "/etc/systemd/system/t-")
    return [path for path in found if not path.startswith(ours)]


def removal_says_how_to_clean_and_purge_does_it():
    said = dpkg("apt-get", "--yes", "remove", "scnpm")
    m.check(said and f"{KEPT}/scnpm --clean" in " ".join(said), f"removal says {said}")
    m.check(not m.active("scnpm.service"), "the daemon runs")
    m.check(ours_in_the_kernel(), "the rules are gone")
    m.equal(m.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "--state=active", "scnpm*").stdout, "",
            "what runs")
    # The units that waited start without the program.
    m.run("systemctl", "start", "t-wait.service")
    m.check(m.gets_through("system.slice/t-stream.service", PORT), "a rule that holds is gone")
    m.equal(dpkg("dpkg", "--purge", "scnpm"), [OUT], "what purge prints")
    is_gone()


def is_gone():
    m.check(not ours_in_the_kernel(), lambda: f"left in the kernel:\n{m.ruleset()}")
    m.check("hook output" in m.ruleset(), "the user's own rules are gone")
    m.equal(leftovers(), [], "files")
    m.equal(m.run("getent", "passwd", "scnpm", ok=False).stdout, "", "the user")
    m.equal(m.run("getent", "group", "scnpm", ok=False).stdout, "", "the group")
    units_left = m.run("systemctl", "list-unit-files", "--no-legend", "scnpm*", ok=False).stdout
    m.equal(units_left, "", "unit files")


def removal_and_installation_are_as_at_first():
    m.equal(install("new.deb"), NEXT, "what is printed")
    m.run("systemctl", "enable", "--now", "scnpm.service")
    m.eventually(ours_in_the_kernel, "no rules")
    dpkg("dpkg", "--remove", "scnpm")
    m.equal(install("new.deb"), NEXT, "what is printed after a removal")
    m.check(not KEPT.exists(), "the copy is still there")
    m.run("systemctl", "start", "scnpm.service")
    m.is_let_through("system.slice/t-stream.service", PORT)


def purge_at_once_leaves_nothing():
    m.check(ours_in_the_kernel(), "no rules")
    said = dpkg("apt-get", "--yes", "purge", "scnpm")
    m.equal(said[-1], OUT, "what purge prints last")
    is_gone()


def clean_copy_works_by_itself():
    """What the removal says."""
    install("old.deb")
    m.run("systemctl", "enable", "--now", "scnpm.service")
    m.eventually(ours_in_the_kernel, "no rules")
    said = " ".join(dpkg("dpkg", "--remove", "scnpm"))
    command = re.search(rf"{KEPT}/scnpm --clean", said).group()
    m.run(*command.split())
    m.check(not ours_in_the_kernel(), m.ruleset)
    dpkg("dpkg", "--purge", "scnpm")
    is_gone()


def removal_of_what_was_never_used_says_nothing():
    m.run("nft", "flush", "ruleset")
    install("old.deb")
    m.equal(dpkg("dpkg", "--remove", "scnpm"), [], "what removal prints")
    m.check(not KEPT.exists(), "a copy is kept for nothing")
    m.equal(dpkg("dpkg", "--purge", "scnpm"), [], "what purge prints")
    m.equal(leftovers(), [], "files")


BEFORE = [installation_prints_two_commands_and_switches_nothing_on, the_two_commands_work]
AFTER = [
    policy_is_in_force_from_the_first_moment,
    rules_of_a_user_apply_at_login,
    upgrade_under_traffic_drops_nothing,
    removal_says_how_to_clean_and_purge_does_it,
    removal_and_installation_are_as_at_first,
    purge_at_once_leaves_nothing,
    clean_copy_works_by_itself,
    removal_of_what_was_never_used_says_nothing,
]


def main():
    is_first = not BOOTED.exists()
    BOOTED.touch()
    _, failed = m.run_tests(BEFORE if is_first else AFTER, [], clean_up=lambda: None)
    if is_first and not failed:
        sys.exit(75)
    sys.exit(bool(failed))


main()
