"""Tests of `# scnpm: count`, which inside.py runs among its own."""

import json

import machine as m

TESTS = []
UNIT = "t-counted.service"
CGROUP = f"system.slice/{UNIT}"
COUNTED = f"# scnpm: count\n{m.system_rule(UNIT)}"


def test(function):
    TESTS.append(function)
    return function


def start():
    m.service(UNIT, "ExecStart=/bin/sleep infinity", "TimeoutStopSec=5")
    m.reload_units()
    m.start(UNIT)


def let_through():
    m.eventually(lambda: m.gets_through(CGROUP), "not let through")


def unit(name=UNIT, by=m.run):
    """What status says of the unit; the exit status says whether all is in force, which is not asked here."""
    units = json.loads(by(m.SCNPM, "status", "--json", ok=False).stdout)["units"]
    return next(one for one in units if one["name"] == name)


def packets():
    return unit().get("packets")


@test
def counters_survive_restarts_and_reloads():
    start()
    m.start_with(COUNTED)
    m.equal(packets(), 0, "packets before any")
    let_through()
    first = packets()
    # A SYN at least. Attempts before the rule was there were refused, and are not counted.
    m.check(first >= 1, f"{first} packets")
    m.check(unit()["bytes"] >= 40 * first, f"{unit()}")
    m.equal(packets(), first, "packets when it was read once more")

    def counts_on(what):
        nonlocal first
        m.equal(packets(), first, f"packets after {what}")
        let_through()
        more = packets()
        m.check(more > first, f"{more} packets after {first} and {what}")
        first = more

    m.run("systemctl", "restart", UNIT)
    counts_on("a restart of the unit")
    m.run("systemctl", "restart", "scnpm.service")
    counts_on("a restart of the daemon")
    m.run("systemctl", "kill", "--signal=KILL", "scnpm.service")
    m.eventually(lambda: m.active("scnpm.service") and m.run(m.SCNPM, "status", ok=False).returncode == 0, "it does not come back")
    counts_on("a kill of the daemon")
    m.write_policy(m.rule("t-other.service", port=7002), COUNTED, f"# scnpm: count\n{m.system_rule(UNIT, port=7003)}")
    m.run(m.SCNPM, "reload")
    counts_on("a reload with more annotations")
    m.check("PACKETS" in m.run(m.SCNPM, "status", ok=False).stdout, "the screen does not show packets")
    m.write_policy(m.system_rule(UNIT))
    m.run(m.SCNPM, "reload")
    m.equal(packets(), None, "packets of what is not counted any more")
    m.check("scnpm.count" not in m.ruleset(), "the counter is left")


@test
def counters_begin_anew_with_the_ruleset_and_go_when_it_is_cleaned():
    start()
    m.start_with(COUNTED)
    let_through()
    m.load_base()
    let_through()
    m.check(packets() >= 1, "nothing is counted after a reset")
    m.stop("scnpm.service")
    m.check("scnpm.count" in m.ruleset(), "no counter")
    m.run(m.SCNPM, "--clean", str(m.CONF))
    m.check("scnpm." not in m.ruleset(), m.ruleset())


@test
def packets_of_the_systems_units_are_for_everybody():
    start()
    m.start_with(COUNTED)
    let_through()
    m.equal(unit(by=m.as_user), unit(), "what a user is told")
    m.check(unit()["packets"] >= 1, "nothing is counted")
