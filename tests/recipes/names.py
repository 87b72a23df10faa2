"""Egress by domain name: docs/names.md, with the real dnsmasq and the real systemd-resolved."""

import json
import os
import pathlib
import re
import socket
import struct
import threading
import time

import recipe
from recipe import m

PAGE = "names.md"
TESTS = []
RESOLV = pathlib.Path("/etc/resolv.conf")
UPSTREAM = "127.0.0.153"
TRIES = 200


def test(function):
    TESTS.append(function)
    return function


class Zone:
    """An authoritative server for every name there is: each gets an IPv4 address of its own, of this machine, and those that
    begin with `six` an IPv6 address besides. `www` is an alias of a foreign name, `ip-192-0-2-1` has the address that it says."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((UPSTREAM, 53))
        self.ttl = 300
        self.asked = []
        self.addresses = {}
        threading.Thread(target=self._serve, daemon=True).start()

    def address(self, name):
        number = self.addresses.setdefault(name.lower(), len(self.addresses) + 1)
        return f"127.9.{number // 250}.{number % 250 + 1}"

    def _serve(self):
        while True:
            question, client = self.socket.recvfrom(2048)
            at, labels = 12, []
            while question[at]:
                labels.append(question[at + 1 : at + 1 + question[at]].decode("latin1"))
                at += question[at] + 1
            (kind,) = struct.unpack(">H", question[at + 1 : at + 3])
            name = ".".join(labels)
            self.asked.append((name, kind))
            records, owner = [], b"\xc0\x0c"
            if labels[0] == "www":
                target = "edge.cdn.invalid-cdn.net"
                records.append(self._record(owner, 5, self._name(target)))
                owner, name = self._name(target), target
            if kind == 1:
                address = name.split(".")[0][3:].replace("-", ".") if name.startswith("ip-") else self.address(name)
                records.append(self._record(owner, 1, socket.inet_aton(address)))
            if kind == 28 and labels[0].lower().startswith("six"):
                records.append(self._record(owner, 28, socket.inet_pton(socket.AF_INET6, "2001:db8::6")))
            head = question[:2] + b"\x85\x80" + struct.pack(">HHHH", 1, len(records), 0, 0)
            self.socket.sendto(head + question[12 : at + 5] + b"".join(records), client)

    def _record(self, owner, kind, data):
        return owner + struct.pack(">HHIH", kind, 1, self.ttl, len(data)) + data

    @staticmethod
    def _name(name):
        return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


ZONE = Zone()

BASE = """#!/usr/sbin/nft -f
flush ruleset
table inet filter {
%s
    chain allowed { }
    chain output {
        type filter hook output priority filter; policy accept;
        ct state established,related accept
        tcp dport 443 jump allowed
        tcp dport 443 reject with tcp reset
    }
}
"""

CLIENT = """
import socket, sys, time
names = sys.argv[2].split(",")
again = float(sys.argv[1])
first = second = 0
for name in names:
    address = socket.getaddrinfo(name, 443, socket.AF_INET, socket.SOCK_STREAM)[0][4]
    for each in range(2):
        with socket.socket() as one:
            one.settimeout(2)
            if one.connect_ex(address) == 0:
                first += each == 0
                second += 1
                break
        if each == 0:
            time.sleep(again)
