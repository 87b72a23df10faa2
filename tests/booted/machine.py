"""What the tests do to the booted machine: policies, units, connections, and looks at the kernel.

Runs as root inside the container, with the standard library only.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

SCNPM = "/usr/bin/scnpm"
CONF = pathlib.Path("/etc/nftables.conf")
CONNECT = "/opt/tests/connect"
EXAMPLES = pathlib.Path("/opt/tests/examples")
UNITS = pathlib.Path("/run/systemd/system")
USER_UNITS = pathlib.Path("/run/systemd/user")
TRIES = pathlib.Path("/run/tries")
CGROUPS = pathlib.Path("/sys/fs/cgroup")
UID = 1000
USER = "tester"
# Another one.
OTHER_UID = 1001
OTHER = "other"
USER_SLICE = f"user.slice/user-{UID}.slice/user@{UID}.service/app.slice"

# Where the tests are started from may not exist in the container.
os.chdir("/")

# Ports 7001 to 7009 are for those whom the chain `allowed` lets through.
BASE = """#!/usr/sbin/nft -f
flush ruleset
table inet filter {
    chain allowed { }
    chain output {
        type filter hook output priority filter; policy accept;
        ct state established,related accept
        tcp dport 7001-7009 jump allowed
        tcp dport 7001-7009 reject with tcp reset
    }
}
"""


class Failure(Exception):
    """What a test found wrong."""


def check(condition, why):
    if not condition:
        raise Failure(why() if callable(why) else why)


def equal(found, expected, what):
    check(found == expected, f"{what}: found {found!r}, expected {expected!r}")


def eventually(condition, why, patience=20):
    """Waits until the condition holds; how long that takes is not the test's business. It is looked at less and less often:
    most conditions start a program, and other tests need the processors, too."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        check(waited < patience, lambda: f"{why() if callable(why) else why} (after {patience} s)")
        time.sleep(min(0.02 + waited / 4, 0.3))


def run(*command, ok=True, **options):
    """Runs a command and returns what it did; with `ok`, a failure is the test's."""
    done = subprocess.run(command, text=True, capture_output=True, timeout=120, **options)
    check(done.returncode == 0 or not ok, lambda: f"{' '.join(command)}: {done.returncode} {done.stderr.strip()}")
    return done


def as_user(*command, uid=UID, **options):
    name = USER if uid == UID else OTHER
    environment = {"XDG_RUNTIME_DIR": f"/run/user/{uid}", "PATH": os.environ["PATH"], "HOME": f"/home/{name}"}
    return run("setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups", *command, env=environment, **options)


def in_scope(name, command, uid=UID, **options):
    """Runs a command in a scope of a user's own, as a desktop runs an application."""
    return as_user("systemd-run", "--user", "--scope", "--quiet", f"--unit={name}", "sh", "-c", command, uid=uid, **options)


# Policies


def rule(unit, cgroup=None, port=7001, matches=""):
    """An annotation that lets a cgroup (or, without one, everybody) through to a port."""
    match = f'socket cgroupv2 level {cgroup.count("/") + 1} "{cgroup}" ' if cgroup else ""
    return f"# {unit} :: add rule inet filter allowed {match}{matches} tcp dport {port} accept\n"


def system_rule(unit, **rest):
    return rule(unit, f"system.slice/{unit}", **rest)


def selected(selector, port=7001):
    return f"# {selector} :: add rule inet filter allowed socket cgroupv2 unit tcp dport {port} accept\n"


def write_policy(*annotations, base=BASE):
    CONF.write_text(base + "\n" + "".join(annotations))


def write_policy_again():
    """As an editor does that writes in place."""
    CONF.write_text(CONF.read_text())


def load_base():
    run("nft", "-f", str(CONF))


def start_with(*annotations, options=(), base=BASE):
    """A machine with this policy, as after boot: the base loaded by nft, then the daemon."""
    write_policy(*annotations, base=base)
    load_base()
    start_daemon(*options)


