"""Tests of `# scnpm: record refusals`, `scnpm denied` and `scnpm allow`, which inside.py runs among its own."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

import machine as m

TESTS = []

BASE = """#!/usr/sbin/nft -f
flush ruleset
table inet filter {
    # scnpm: record refusals in inet filter refused
    chain refused { }
    chain output {
        type filter hook output priority filter; policy accept;
        ct state established,related accept
        th dport 7001-7009 jump refused
        tcp dport 7001-7009 reject with tcp reset
        udp dport 7001-7009 reject
        icmp type echo-request jump refused
        icmp type echo-request drop
        icmpv6 type echo-request jump refused
        icmpv6 type echo-request drop
    }
    chain input {
        type filter hook input priority filter; policy accept;
        ct state established,related accept
        th dport 7011-7019 jump refused
        tcp dport 7011-7019 reject with tcp reset
        udp dport 7011-7019 drop
    }
}
"""
# The same with a chain of its own for each direction.
APART = (
    BASE.replace("in inet filter refused", "in inet filter refused, record refusals in inet filter refused-in")
    .replace("chain refused { }", "chain refused { }\n    chain refused-in { }")
    .replace("th dport 7011-7019 jump refused", "th dport 7011-7019 jump refused-in")
)

ADDRESSES = {4: "127.0.0.1", 6: "::1"}
AGENT = pathlib.Path("/run/t-agent.py")


def test(function):
    TESTS.append(function)
    return function


# Runs in the cgroup of whoever is tested and does what it is told, a line at a time: `out FAMILY PROTOCOL PORT` sends something,
# `in FAMILY PROTOCOL` says whether anything has come to its own port.
AGENT_TEXT = '''
import select, socket, sys
path, port = sys.argv[1], int(sys.argv[2])
families = {"4": socket.AF_INET, "6": socket.AF_INET6}
own = {}
for name, family in families.items():
    for protocol, kind in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
        one = socket.socket(family, kind)
        if name == "6":
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(({"4": "127.0.0.1", "6": "::1"}[name], port))
        if protocol == "tcp":
            one.listen(64)
        own[name, protocol] = one

def out(name, protocol, port, address):
    try:
        if protocol == "tcp":
            socket.create_connection((address, port), 5).close()
        elif protocol == "udp":
            with socket.socket(families[name], socket.SOCK_DGRAM) as one:
                one.sendto(b"x", (address, port))
        else:
            number = socket.IPPROTO_ICMP if name == "4" else socket.IPPROTO_ICMPV6
            with socket.socket(families[name], socket.SOCK_DGRAM, number) as one:
                one.sendto(bytes([8 if name == "4" else 128]) + bytes(7), (address, 0))
                # Of IPv6 nothing says that it was dropped.
                return "passed" if select.select([one], [], [], 0.05)[0] else "refused"
        return "passed"
    except OSError as error:
        return "refused"

def taken(name, protocol):
    one = own[name, protocol]
    if not select.select([one], [], [], 0.02)[0]:
        return "refused"
    if protocol == "tcp":
        one.accept()[0].close()
    else:
        one.recv(10)
    return "passed"

server = socket.socket(socket.AF_UNIX)
server.bind(path)
import os
os.chmod(path, 0o666)
server.listen(1)
while True:
    stream = server.accept()[0].makefile("rw")
    for line in stream:
        words = line.split()
        if words[0] == "out":
            address = words[4] if len(words) > 4 else {"4": "127.0.0.1", "6": "::1"}[words[1]]
            print(out(words[1], words[2], int(words[3]), address), file=stream, flush=True)
        else:
            print(taken(words[1], words[2]), file=stream, flush=True)
'''


class Agent:
    """A process in a cgroup that does what it is told."""

    number = 0

    def __init__(self, start, port):
        Agent.number += 1
        self.port = port
        self.path = f"/run/t-agents/{Agent.number}"
        pathlib.Path("/run/t-agents").mkdir(mode=0o777, exist_ok=True)
        os.chmod("/run/t-agents", 0o777)
        AGENT.write_text(AGENT_TEXT)
        start(f"/usr/bin/python3 {AGENT} {self.path} {port}")
        self.connect()

    def connect(self):
        def connects():
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(self.path)
                return True
            except OSError:
                return False

        m.eventually(connects, "the agent does not start")
        self.stream = self.socket.makefile("rw")

    def ask(self, *words):
        print(*words, file=self.stream, flush=True)
        return self.stream.readline().strip()

    def out(self, family, protocol, port=7001, *address):
        return self.ask("out", family, protocol, port, *address)

    def comes_in(self, family, protocol):
        """Whether something that is sent from outside of it comes to it."""
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind) as client:
            client.settimeout(2)
            try:
                client.connect((ADDRESSES[family], self.port))
                client.send(b"x")
            except OSError:
                pass
            return self.ask("in", family, protocol)


def of_system(name):
    def start(command):
        m.service(name, f"ExecStart={command}", "TimeoutStopSec=5")
        m.reload_units()
        m.start(name)

    return start


def of_user(name, *options):
    def start(command):
        m.as_user("systemd-run", "--user", "--quiet", f"--unit={name}", *options, *command.split())

    return start


def scope_of_user(name):
    def start(command):
        environment = {"XDG_RUNTIME_DIR": f"/run/user/{m.UID}", "PATH": os.environ["PATH"]}
        ids = [f"--reuid={m.UID}", f"--regid={m.UID}", "--init-groups"]
        words = ["systemd-run", "--user", "--scope", "--quiet", f"--unit={name}"]
        subprocess.Popen(["setpriv", *ids, *words, *command.split()], env=environment)

    return start


def session(name):
    def start(command):
        # As logind has it made.
        words = ["systemd-run", "--scope", "--quiet", f"--slice=user-{m.UID}.slice", f"--unit={name}"]
        subprocess.Popen([*words, *command.split()])

    return start


def denied(*words, by=m.run):
    return json.loads(by(m.SCNPM, "denied", "--json", *words).stdout)["refusals"]


def listeners():
    """What answers on port 7001, as somebody else."""
    for family in (socket.AF_INET, socket.AF_INET6):
        server = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((ADDRESSES[4 if family == socket.AF_INET else 6], 7001))
        except OSError:
            # inside.py has one for IPv4.
            server.close()
            continue
        server.listen(64)

        def take(server=server):
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()


def allow_pings():
    pathlib.Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")


KINDS = [(family, protocol, "out") for family in (4, 6) for protocol in ("tcp", "udp", "icmp")]
KINDS += [(family, protocol, "in") for family in (4, 6) for protocol in ("tcp", "udp")]

# Who, how it is started, its own port, and what `denied` is to say of it.
WHO = [
    ("system unit", of_system("t-denied.service"), 7011, ("t-denied.service", None, None)),
    ("user unit", of_user("t-denied-user.service"), 7012, ("t-denied-user.service", m.UID, None)),
    ("application", scope_of_user("app-firefox-77.scope"), 7013, ("app-firefox-77.scope", m.UID, "firefox")),
    ("session", session("session-77.scope"), 7014, ("session-77.scope", m.UID, None)),
]


def tried(agent, kind):
    family, protocol, direction = kind
    return agent.out(family, protocol) if direction == "out" else agent.comes_in(family, protocol)


def is_of(refusal, kind, agent):
    family, protocol, direction = kind
    named = "icmpv6" if (family, protocol) == (6, "icmp") else protocol
    port = None if protocol == "icmp" else 7001 if direction == "out" else agent.port
    return (refusal["direction"], refusal["protocol"], refusal["address"], refusal.get("port")) == (
        direction, named, ADDRESSES[family], port,
    )  # fmt: skip


def matrix(base):
    allow_pings()
    listeners()
    m.start_with(base=base)
    agents = {who: Agent(start, port) for who, start, port, _ in WHO}
    cells = [(who, kind) for who, *_ in WHO for kind in KINDS]
    for who, kind in cells:
        m.equal(tried(agents[who], kind), "refused", f"{who} {kind}")
    lines = {}
    for who, _, _, (unit, uid, app) in WHO:
        own = [one for one in denied() if one.get("unit") == unit]
        for kind in KINDS:
            found = [one for one in own if is_of(one, kind, agents[who])]
            m.equal(len(found), 1, f"refusals of {who} {kind}")
            m.equal((found[0].get("uid"), found[0].get("app")), (uid, app), f"whose it is, {who} {kind}")
            lines[who, kind] = found[0]["annotation"]
        m.equal(len(own), len(KINDS), f"refusals of {who}")
    m.write_policy(*(line + "\n" for line in lines.values()), base=base)
    checked = m.run(m.SCNPM, "check", str(m.CONF), ok=False)
    m.equal(checked.returncode, 0, checked.stdout + checked.stderr)
    for cell, line in lines.items():
        m.write_policy(line + "\n", base=base)
        m.run(m.SCNPM, "reload")
        m.run(m.SCNPM, "wait", line[2:].split(" :: ")[0])
        passed = [other for other in cells if tried(agents[other[0]], other[1]) == "passed"]
        m.equal(passed, [cell], f"what `{line}` lets through")
    for who, *_ in WHO:
        row = " ".join(f"{direction}/v{family}/{protocol}" for family, protocol, direction in KINDS)
        print(f"    {who:12} recorded, and let through by its line alone: {row}")


@test
def each_kind_of_refusal_is_recorded_and_its_line_lets_exactly_it_through():
    matrix(BASE)


@test
def each_direction_may_have_a_chain_of_its_own():
    m.start_with(base=APART)
    listeners()
    agent = Agent(of_system("t-apart.service"), 7015)
    for kind in ((4, "tcp", "out"), (4, "tcp", "in")):
        m.equal(tried(agent, kind), "refused", f"{kind}")
    found = {one["direction"]: one["annotation"] for one in denied("t-apart.service")}
    m.check(" inet filter refused " in found["out"] and " inet filter refused-in " in found["in"], f"{found}")
    m.write_policy(*(line + "\n" for line in found.values()), base=APART)
    m.run(m.SCNPM, "reload")
    for kind in ((4, "tcp", "out"), (4, "tcp", "in")):
        m.eventually(lambda kind=kind: tried(agent, kind) == "passed", f"{kind} is not let through")


def once(name, port=7001):
    """A unit that tries once, and is gone."""
    m.run("systemd-run", "--quiet", "--wait", "--collect", f"--unit={name}", m.CONNECT, str(port), "/run/t-once", ok=False)


@test
def what_is_gone_is_still_named():
    m.start_with(base=BASE)
    once("t-once.service")
    m.check(not m.active("t-once.service"), "it still runs")
    m.equal([one["unit"] for one in denied("t-once.service")], ["t-once.service"], "whom denied names")
    m.equal(denied("t-other.service"), [], "refusals of another unit")


@test
def records_outlive_reloads_and_the_daemon():
    m.start_with(base=BASE)
    agent = Agent(of_system("t-lasting.service"), 7015)

    def packets():
        return sum(one["packets"] for one in denied("t-lasting.service"))

    for number in range(1, 4):
        m.equal(agent.out(4, "udp"), "refused", "a packet")
        m.equal(packets(), number, "packets")
    m.run(m.SCNPM, "reload")
    m.equal(packets(), 3, "packets after a reload")
    m.run("systemctl", "restart", "scnpm.service")
    agent.out(4, "udp")
    m.equal(packets(), 4, "packets after a restart of the daemon")
    m.write_policy(base=m.BASE)
    m.run(m.SCNPM, "reload")
    m.check("scnpm." not in m.ruleset(), f"what is left: {m.ruleset()}")
    refused = m.run(m.SCNPM, "denied", ok=False)
    m.equal(refused.returncode, 3, "exit status where nothing is recorded")
    m.check("record refusals in" in refused.stderr, refused.stderr)


@test
def users_see_their_own():
    m.start_with(base=BASE)
    own = Agent(of_user("t-own.service"), 7015)
    of_root = Agent(of_system("t-roots.service"), 7016)
    own.out(4, "udp")
    of_root.out(4, "udp")
    m.equal({one["unit"] for one in denied()}, {"t-own.service", "t-roots.service"}, "what root is told")
    m.equal([one["unit"] for one in denied(by=m.as_user)], ["t-own.service"], "what a user is told")

    def by_another(*words):
        return m.as_user(*words, uid=m.OTHER_UID)

    m.equal(denied(by=by_another), [], "what another user is told")


@test
def follow_tells_what_is_new():
    m.start_with(base=BASE)
    agent = Agent(of_system("t-followed.service"), 7015)
    agent.out(4, "udp", 7001)
    following = subprocess.Popen([m.SCNPM, "denied", "--follow", "--json"], stdout=subprocess.PIPE, text=True)
    try:
        first = json.loads(following.stdout.readline())["refusals"]
        m.equal([one["port"] for one in first], [7001], "what there was")
        agent.out(4, "udp", 7002)
        m.equal([one["port"] for one in json.loads(following.stdout.readline())["refusals"]], [7002], "what is new")
        agent.out(4, "udp", 7001)
        m.equal([one["packets"] for one in json.loads(following.stdout.readline())["refusals"]], [2], "what was counted on")
    finally:
        following.terminate()
        following.wait()


@test
def names_of_users_break_nothing():
    m.start_with(base=BASE)
    name = 'a"}; @\x1b[31m'
    below = m.CGROUPS / m.USER_SLICE / name
    as_user = ["setpriv", f"--reuid={m.UID}", f"--regid={m.UID}", "--init-groups"]
    probe = f"""