print(first, second)
"""


def page(what, section="With dnsmasq"):
    return next(block for block in recipe.blocks(PAGE, section) if what in block).replace("alice", m.USER)


def of_resolved(what):
    return page(what, "With systemd-resolved")


def base(more="", section="With dnsmasq"):
    return BASE % (page("set shop4", section) + more)


def connects(names, again=0.05, app="shop"):
    """How many of the names the application gets through to: at once, and with a second try so many seconds later."""
    script = pathlib.Path("/run/t-names.py")
    script.write_text(CLIENT)
    script.chmod(0o644)
    done = m.in_scope(f"app-{app}-1.scope", f"exec python3 {script} {again} {','.join(names)}")
    first, second = done.stdout.split()
    return int(first), int(second)


def new_names(what, count=TRIES):
    return [f"{what}{number}.example.org" for number in range(count)]


def members(name):
    listed = json.loads(m.run("nft", "-j", "list", "set", "inet", "filter", name).stdout)["nftables"]
    found = next(entry["set"] for entry in listed if "set" in entry).get("elem", [])
    return dict((one["elem"]["val"], one["elem"].get("expires")) if isinstance(one, dict) else (one, None) for one in found)


def look_up(name, family=socket.AF_INET):
    """Through the C library of a new process, which reads /etc/resolv.conf anew."""
    words = f"import socket; print(*{{one[4][0] for one in socket.getaddrinfo('{name}', 443, {int(family)})}})"
    return m.run("python3", "-c", words).stdout.split()


def start_dnsmasq(configuration):
    """As Debian's dnsmasq.service does, as far as the recipe is concerned."""
    m.stop("systemd-resolved.service")
    RESOLV.unlink(missing_ok=True)
    RESOLV.write_text("nameserver 127.0.0.1\n")
    directory = pathlib.Path("/etc/dnsmasq.d")
    directory.mkdir(exist_ok=True)
    (directory / "names.conf").write_text(configuration)
    own = pathlib.Path("/run/t-dnsmasq.conf")
    own.write_text(f"no-resolv\nno-hosts\nserver={UPSTREAM}\nlisten-address=127.0.0.1\nbind-interfaces\nconf-dir=/etc/dnsmasq.d\n")
    m.service("dnsmasq.service", f"ExecStart=/usr/sbin/dnsmasq -k -x '' -C {own} -u nobody", "ExecReload=/bin/kill -HUP $MAINPID")
    m.reload_units()
    m.run("systemctl", "restart", "dnsmasq.service")
    m.eventually(lambda: m.run("getent", "ahostsv4", "ready.invalid-cdn.net", ok=False).returncode == 0, "dnsmasq does not answer")


def load_policy_with_names():
    m.start_with(page("@shop4 tcp dport 443 accept"), base=base())


@test
def dnsmasq_fills_before_it_answers():
    load_policy_with_names()
    start_dnsmasq(page("nftset=/example.org/"))
    first, second = connects(new_names("d"))
    m.equal((first, second), (TRIES, TRIES), "connections right after the look-up")
    recipe.figure("first connections right after the look-up: dnsmasq", f"{first} of {TRIES}", f"second try {second} of {TRIES}")
    m.equal(connects(["example.org"]), (1, 1), "the name itself")
    m.equal(connects(["other.net", "notexample.org"]), (0, 0), "names that are not allowed")
    m.equal(connects(["d1.example.org"], app="other"), (0, 0), "another application")


@test
def plain_rules_know_no_address():
    m.start_with(page("@shop4 tcp dport 443 accept"), base=base())
    start_dnsmasq("")
    first, second = connects(new_names("p", 50))
    m.equal((first, second), (0, 0), "connections with sets that nobody fills")
    recipe.figure("first connections right after the look-up: a rule that knows no address", f"{first} of 50", f"second try {second} of 50")


@test
def dnsmasq_without_a_cache_fills_after_a_flush_and_with_one_after_a_reload():
    load_policy_with_names()
    start_dnsmasq(page("nftset=/example.org/"))
    m.equal(connects(["flush.example.org"]), (1, 1), "before the flush")
    m.load_base()
    m.equal(members("shop4"), {}, "the set after a flush")
    m.says("elements in the kernel")
    m.eventually(lambda: connects(["flush.example.org"]) == (1, 1), "no connection after the flush")
    # With a cache the answer that is in it fills nothing.
    start_dnsmasq(page("nftset=/example.org/").replace("cache-size=0", ""))
    look_up("cached.example.org")
    m.check(ZONE.address("cached.example.org") in members("shop4"), "not filled")
    m.load_base()
    look_up("cached.example.org")
    m.equal(members("shop4"), {}, "the set after a flush and an answer of the cache")
    m.unit("nftables.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/sbin/nft -f /etc/nftables.conf\nExecReload=/usr/sbin/nft -f /etc/nftables.conf\n")
    m.drop_in("nftables.service", page("try-reload-or-restart"), "tests-names.conf")
    m.run("systemctl", "restart", "nftables.service")
    m.run("systemctl", "reload", "nftables.service")

    def is_filled():
        look_up("cached.example.org")
        return ZONE.address("cached.example.org") in members("shop4")

    m.eventually(is_filled, "the reload of nftables.service does not clear dnsmasq's cache")
    m.load_base()
    m.run("sh", "-c", page("# systemctl reload dnsmasq.service").removeprefix("# "))
    m.eventually(is_filled, "the page's command does not clear dnsmasq's cache")