def configure_daemon(*options, more=""):
    """The daemon's unit with these options, and without systemd's rate limit."""
    drop_in(
        "scnpm.service",
        f"[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=\n"
        f"ExecStart={SCNPM} --names /run/scnpm-names.socket --answers /run/scnpm-answers.socket {' '.join(options)} {CONF}\n{more}",
    )


def start_daemon(*options, more=""):
    configure_daemon(*options, more=more)
    run("systemctl", "restart", "scnpm.service")


def daemon_pid():
    return int(show("scnpm.service", "MainPID"))


# Units


def unit(name, text, where=UNITS):
    where.mkdir(parents=True, exist_ok=True)
    (where / name).write_text(text)


def drop_in(name, text, file="tests.conf"):
    unit(file, text, UNITS / f"{name}.d")
    run("systemctl", "daemon-reload")


def drop_in_of_examples(name, example):
    """A drop-in as examples/systemd has it."""
    drop_in(name, (EXAMPLES / "systemd" / f"{name}.d" / example).read_text(), "tests-example.conf")


def service(name, *settings, where=UNITS):
    """A service without systemd's rate limit; call reload_units() afterwards."""
    unit(name, "[Unit]\nStartLimitIntervalSec=0\n[Service]\n" + "\n".join(settings) + "\n", where)


def reload_units():
    run("systemctl", "daemon-reload")
    if active(f"user@{UID}.service"):
        as_user("systemctl", "--user", "daemon-reload")


def start(*names):
    run("systemctl", "start", *names)


def stop(*names):
    run("systemctl", "stop", *names)


def show(name, what):
    return run("systemctl", "show", "--value", "-p", what, name).stdout.strip()


def active(name):
    return run("systemctl", "is-active", "--quiet", name, ok=False).returncode == 0


@contextlib.contextmanager
def frozen(name):
    """A service that hangs for a while."""
    pid = int(show(name, "MainPID"))
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def reset():
    """Ends what a test has started and removes what it has written."""
    names = [path.name for path in UNITS.glob("t-*") if path.is_file()]
    running = run("systemctl", "list-units", "--plain", "--no-legend", "--all", "t-*", "t\\*", ok=False).stdout
    names += [line.split()[0] for line in running.splitlines()]
    run("systemctl", "stop", "scnpm.service", "scnpm-names.service", *[name for name in names if not name.endswith("@.service")], ok=False)
    if active(f"user@{UID}.service"):
        as_user("systemctl", "--user", "stop", "t-*", ok=False)
    ours = [*UNITS.glob("t-*"), *USER_UNITS.glob("t-*"), *UNITS.glob("*.wants/t-*"), *UNITS.glob("*.d/tests*.conf")]
    for path in [*ours, *TRIES.glob("*")]:
        path.unlink()
    run("systemctl", "reset-failed", ok=False)
    reload_units()
    run("nft", "flush", "ruleset")


# D-Bus


def stop_dbus():
    """dbus.service refuses to be stopped by hand, so it is killed while nothing can start it again."""
    run("systemctl", "mask", "--runtime", "dbus.socket", "dbus.service")
    run("systemctl", "stop", "dbus.socket", ok=False)
    run("systemctl", "kill", "--signal=KILL", "dbus.service", ok=False)
    eventually(lambda: not active("dbus.service"), "D-Bus lives")


def start_dbus():
    run("systemctl", "unmask", "--runtime", "dbus.socket", "dbus.service")
    run("systemctl", "reset-failed", ok=False)
    start("dbus.socket", "dbus.service")


# Pages of docs


def blocks_below(text):
    """The fenced blocks of a part of a page, each without its prompt, by the paragraph above it."""
    paragraphs = [re.sub(r"^<!-- .*? -->\n", "", each, flags=re.DOTALL | re.MULTILINE) for each in text.strip().split("\n\n")]
    pairs = [(above, re.fullmatch(r"```\w+\n(?:\$ )?(.*)\n```", block, re.DOTALL)) for above, block in zip(paragraphs, paragraphs[1:])]
    return {above: found[1] for above, found in pairs if found}


# Connections


