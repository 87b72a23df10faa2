"""Tests of the metrics, which inside.py runs among its own: `scnpm status --format`, the timer for node_exporter, and the socket
for systemd-report."""

import contextlib
import json
import pathlib
import re
import shutil

import control
import machine as m
import page as pages

TESTS = []
UNIT = "t-counted.service"
CGROUP = f"system.slice/{UNIT}"
OWN = "t-own.service"
HOSTILE = r'app:a"}9\n\\{unit="x'
TEXTFILES = pathlib.Path("/var/lib/prometheus/node-exporter")
FILE = TEXTFILES / "scnpm.prom"
REPORT = pathlib.Path("/run/systemd/report/io.scnpm")
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
def textfile_goes_where_it_is_asked_to():
    """With the drop-in that docs/metrics.md has, where nothing of node_exporter's is."""
    text = pathlib.Path("/opt/tests/metrics.md").read_text()
    [documented] = [block.text for block in pages.blocks("metrics.md", text) if block.language == "ini"]
    start()
    m.drop_in("scnpm-textfile.service", documented)
    other = pathlib.Path("/srv/textfiles")
    other.mkdir()
    try:
        m.start("scnpm-textfile.service")
        m.equal([path.name for path in other.iterdir()], [FILE.name], "files")
        m.check(("scnpm_unit_packets_total", f"{m.USER}:{OWN}") in read((other / FILE.name).read_text(), "prometheus"), "its content")
    finally:
        shutil.rmtree(other)


CLIENT = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    client.sendall(json.dumps({"method": sys.argv[2], "more": True}).encode() + bytes(1))
    replies = client.makefile("rb")
    more = True
    while more:
        message = b""
        while not message.endswith(bytes(1)):
            message += replies.read(1) or sys.exit("it ends")
        reply = json.loads(message[:-1])
        more = reply.get("continues", False)
        print(json.dumps(reply))
"""


def told(method="List", by=m.run, **options):
    """What the socket answers to a user's call, by the metrics' names and what they are about."""
    done = by("python3", "-c", CLIENT, str(REPORT), f"io.systemd.Metrics.{method}", **options)
    metrics = [json.loads(line)["parameters"] for line in done.stdout.splitlines()]
    return {(one["name"], one.get("object")): one for one in metrics}


def units_of(metrics):
    return {about for name, about in metrics if name == "io.scnpm.UnitPackets"}


@contextlib.contextmanager
def reporting():
    m.check(not REPORT.exists(), "the socket is there though nobody asked for it")
    m.start("scnpm-report.socket")
    try:
        yield
    finally:
        m.stop("scnpm-report.socket")
    m.check(not REPORT.exists(), "the socket is left")


@test
def systemd_is_told_metrics_as_far_as_they_concern_who_asks():
    start()
    let_through()
    units = {f"system:{UNIT}", f"{m.USER}:{OWN}", f"{m.USER}:{HOSTILE}"}
    with reporting():
        of_root = told()
        m.equal(units_of(of_root), units, "the units that root is told of")
        m.equal(units_of(told(by=m.as_user)), units, "the units that the user is told of")
        m.equal(units_of(told(by=m.as_user, uid=m.OTHER_UID)), {f"system:{UNIT}"}, "the units that others are told of")
        own = of_root["io.scnpm.UnitPackets", f"{m.USER}:{OWN}"]
        m.check(own["value"] >= 1 and own["fields"] == {"user": m.USER}, f"{own}")
        let_through()
        m.check(told()["io.scnpm.UnitPackets", f"{m.USER}:{OWN}"]["value"] > own["value"], "counters do not grow")
        m.equal(of_root["io.scnpm.PolicyInForce", None]["value"], 1, "in force")
        described = {name for name, _ in told("Describe")}
        m.check({name for name, _ in of_root} <= described, f"not all is described: {described}")
        if control.has_varlinkctl():
            called = m.run("varlinkctl", "call", "--more", f"unix:{REPORT}", "io.systemd.Metrics.List", "{}").stdout
            m.check('"io.scnpm.UnitBytes"' in called, called)
        instances = ["systemctl", "list-units", "--all", "--no-legend", "scnpm-report@*"]
        m.eventually(lambda: not m.run(*instances).stdout, lambda: f"instances are left: {m.run(*instances).stdout}")
        m.stop("scnpm.service")
        m.equal(told(), {("io.scnpm.Up", None): {"name": "io.scnpm.Up", "value": 0}}, "metrics without the daemon")


@test
def systemd_report_shows_the_metrics():
    version = int(m.run("systemctl", "--version").stdout.split()[1].split("~")[0])
    # In Debian it is a package of its own, which the tests' tree has.
    if version < 260:
        return
    report = "/usr/lib/systemd/systemd-report"
    start()
    let_through()
    with reporting():
        m.check("io.scnpm" in m.run(report, "list-sources", "--no-legend").stdout, "it is no source")
        for by, units in [(m.run, 3), (m.as_user, 3), (lambda *words: m.as_user(*words, uid=m.OTHER_UID), 1)]:
            done = by(report, "metrics", "--json=short", "io.scnpm")
            # As RFC 7464 has it: each begins with a record separator.
            metrics = [json.loads(line) for line in done.stdout.replace("\x1e", "").split("\n") if line]
            m.equal(len([one for one in metrics if one["name"] == "io.scnpm.UnitBytes"]), units, f"units in {done}")
            m.check("not valid" not in done.stderr, f"{done}")
        described = m.run(report, "describe", "--no-legend", "io.scnpm").stdout
        for line in ["io.scnpm.UnitBytes", "io.scnpm.Up"]:
            m.check(line in described, described)
        text = m.run("varlinkctl", "introspect", f"unix:{REPORT}", "io.systemd.Metrics").stdout
        m.run("varlinkctl", "validate-idl", input=text)
        for service in [path for path in REPORT.parent.iterdir() if path != REPORT]:
            theirs = m.run("varlinkctl", "introspect", f"unix:{service}", "io.systemd.Metrics", ok=False).stdout
            m.check(not theirs or interface(theirs) == interface(text), f"{service} has another interface: {theirs}")


def interface(text):
    """A description without comments, and without blanks that say nothing."""
    return re.sub(r"\s+", "", re.sub(r"(?m)#.*$", "", text))


@test
def units_for_metrics_are_valid_tight_and_off():
    units = ["scnpm-textfile.service", "scnpm-textfile.timer", "scnpm-report.socket", "scnpm-report@1.service"]
    verified = m.run("systemd-analyze", "verify", "--man=no", *units, ok=False)
    m.equal((verified.returncode, verified.stderr), (0, ""), "systemd-analyze verify")
    for service, most in [(units[0], 20), (units[3], 25)]:
        exposure = m.run("systemd-analyze", "security", "--no-pager", f"--threshold={most}", service, ok=False)
        m.equal(exposure.returncode, 0, f"systemd-analyze security: {exposure.stdout}")
    for name in units[1:3]:
        m.equal(m.run("systemctl", "is-enabled", name, ok=False).stdout.strip(), "disabled", name)