@test
def a_second_answer_of_dnsmasq_renews_nothing():
    load_policy_with_names()
    start_dnsmasq(page("nftset=/example.org/").replace("shop4,", "shop4,4#inet#filter#brief,"))
    m.run("nft", "add set inet filter brief { type ipv4_addr; flags timeout; timeout 3s; }")
    look_up("again.example.org")
    time.sleep(1.5)
    look_up("again.example.org")
    left = members("brief").get(ZONE.address("again.example.org"))
    asked = [name for name, _ in ZONE.asked if name == "again.example.org"]
    m.check(len(asked) >= 2, f"asked {len(asked)} times")
    m.eventually(lambda: not members("brief"), "it stays for longer than the set says", 4)
    look_up("again.example.org")
    m.check(ZONE.address("again.example.org") in members("brief"), f"not put in again (had {left} s left)")
    status = pathlib.Path(f"/proc/{m.show('dnsmasq.service', 'MainPID')}/status").read_text()
    m.check(int(re.search(r"CapEff:\s+(\w+)", status)[1], 16) & 1 << 12, "dnsmasq has no CAP_NET_ADMIN")


# systemd-resolved


def start_resolved():
    """The machine asks systemd-resolved, and that the zone's server."""
    m.run("systemctl", "stop", "dnsmasq.service", ok=False)
    configuration = pathlib.Path("/etc/systemd/resolved.conf.d/tests.conf")
    configuration.parent.mkdir(exist_ok=True)
    configuration.write_text(f"[Resolve]\nDNS={UPSTREAM}\nDomains=~.\nDNSSEC=no\nCacheFromLocalhost=yes\nLLMNR=no\nMulticastDNS=no\n")
    RESOLV.unlink(missing_ok=True)
    RESOLV.symlink_to("/run/systemd/resolve/stub-resolv.conf")
    m.run("systemctl", "reset-failed", "systemd-resolved.service", ok=False)
    m.run("systemctl", "restart", "systemd-resolved.service")
    m.run("resolvectl", "flush-caches")


def filling(line, more="", refuse="reject with tcp reset"):
    """A machine that fills the sets as this line of the page says, with the daemon at work."""
    start_resolved()
    loaded = base(more, "With systemd-resolved").replace("reject with tcp reset", refuse)
    m.start_with(line.rstrip("\n") + "\n", rules(), base=loaded)
    m.eventually(lambda: source()["state"] == "working", lambda: f"{source()}\n{m.log()}")


def source():
    done = m.run(m.SCNPM, "status", "--json", ok=False)
    status = json.loads(done.stdout) if done.returncode == 0 else {"sources": []}
    return next((one for one in status["sources"] if one["name"] == "answers"), {"state": "none"})


def lines(what):
    return "".join(line + "\n" for line in of_resolved("# scnpm: fill").splitlines() if what in line)


def directive():
    return lines("# scnpm: fill")


def rules():
    return lines(" :: ")


def holds(address, name="shop4"):
    m.eventually(lambda: address in members(name), lambda: f"{name} has {members(name)}, not {address}\n{m.log()[-2000:]}")


@test
def resolved_fills_what_the_page_says():
    filling(directive())
    first, second = connects(new_names("r"))
    m.check(second >= 0.95 * TRIES, f"{second} of {TRIES} with a second try")
    recipe.figure("first connections right after the look-up: systemd-resolved and scnpm", f"{first} of {TRIES}", f"second try {second} of {TRIES}")
    m.equal(connects(["other.net", "notexample.org"]), (0, 0), "names that are not allowed")
    # Both families, letters of either case, an alias, and the comment.
    m.run("getent", "ahosts", "SIX.Example.ORG")
    holds("2001:db8::6", "shop6")
    holds(ZONE.address("six.example.org"))
    m.run("getent", "ahosts", "www.example.org")
    holds(ZONE.address("edge.cdn.invalid-cdn.net"))
    m.check('comment "scnpm six.example.org"' in m.ruleset(), m.ruleset)
    m.check("addresses of names" in m.run(m.SCNPM, "status").stdout, "scnpm status does not show it")
    left = members("shop4")[ZONE.address("six.example.org")]
    m.check(ZONE.ttl < left <= ZONE.ttl + 60, f"{left} s left")


@test
def a_dropped_first_packet_comes_again():
    filling(directive(), refuse="drop")
    first, _ = connects(new_names("q", 15))
    m.equal(first, 15, "connections without a second try of the application")
    recipe.figure("the same where packets are dropped and not rejected", f"{first} of 15", "TCP tries again after a second")