class Listeners:
    """Takes connections on the ports, for as long as the tests run."""

    def __init__(self, ports):
        self.sockets = [socket.create_server(("127.0.0.1", port), backlog=128) for port in ports]
        for listener in self.sockets:
            threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    @staticmethod
    def _serve(listener):
        while True:
            listener.accept()[0].close()


PROBE = """
import select, socket, sys, time
port = int(sys.argv[1])
def say(what):
    print(f"{what} {time.monotonic():.6f}", flush=True)
last = None
while not select.select([sys.stdin], [], [], 0.001)[0]:
    with socket.socket() as each:
        each.settimeout(5)
        now = each.connect_ex(("127.0.0.1", port)) == 0
    if now != last:
        say("passes" if now else "refused")
        last = now
say("end")
"""


class Probe:
    """A process in a cgroup that connects once a millisecond, and says when the outcome changes."""

    def __init__(self, cgroup, port):
        def move():
            (CGROUPS / cgroup / "cgroup.procs").write_text("0")

        self.changes = []
        self.process = subprocess.Popen(
            ["python3", "-c", PROBE, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=move
        )
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            what, at = line.split()
            self.changes.append((what, float(at)))

    def end(self):
        """Each refusal: when it began and how long it took, in milliseconds; and each time something passed."""
        self.process.stdin.write("end\n")
        self.process.stdin.close()
        self.thread.join()
        self.process.wait()
        times = [(what, begun, 1000 * (ended - begun)) for (what, begun), (_, ended) in zip(self.changes, self.changes[1:])]
        return times

    def refusals(self):
        """Ends it. How long each refusal took, in milliseconds, of a process that was let through at first."""
        times = self.end()
        check(times and times[0][0] == "passes", f"not let through at first: {times}")
        return [took for what, _, took in times if what == "refused"]


def connects(name, port=7001):
    """A command for a unit's Exec line that connects and writes down under `name` how it went."""
    TRIES.mkdir(exist_ok=True)
    TRIES.chmod(0o1777)
    return f"{CONNECT} {port} {TRIES / name}"


def tries(name):
    """How the connections under that name went, in order."""
    try:
        return (TRIES / name).read_text().split()
    except FileNotFoundError:
        return []


def gets_through(cgroup, port=7001):
    """Whether a process in that cgroup gets through."""

    def move():
        (CGROUPS / cgroup / "cgroup.procs").write_text("0")

    return run(CONNECT, str(port), "/dev/null", ok=False, preexec_fn=move).returncode == 0


@contextlib.contextmanager
def known_hosts(*names, address="127.0.0.1"):
    """Makes the names resolve to this machine, or to an address of it, for a while."""
    hosts = pathlib.Path("/etc/hosts")
    before = hosts.read_text() if hosts.exists() else ""
    hosts.write_text(before + "".join(f"{address} {name}\n" for name in names))
    try:
        yield
    finally:
        hosts.write_text(before)


class NameServer:
    """Tells the address 127.0.0.1 of every name that ends in a domain, as DNS servers do, by UDP."""

    def __init__(self, domain):
        self.domain = b"".join(bytes([len(label)]) + label.encode() for label in domain.split("."))
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))
        self.configuration = pathlib.Path("/etc/resolv.conf")
        self.is_over = False

    def __enter__(self):
        self.before = self.configuration.read_text() if self.configuration.exists() else ""
        self.configuration.write_text("nameserver 127.0.0.1\n")
        self.serving = threading.Thread(target=self._serve, daemon=True)
        self.serving.start()

    def __exit__(self, *_):
        self.configuration.write_text(self.before)
        self.is_over = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(bytes(17), ("127.0.0.1", 53))
        self.serving.join()
        self.socket.close()

    def _serve(self):
        while not self.is_over:
            question, client = self.socket.recvfrom(512)
            name = question[12 : question.index(b"\0", 12)]
            kind = question[12 + len(name) + 1 :][:2]
            is_known = name.endswith(self.domain) and kind == b"\0\1"
            head = question[:2] + b"\x81\x80" + b"\0\1" + bytes([0, is_known]) + bytes(4)
            answer = b"\xc0\x0c" + b"\0\1\0\1" + b"\0\0\0\x3c" + b"\0\4" + bytes([127, 0, 0, 1])
            self.socket.sendto(head + name + b"\0" + kind + b"\0\1" + answer * is_known, client)


