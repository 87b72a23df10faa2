"""Tests of the metrics, which inside.py runs among its own: `scnpm status --format`, and the timer for node_exporter."""

import contextlib
import pathlib
import re

import machine as m

TESTS = []
UNIT = "t-counted.service"
CGROUP = f"system.slice/{UNIT}"
OWN = "t-own.service"
HOSTILE = r'app:a"}9\n\\{unit="x'
TEXTFILES = pathlib.Path("/var/lib/prometheus/node-exporter")
FILE = TEXTFILES / "scnpm.prom"
NOT_IN_FORCE, NOT_ASKED = 1, 3

LABEL = r'(\w+)="((?:[^"\\]|\\["\\n])*)"'
SAMPLE = re.compile(rf"(\w+)(?:\{{({LABEL}(?:,{LABEL})*)\}})? ([0-9.]+)")


def test(function):
    TESTS.append(function)
    return function


def counted(selector, **rest):
    return f"# scnpm: count\n{m.selected(selector, **rest)}"


def start():
    m.service(UNIT, "ExecStart=/bin/sleep infinity")
    m.service(OWN, "ExecStart=/bin/sleep infinity", where=m.USER_UNITS)
    m.reload_units()
    m.start(UNIT)
    m.as_user("systemctl", "--user", "start", OWN)
    own = f"{m.USER}:{OWN}"
    m.start_with(counted(f"system:{UNIT}"), counted(own, port=7002), counted(f"{m.USER}:{HOSTILE}", port=7003))


def let_through():
    m.eventually(lambda: m.gets_through(CGROUP), "the system's unit is not let through")
    m.eventually(lambda: m.gets_through(f"{m.USER_SLICE}/{OWN}", 7002), "the user's unit is not let through")


def unescaped(value):
    return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), value)


def read(text, dialect):
    """Samples by name and what they are about. Checks what the format asks for."""
    lines = text.split("\n")
    m.equal(lines.pop(), "", "what follows the last line")
    if dialect == "openmetrics":
        m.equal(lines.pop(), "# EOF", "the last line")
    found, types = {}, {}
    for line in lines:
        m.check(line.isprintable(), f"{line!r} has something that acts")
        words = line.split(" ", 3)
        if words[0] == "#":
            m.check(words[1] in ("TYPE", "HELP", "UNIT"), f"{line!r} is no comment of the format")
            m.check((words[1], words[2]) not in types, f"{line!r} is there twice")
            types[words[1], words[2]] = words[3]
            continue
        sample = SAMPLE.fullmatch(line)
        m.check(sample, f"{line!r} is no sample")
        labels = {name: unescaped(value) for name, value in re.findall(LABEL, sample[2] or "")}
        family = sample[1]
        if dialect == "openmetrics":
            kind = next((kind for kind in ("total", "info") if family.endswith(f"_{kind}")), None)
            family = family.removesuffix(f"_{kind}")
            m.equal(types.get(("TYPE", family)), {"total": "counter", "info": "info", None: "gauge"}[kind], f"type of {line!r}")
        m.check(("TYPE", family) in types and ("HELP", family) in types, f"{line!r} has no type or help in front")
        key = sample[1], labels.get("unit") or labels.get("source")
        m.check(key not in found, f"{line!r} is there twice")
        found[key] = float(sample.groups()[-1])
    return found


def scrape(by=m.run, dialect="openmetrics", exit_status=0, **options):
    done = by(m.SCNPM, "status", "--format", dialect, ok=False, **options)
    m.equal(done.returncode, exit_status, f"exit status ({done.stderr.strip()})")
    m.equal(bool(done.stderr), exit_status != 0, f"whether something is said ({done.stderr!r})")
    return read(done.stdout, dialect)


@test
def metrics_are_told_to_whom_they_concern():
    start()
    let_through()
    own, hostile = f"{m.USER}:{OWN}", f"{m.USER}:{HOSTILE}"
    units = {f"system:{UNIT}", own, hostile}
    for dialect in ["openmetrics", "prometheus"]:
        of_root = scrape(dialect=dialect)
        m.equal({about for name, about in of_root if name == "scnpm_unit_packets_total"}, units, "the units that root sees")
        for unit in (f"system:{UNIT}", own):
            m.check(of_root["scnpm_unit_packets_total", unit] >= 1, f"{of_root}")
            m.check(of_root["scnpm_unit_bytes_total", unit] >= 40, f"{of_root}")
        m.equal(of_root["scnpm_unit_packets_total", hostile], 0, "packets of what does not run")
        m.equal((of_root["scnpm_up", None], of_root["scnpm_policy_in_force", None]), (1, 1), "up and in force")
        m.equal(scrape(by=m.as_user, dialect=dialect).keys(), of_root.keys(), "what the user is told of")
        of_other = scrape(by=m.as_user, uid=m.OTHER_UID, dialect=dialect)
        m.equal({about for name, about in of_other if name.startswith("scnpm_unit")}, {f"system:{UNIT}"}, "what others see")