import os, pathlib, socket
below = pathlib.Path({str(below)!r})
below.mkdir()
(below / "cgroup.procs").write_text(str(os.getpid()))
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 7001))
except OSError:
    pass
"""
    # It has to be in the user's own cgroups already to move itself.
    m.as_user("systemd-run", "--user", "--scope", "--quiet", "python3", "-c", probe)
    found = denied()
    m.check(any(name in (one.get("cgroup") or "") for one in found), f"{found}")
    text = m.run(m.SCNPM, "denied").stdout
    m.check("\x1b" not in text and text.count("\n") == 1 + 2 * len(found), repr(text))
    below.rmdir()


@test
def names_of_many_units_hold_up_no_rules():
    m.start(f"user@{m.UID}.service")
    left = [m.CGROUPS / m.USER_SLICE / f"app-left{number}-1.scope" for number in range(5_000)]
    (m.CGROUPS / m.USER_SLICE).mkdir(exist_ok=True)
    for one in left:
        one.mkdir()
    try:
        line = f"# {m.UID}:app:t-mail :: add rule inet filter refused socket cgroupv2 unit tcp dport 7001 accept\n"
        m.start_with(line, base=BASE)
        for number in range(5):
            done = m.in_scope(f"app-t\\x2dmail-{number}.scope", f"sleep 0.3; {m.CONNECT} 7001 /dev/null", ok=False)
            m.equal(done.returncode, 0, f"exit status of try {number}")
    finally:
        for one in left:
            one.rmdir()


# What is allowed for a while


def allow(*words, by=m.run, ok=True):
    return by(m.SCNPM, "allow", *words, ok=ok)


@test
def what_is_allowed_follows_the_unit_and_ends_in_time_without_the_daemon():
    m.start_with(base=BASE)
    unit = "t-allowed.service"
    m.service(unit, "Type=oneshot", f"ExecStart={m.CONNECT} 7001 /run/t-allowed", "RemainAfterExit=yes")
    m.reload_units()

    def try_once():
        # The unit is restarted, and its first packet says.
        return m.run("systemctl", "restart", unit, ok=False).returncode == 0

    m.check(not try_once(), "it passes before")
    allow(unit, "127.0.0.1:7001", "--for", "12s")
    end = time.monotonic() + 12
    tries = 0
    while time.monotonic() < end - 1.5 and tries < 50:
        m.check(try_once(), f"refused at try {tries}, {end - time.monotonic():.1f} s before the end")
        tries += 1
        if tries == 10:
            m.run(m.SCNPM, "reload")
    m.check("allowed" in m.run(m.SCNPM, "status").stdout, "status does not say what is allowed")
    agent = Agent(of_system("t-agent.service"), 7015)
    allow("t-agent.service", "127.0.0.1", "--for", "3s")
    ends = time.monotonic() + 3
    m.equal(agent.out(4, "udp"), "passed", "a packet that is allowed")
    m.run("systemctl", "mask", "--runtime", "scnpm.service")
    m.run("systemctl", "kill", "--signal=KILL", "scnpm.service", ok=False)
    try:
        while time.monotonic() < ends - 0.5:
            m.equal(agent.out(4, "udp"), "passed", "a packet after the daemon was killed")
            time.sleep(0.05)
        time.sleep(max(0, ends + 1 - time.monotonic()))
        for _ in range(20):
            m.equal(agent.out(4, "udp"), "refused", "a packet after the time")
        time.sleep(max(0, end + 1 - time.monotonic()))
        m.check(not try_once(), "it passes after the time")
    finally:
        m.run("systemctl", "unmask", "--runtime", "scnpm.service")
    print(f"    {tries} restarts of the unit, none refused; refused within 1 s of the end without a daemon")


@test
def new_daemon_goes_on_with_the_time_that_is_left():
    m.start_with(base=BASE)
    agent = Agent(of_system("t-agent.service"), 7015)
    allow("t-agent.service", "127.0.0.1:7001", "--protocol", "udp", "--for", "5s")
    end = time.monotonic() + 5
    m.run("systemctl", "restart", "scnpm.service")
    m.equal(agent.out(4, "udp"), "passed", "a packet after a restart of the daemon")
    m.equal(agent.out(4, "tcp"), "refused", "another protocol")
    m.run("systemctl", "kill", "--signal=KILL", "scnpm.service")
    m.eventually(lambda: m.run(m.SCNPM, "status", ok=False).returncode == 0, "it does not come back")
    m.equal(agent.out(4, "udp"), "passed", "a packet after a kill of the daemon")
    m.load_base()
    m.eventually(lambda: agent.out(4, "udp") == "passed", "not let through after a reset")
    time.sleep(max(0, end + 1 - time.monotonic()))
    m.equal(agent.out(4, "udp"), "refused", "a packet after the time")
    m.eventually(lambda: ".until" not in m.ruleset(), "what is over is left in the kernel")
    m.check("allowed" not in m.run(m.SCNPM, "status").stdout, "status lists what is over")


@test
def what_is_allowed_can_be_ended():
    m.start_with(base=BASE)
    agent = Agent(of_system("t-agent.service"), 7015)
    said = allow("t-agent.service", "127.0.0.0/8").stdout
    allow("t-agent.service", "[::1]:7001")
    m.equal([agent.out(4, "udp"), agent.out(6, "udp")], ["passed", "passed"], "what is allowed")
    number = re.search(r"number (\d+)", said)[1]
    allow("--undo", number)
    m.equal([agent.out(4, "udp"), agent.out(6, "udp")], ["refused", "passed"], "after one is ended")
    allow("--undo")
    m.equal([agent.out(4, "udp"), agent.out(6, "udp")], ["refused", "refused"], "after all are ended")
    m.equal(allow("--undo", "99", ok=False).returncode, 1, "exit status of a number that there is not")


@test
def what_is_allowed_in_a_chain_that_is_gone_keeps_nothing_from_being_loaded():
    m.start_with(base=BASE)
    agent = Agent(of_system("t-agent.service"), 7015)
    allow("t-agent.service", "127.0.0.1", "--for", "1h")
    m.stop("scnpm.service")
    m.write_policy(m.system_rule("t-agent.service"))
    m.load_base()
    m.start("scnpm.service")
    pid = m.daemon_pid()
    m.equal(m.run(m.SCNPM, "status", ok=False).returncode, 0, "status without the chain")
    for _ in range(2):
        m.run(m.SCNPM, "reload")
    m.equal(m.daemon_pid(), pid, "the daemon")
    m.equal(agent.out(4, "udp", 7002), "passed", "a port that nothing refuses")
    m.write_policy(base=BASE)
    m.load_base()
    m.run(m.SCNPM, "reload")
    m.eventually(lambda: agent.out(4, "udp") == "passed", "it is not allowed once its chain is back")
    allow("--undo")


@test
def line_for_ever_is_the_one_that_is_right():
    m.start_with(base=BASE)
    agent = Agent(of_system("t-agent.service"), 7015)
    line = allow("--forever", "t-agent.service", "127.0.0.1:7001").stdout
    m.equal(agent.out(4, "udp"), "refused", "before it is written")
    before = m.CONF.read_text()
    m.equal(m.CONF.read_text(), before, "the file")
    m.write_policy(line, base=BASE)
    m.run(m.SCNPM, "reload")
    m.eventually(lambda: agent.out(4, "udp") == "passed", "the line does not let it through")


# A flood


SCAN = """
import socket, time
one = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
sent = 0
begin = time.monotonic()
for high in range(1, 200):
    for low in range(256):
        for port in (7001, 7002):
            try:
                one[port % 2].sendto(b"x", (f"127.1.{high}.{low}", port))
            except OSError:
                pass
            sent += 1
        # 100,000 in a minute.
        if sent % 64 == 0:
            time.sleep(max(0, begin + sent / 1700 - time.monotonic()))
    if sent >= NUMBER:
        break