@contextlib.contextmanager
def directory_that_hangs():
    """A server that the C library of scnpm-names.service, and of nobody else, asks for users first, waits for (twice 5 s), and
    gets no answer from. Gives the questions."""
    path = pathlib.Path("/run/t-nscd/socket")
    path.parent.mkdir(exist_ok=True)
    pathlib.Path("/run/nscd").mkdir(exist_ok=True)
    questions = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o666)
        server.listen(64)

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    questions.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        drop_in("scnpm-names.service", "[Service]\nBindPaths=/run/t-nscd:/run/nscd\n")
        run("systemctl", "stop", "scnpm-names.service", ok=False)
        try:
            yield questions
        finally:
            server.shutdown(socket.SHUT_RDWR)
            path.unlink()
            for question in questions:
                question.close()


def waits_for_an_answer(question):
    """Whether who asked it has not given up."""
    question.setblocking(False)
    try:
        while question.recv(4096):
            pass
    except BlockingIOError:
        return True
    return False


def is_let_through(cgroup, port=7001):
    eventually(lambda: gets_through(cgroup, port), lambda: f"{cgroup} is refused\n{ruleset()}")


def is_refused(cgroup, port=7001):
    eventually(lambda: not gets_through(cgroup, port), lambda: f"{cgroup} gets through\n{ruleset()}")


# The kernel


def loads():
    """How often the daemon's present run has loaded a policy."""
    return sum("elements in the kernel" in entry.get("MESSAGE", "") for entry in entries())


def ruleset():
    return run("nft", "list", "ruleset").stdout


def skeleton():
    """The ruleset without elements and counters: what must not change while units come and go."""
    return re.sub(r"\n\s*elements = \{[^}]*\}", "", run("nft", "--stateless", "list", "ruleset").stdout)


def elements():
    """The keys of all elements of cgroups in sets and maps of ours: paths, or ids if dead."""
    found = []
    for each in sets_of_cgroups():
        if each["name"].startswith("scnpm."):
            found += [key for key, _ in keys_and_values(each)]
    return sorted(found, key=str)


@contextlib.contextmanager
def cgroups(count):
    """So many cgroups in system.slice that no unit made; the names of the services whose they could be."""
    names = [f"t-many-{number}.service" for number in range(count)]
    made = [CGROUPS / "system.slice" / name for name in names]
    try:
        for each in made:
            each.mkdir()
        yield names
    finally:
        for each in made:
            with contextlib.suppress(FileNotFoundError):
                each.rmdir()