@test
def counters_grow_and_go_on_after_a_restart():
    start()

    def packets(unit):
        return scrape()["scnpm_unit_packets_total", unit]

    for unit in (f"system:{UNIT}", f"{m.USER}:{OWN}"):
        let_through()
        first = packets(unit)
        let_through()
        second = packets(unit)
        m.check(second > first >= 1, f"{unit}: {first} packets, then {second}")
        m.run("systemctl", "restart", "scnpm.service")
        m.equal(packets(unit), second, "packets after a restart of the daemon")
        let_through()
        m.check(packets(unit) > second, "packets after a restart do not grow")
    # With the ruleset the counters go, too.
    m.load_base()
    m.eventually(lambda: packets(f"system:{UNIT}") == 0, "counters do not begin anew")


@test
def scrape_does_not_fail_when_something_is_not_in_force():
    start()
    m.write_policy(counted(f"system:{UNIT}"), m.rule(UNIT, matches="tcp dprot 7001"))
    m.run(m.SCNPM, "reload", ok=False)
    found = scrape()
    m.equal((found["scnpm_up", None], found["scnpm_policy_in_force", None], found["scnpm_load_failed", None]), (1, 0, 1), "figures")
    m.equal(m.run(m.SCNPM, "status", ok=False).returncode, NOT_IN_FORCE, "exit status for people")
    m.stop("scnpm.service")
    m.equal(scrape(exit_status=NOT_ASKED), {("scnpm_up", None): 0}, "what there is without the daemon")


@contextlib.contextmanager
def collector():
    """The directory as Debian's prometheus-node-exporter makes it."""
    TEXTFILES.mkdir(parents=True)
    try:
        yield
    finally:
        m.run("systemctl", "stop", "scnpm-textfile.timer")
        for path in TEXTFILES.iterdir():
            path.unlink()
        TEXTFILES.rmdir()


@test
def textfile_has_what_root_sees():
    start()
    let_through()
    service = "scnpm-textfile.service"
    m.start(service)
    m.equal(m.show(service, "ConditionResult"), "no", "whether it runs where nobody collects")
    with collector():
        m.start(service)
        of_root = scrape(dialect="prometheus")
        # Sources may hear something at any time.
        m.equal(read(FILE.read_text(), "prometheus").keys(), of_root.keys(), "what is in the file")
        m.equal(FILE.stat().st_mode & 0o777, 0o644, "mode of the file")
        old = FILE.open()
        m.stop("scnpm.service")
        m.start(service)
        m.equal(read(FILE.read_text(), "prometheus"), {("scnpm_up", None): 0}, "what is in it without the daemon")
        m.equal(read(old.read(), "prometheus").keys(), of_root.keys(), "what somebody reads who began before")
        m.equal([path.name for path in TEXTFILES.iterdir()], [FILE.name], "files")
        FILE.unlink()
        # Once a second, for once.
        m.drop_in("scnpm-textfile.timer", "[Timer]\nOnCalendar=*:*:*\nAccuracySec=1ms\n")
        m.start("scnpm-textfile.timer")
        m.eventually(FILE.exists, "the timer does not elapse")


@test
def textfile_units_are_valid_tight_and_off():
    units = ["scnpm-textfile.service", "scnpm-textfile.timer"]
    verified = m.run("systemd-analyze", "verify", "--man=no", *units, ok=False)
    m.equal((verified.returncode, verified.stderr), (0, ""), "systemd-analyze verify")
    exposure = m.run("systemd-analyze", "security", "--no-pager", "--threshold=20", units[0], ok=False)
    m.equal(exposure.returncode, 0, f"systemd-analyze security: {exposure.stdout}")
    m.equal(m.run("systemctl", "is-enabled", units[1], ok=False).stdout.strip(), "disabled", "the timer")