@test
def what_time_is_left_survives_a_flush_and_a_kill():
    filling(directive())
    look_up("flush.example.org")
    address = ZONE.address("flush.example.org")
    holds(address)
    m.load_base()
    holds(address)
    m.run("nft", "flush", "set", "inet", "filter", "shop4")
    holds(address)
    m.run("nft", "add", "element", "inet", "filter", "shop4", "{ 192.0.2.77 }")
    m.run("systemctl", "kill", "--signal=KILL", "scnpm.service")
    m.check(address in members("shop4"), "gone with the daemon")
    m.eventually(lambda: m.active("scnpm.service") and source()["state"] == "working", "the daemon is not back")
    m.load_base()
    holds(address)
    # Of another policy: what is not wanted goes, what is the user's stays.
    m.run("nft", "add", "element", "inet", "filter", "shop4", "{ 192.0.2.77 }")
    m.write_policy(directive().replace("example.org", "example.net"), rules(), base=base(section="With systemd-resolved"))
    m.run("systemctl", "reload", "scnpm.service")
    m.eventually(lambda: list(members("shop4")) == ["192.0.2.77"], lambda: f"{members('shop4')}")
    look_up("new.example.net")
    holds(ZONE.address("new.example.net"))
    m.write_policy(rules(), base=base(section="With systemd-resolved"))
    m.run("systemctl", "reload", "scnpm.service")
    m.eventually(lambda: list(members("shop4")) == ["192.0.2.77"], lambda: f"{members('shop4')}")
    m.equal(source(), {"state": "none"}, "the source without a directive")


@test
def resolved_may_come_later_and_end():
    m.run("systemctl", "stop", "dnsmasq.service", "systemd-resolved.service", ok=False)
    m.start_with(directive(), rules(), base=base(section="With systemd-resolved"))
    m.eventually(lambda: source()["state"] == "lost", lambda: f"{source()}")
    m.says("names fill no set for now")
    start_resolved()
    m.eventually(lambda: source()["state"] == "working", lambda: f"{source()}")
    look_up("later.example.org")
    holds(ZONE.address("later.example.org"))
    # What was answered before the daemon was there, as far as resolved tells it.
    if int(m.run("systemctl", "--version").stdout.split()[1]) >= 254:
        m.stop("scnpm.service")
        m.run("nft", "flush", "set", "inet", "filter", "shop4")
        m.start("scnpm.service")
        holds(ZONE.address("later.example.org"))


@test
def hostile_answers_are_bounded():
    filling(directive().rstrip("\n") + ", global only\n")
    for address in ["ip-192-168-0-1", "ip-127-0-0-2", "ip-169-254-0-1", "ip-224-0-0-1", "ip-9-9-9-9"]:
        look_up(f"{address}.example.org")
    holds("9.9.9.9")
    m.equal(list(members("shop4")), ["9.9.9.9"], "with `global only`")
    filling(directive())
    before = m.resident_memory()
    # Thousands of names, each with an address of its own.
    words = "import socket\nfor n in range(1500): socket.getaddrinfo(f'h{n}.example.org', 443, socket.AF_INET)"
    m.run("python3", "-c", words)
    m.says("names have too many addresses")
    m.equal(len(members("shop4")), 1000, "addresses in the set")
    m.check("not taken: too many" in source()["words"], source())
    m.check(m.resident_memory() < before + 20_000, f"{before} kB before, {m.resident_memory()} kB after")
    # The policy is as quick as ever.
    m.write_policy_again()
    m.run("systemctl", "reload", "scnpm.service")


@test
def a_set_that_cannot_be_filled_holds_up_nothing():
    filling("# scnpm: fill inet filter shop4, inet filter plain, inet filter none with *.example.org\n", "set plain { type ipv4_addr; }\n")
    m.says("inet filter plain is not a set of addresses")
    look_up("fine.example.org")
    holds(ZONE.address("fine.example.org"))
    report = m.checked()
    m.equal([code for code in m.codes(report) if code == "W038"], ["W038", "W038"], "what scnpm check says")


def listen():
    server = socket.create_server(("0.0.0.0", 443), backlog=512)
    while True:
        server.accept()[0].close()


def clean_up():
    m.run("systemctl", "stop", "dnsmasq.service", "nftables.service", ok=False)
    for path in ["dnsmasq.service", "nftables.service"]:
        (m.UNITS / path).unlink(missing_ok=True)
    m.reset()


threading.Thread(target=listen, daemon=True).start()
# resolved says that there is no network while loopback is all that there is.
for command in ["link add uplink type vxlan id 1 local 127.0.0.1 dstport 4789", "addr add 192.0.2.2/24 dev uplink", "link set uplink up"]:
    m.run("ip", *command.split())
m.run("ip", "-6", "addr", "add", "2001:db8::6/128", "dev", "lo")
recipe.main(TESTS, clean_up)