"""


def memory(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s*(\d+)", status)[1])


def scan(number):
    """How many packets a second a user's scope sends to other places each; the daemon's memory and what was recorded."""
    m.start_with(base=BASE)
    other = Agent(of_system("t-other.service"), 7015)
    sibling = Agent(of_user("t-sibling.service"), 7016)
    pid = m.daemon_pid()
    before = memory(pid)
    command = SCAN.replace("NUMBER", str(number))
    scanner = threading.Thread(
        target=lambda: m.as_user("systemd-run", "--user", "--scope", "--quiet", "--unit=t-scan.scope", "python3", "-c", command)
    )
    scanner.start()
    tried = 0
    while scanner.is_alive():
        time.sleep(0.5)
        tried += 1
        address = f"127.2.{tried // 250}.{tried % 250 + 1}"
        other.out(4, "udp", 7003, address)
        sibling.out(4, "udp", 7003, address)
    scanner.join()
    found = denied()
    count = {unit: sum(1 for one in found if one.get("unit") == unit) for unit in ("t-other.service", "t-sibling.service", "t-scan.scope")}
    return tried, count, before, memory(pid)


@test
def flood_of_one_leaves_room_for_others():
    tried, count, before, after = scan(5_000)
    m.equal((count["t-other.service"], count["t-sibling.service"]), (tried, tried), "recorded of others")
    m.check(100 <= count["t-scan.scope"] < 2_000, f"{count} recorded of the flood")
    m.check(after - before < 16_384, f"{before} kB before, {after} kB after")


if __name__ == "__main__":
    print(scan(int(sys.argv[1])))
