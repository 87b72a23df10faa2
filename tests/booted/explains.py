"""Tests of `scnpm explain`, which inside.py runs among its own."""

import json
import time

import machine as m

TESTS = []
UNIT = "t-explained.service"
CGROUP = f"system.slice/{UNIT}"


def test(function):
    TESTS.append(function)
    return function


def explained(*words, code=0, by=m.run):
    """What it prints for people."""
    done = by(m.SCNPM, "explain", *words, ok=False)
    m.equal(done.returncode, code, f"exit status of explain {words} ({done.stdout}{done.stderr})")
    return done.stdout


def answer(*words, code=0, by=m.run):
    return json.loads(explained("--json", *words, code=code, by=by))


def has(text, *words):
    for word in words:
        m.check(word in text, lambda: f"no {word!r} in {text}")


def fails(*words, code, says):
    done = m.run(m.SCNPM, "explain", *words, ok=False)
    m.equal((done.returncode, done.stdout), (code, ""), f"exit status and output of {words} ({done.stderr.strip()})")
    has(done.stderr, *says)


def start(name, *settings):
    m.service(name, "ExecStart=/bin/sleep infinity", "TimeoutStopSec=5", *settings)
    m.reload_units()
    m.start(name)


def in_force(*annotations):
    """With the daemon, once the unit's element is in the kernel."""
    m.start_with(*annotations)
    m.eventually(lambda: f'"{CGROUP}"' in m.run("nft", "list", "ruleset").stdout, "no element")


@test
def explain_unit_says_what_is_in_force():
    start(UNIT)
    in_force(m.system_rule(UNIT), m.system_rule("t-other.service"), m.selected(f"{m.USER}:{UNIT}"))
    text = explained(UNIT)
    has(text, UNIT, CGROUP, "level 2", "matches: by level 2, its cgroup", "in the kernel: inet filter scnpm.allowed.1")
    has(text, f"it is for units of {m.USER}, and this one is the system's", "1 other annotation")
    m.check("note:" not in text, f"something to note: {text}")
    pid = m.show(UNIT, "MainPID")
    has(explained(pid), f"process {pid} (sleep)", CGROUP, "matches")
    m.equal(answer(pid)["taken_for"], "pid", "what it was taken for")


@test
def explain_packet_follows_the_rules_to_the_one_that_decides():
    start(UNIT)
    in_force(m.system_rule(UNIT))
    line = len(m.CONF.read_text().splitlines())
    said = m.log()
    text = explained(UNIT, "--to", "127.0.0.1:7001")
    has(text, "as the kernel traced it", f"it passes: accept by the annotation at {m.CONF}:{line}")
    text = explained(UNIT, "--to", "127.0.0.1:7002", code=1)
    has(text, "inet filter output hook output priority 0", "jump allowed", "it does not pass: reject by a rule of inet filter output")
    time.sleep(0.5)
    m.equal(m.log(), said, "what the daemon says of the probe")
    m.check("scnpm.trace" not in m.run("nft", "list", "tables").stdout, "the table is left")
    m.equal((m.CGROUPS / CGROUP / "cgroup.procs").read_text().split(), [m.show(UNIT, "MainPID")], "processes in the cgroup")


@test
def explain_offers_a_rule_that_works():
    start(UNIT)
    in_force(m.system_rule(UNIT))
    refused = answer(UNIT, "--to", "127.0.0.1:7002", code=1)["packet"]
    m.equal(len(refused["would_pass"]), 1, "offered lines")
    m.check(not m.gets_through(CGROUP, 7002), "it passes already")
    m.CONF.write_text(m.CONF.read_text() + refused["would_pass"][0] + "\n")
    has(explained(UNIT), f"{m.CONF} has changed since the daemon loaded it")
    m.run("systemctl", "restart", "scnpm.service")
    m.eventually(lambda: m.gets_through(CGROUP, 7002), "the offered line does not let it through")
    packet = answer(UNIT, "--to", "127.0.0.1:7002")["packet"]
    m.equal(packet["steps"][packet["decided_by"]]["annotations"][0]["line"], len(m.CONF.read_text().splitlines()), "its line")
    read = answer(UNIT, "--to", "127.0.0.1:7002", "--no-probe")["packet"]
    m.equal((read["found_by"], read["outcome"]), ("reading", "passes"), "the same by reading")
    m.equal(read["steps"][read["decided_by"]]["rule"], packet["steps"][packet["decided_by"]]["rule"], "the rule by reading")


@test
def explain_marks_sockets_of_socket_activation():
    m.service("t-web.service", "ExecStart=/bin/sleep infinity")
    m.unit("t-web.socket", "[Socket]\nListenStream=127.0.0.1:7011\n")
    m.reload_units()
    m.start("t-web.socket", "t-web.service")
    m.start_with(m.system_rule("t-web.service"))
    pid = int(m.show("t-web.service", "MainPID"))
    for what, kind in [("t-web.service", "unit"), (":7011", "port"), ("127.0.0.1:7011", "address"), (f"pid:{pid}", "pid")]:
        found = answer(what)
        m.equal(found["taken_for"], kind, "what it was taken for")
        blocks = [block for block in found["subjects"] if (block["cgroup"] or {}).get("unit") == "t-web.service"]
        m.equal(len(blocks), 1, f"blocks of the unit for {what}")
        [socket] = blocks[0]["sockets"]
        m.equal((socket["local"], socket["state"]), ("127.0.0.1:7011", "listening"), "the socket")
        m.check(pid in socket["pids"], f"not its process: {socket}")
        m.equal((socket["made_elsewhere"], socket["cgroup"]), (True, "init.scope"), "where it was made")
    has(explained(":7011"), "made in init.scope (a manager, by socket activation)", "no annotation matches that")


@test
def explain_tells_users_what_they_may_know():
    start(UNIT)
    in_force(m.system_rule(UNIT))
    text = explained(UNIT, by=m.as_user)
    has(text, CGROUP, "matches", "run it as root")
    text = explained(UNIT, "--to", "127.0.0.1:7001", code=3, by=m.as_user)
    has(text, CGROUP, "cannot be told without the ruleset: run it as root")


@test
def explain_reads_where_no_packet_can_be_sent():
    start(UNIT)
    in_force(m.system_rule(UNIT))
    m.run("systemctl", "freeze", UNIT)
    try:
        text = explained(UNIT, "--to", "127.0.0.1:7001")
        has(text, "as the rules read", "its cgroup is frozen", "it passes: accept by the annotation")
    finally:
        m.run("systemctl", "thaw", UNIT)


@test
def explain_says_what_to_do_next():
    m.stop("scnpm.service")
    start(UNIT)
    m.write_policy(m.system_rule(UNIT), m.system_rule("t-absent.service"))
    has(explained(UNIT), "the daemon does not run", "not in the kernel")
    has(explained("t-absent.service"), "it does not run", "does not exist")
    fails("t-nosuch.service", code=1, says=["scnpm units"])
    fails("pid:4000000", code=1, says=["there is no process"])
    fails(":1", code=1, says=["ss -tulnp"])
    fails("", code=2, says=["name a process's id"])
    for to, words in [("mail", "mail:443"), (":25", "HOST:25"), ("mail:smtp", "65535"), ("::1", "[::1]:443")]:
        fails(UNIT, "--to", to, code=2, says=[words])
    fails(UNIT, "--to", "127.0.0.1:25", "--proto", "tpc", code=2, says=["--proto tcp"])
    fails(UNIT, "--to", "t-nosuch.invalid:25", code=1, says=["cannot be looked up"])