def resident_memory():
    """Of the daemon, in kB."""
    status = pathlib.Path(f"/proc/{daemon_pid()}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


def elements_of(name):
    """The elements of a set or map of the user's own, and what each leads to."""
    return dict(next(keys_and_values(each) for each in sets_of_cgroups() if each["name"] == name))


def sets_of_cgroups():
    listed = [entry.get("map") or entry.get("set") for entry in json.loads(run("nft", "-j", "list", "ruleset").stdout)["nftables"]]
    return [each for each in listed if each and each["type"] == "cgroupsv2"]


def keys_and_values(listed):
    found = []
    for element in listed.get("elem", []):
        key, value = element if isinstance(element, list) else (element, None)
        while isinstance(key, dict):
            key = key["elem"]["val"]
        found.append((key, value))
    return found


def elements_become(*expected):
    eventually(
        lambda: elements() == sorted(expected),
        lambda: f"elements: found {elements()}, expected {sorted(expected)}\n{log()}",
    )


def elements_of_become(name, expected):
    eventually(
        lambda: elements_of(name) == expected,
        lambda: f"elements of {name}: found {elements_of(name)}, expected {expected}\n{log()}",
    )


# System calls


@contextlib.contextmanager
def failing(calls, error, when="1+"):
    """Makes system calls of the daemon's loop fail; the file that strace tells of each in. Its system call filter allows getpid."""
    told = pathlib.Path("/run/strace")
    command = ["strace", "-o", str(told), "-p", str(daemon_pid()), "-e", f"inject={calls}:error={error}:when={when}:syscall=getpid"]
    with subprocess.Popen([*command, "-e", f"trace={calls}"], stderr=subprocess.PIPE, text=True) as strace:
        try:
            said = strace.stderr.readline()
            check("attached" in said, said)
            yield told
        finally:
            strace.terminate()


# The journal


def log(name="scnpm.service"):
    """What the present run of the daemon, or of another unit, has said."""
    return "\n".join(entry.get("MESSAGE", "") for entry in entries(name))


def entries(name="scnpm.service"):
    """The entries of the unit's present or last run.

    journald finds no invocation for what a program of ours has said that ended before journald looked at it."""
    invocation = show(name, "InvocationID")
    if not invocation:
        return []
    began = int(show(name, "InactiveExitTimestampMonotonic"))
    since = int(time.time() - time.monotonic() + began / 1e6)
    run("journalctl", "--sync", ok=False)
    matches = [f"_SYSTEMD_INVOCATION_ID={invocation}", "+", "SYSLOG_IDENTIFIER=scnpm"]
    found = [json.loads(line) for line in run("journalctl", "-o", "json", f"--since=@{since}", *matches).stdout.splitlines()]

    def is_of_the_run(entry):
        of = entry.get("_SYSTEMD_INVOCATION_ID")
        return of == invocation or of is None and int(entry["__MONOTONIC_TIMESTAMP"]) >= began

    return [entry for entry in found if is_of_the_run(entry)]


def says(*words, name="scnpm.service"):
    eventually(
        lambda: any(all(word in entry.get("MESSAGE", "") for word in words) for entry in entries(name)),
        lambda: f"nothing about {' and '.join(words)} in the log:\n{log(name)}",
    )


def findings(name="scnpm.service"):
    """The diagnostics in a unit's journal: the annotation's unit, as far as it is a field, and the code."""
    found = [(entry, re.match(r"/.*?:\d+:\d+: \w+\[(\w+)\]: ", entry.get("MESSAGE", ""))) for entry in entries(name)]
    return [(entry.get("UNIT"), match[1]) for entry, match in found if match]


def linted():
    """Waits until the daemon has said what it has to say of the policy."""

    def names():
        return [task.read_text().strip() for task in pathlib.Path(f"/proc/{daemon_pid()}/task").glob("*/comm")]

    eventually(lambda: "lint" not in names(), "the daemon still looks at the policy")


# scnpm check


def checked(*options, by=run):
    """What `scnpm check` says of the policy, as it says it to programs."""
    done = by(SCNPM, "check", "--json", *options, str(CONF), ok=False)
    check(done.returncode in (0, 1), lambda: f"exit status {done.returncode}: {done.stderr.strip()}\n{done.stdout}")
    report = json.loads(done.stdout)
    check(report["loaded"], lambda: report["not_loaded"])
    equal(done.returncode, 1 if report["errors"] else 0, "exit status")
    return report


def codes(report):
    return [finding["code"] for finding in report["findings"]]


# The runner


def run_tests(tests, chosen, clean_up=reset):
    """Runs the tests whose names contain one of the words chosen, or all. Returns how many passed and failed."""
    passed = failed = 0
    for test in tests:
        if chosen and not any(word in test.__name__ for word in chosen):
            continue
        began = time.monotonic()
        try:
            test()
        except Exception as error:  # whatever it is, the other tests still run
            failed += 1
            words = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
            print(f"FAIL {test.__name__}: {words}\n  The daemon's log:\n    " + log().replace("\n", "\n    "))
        else:
            passed += 1
            print(f"ok {test.__name__} ({time.monotonic() - began:.1f} s)")
        finally:
            clean_up()
    return passed, failed
