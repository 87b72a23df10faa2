"""The booted-systemd tests. Arguments: words; only tests with one of them in their names run."""

import concurrent.futures
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import control
import counts
import denied
import explains
import floods
import learns
import machine as m
import metrics
import outputs
import runs

TESTS = []


def test(function):
    TESTS.append(function)
    return function


def sleeper(name, *settings, where=m.UNITS):
    m.service(name, "ExecStart=/bin/sleep infinity", "TimeoutStopSec=5", *settings, where=where)


def running(name):
    """A started system service of that name that does nothing; its cgroup."""
    sleeper(name)
    m.reload_units()
    m.start(name)
    return f"system.slice/{name}"


# At boot: these look at what happened before the tests began, so they are first.


@test
def policy_is_in_place_before_the_network_is_up_and_services_start():
    def reached(name):
        return int(m.show(name, "ActiveEnterTimestampMonotonic"))

    scnpm = reached("scnpm.service")
    m.check(scnpm > 0, f"scnpm.service did not start at boot: {m.show('scnpm.service', 'ActiveState')}\n{m.log()}")
    m.check(reached("nftables.service") <= scnpm, "scnpm.service was there before nftables.service")
    for later in ["network-pre.target", "sysinit.target", "t-boot-client.service"]:
        m.check(scnpm <= reached(later), f"{later} was there before scnpm.service")


@test
def service_that_connects_at_boot_gets_through():
    m.check(m.active("t-boot-client.service"), "t-boot-client.service is not active")
    m.equal(m.pathlib.Path("/run/t-boot-client").read_text().split(), ["ok"], "the annotated service")
    m.equal(m.pathlib.Path("/run/t-boot-stranger").read_text().split(), ["refused"], "the other service")


@test
def daemon_started_before_dbus_at_boot_finds_it_later():
    bus = int(m.show("dbus.service", "ActiveEnterTimestampMonotonic"))
    m.check(int(m.show("scnpm.service", "ActiveEnterTimestampMonotonic")) < bus, "D-Bus was there before")
    m.equal(m.show("scnpm.service", "NRestarts"), "0", "restarts of scnpm.service")
    m.eventually(is_on_the_bus, "scnpm is not on the bus")


GENERATED = "50-scnpm-wait.conf"


@test
def service_that_a_comment_has_wait_gets_through_at_boot():
    name = "t-boot-waiting.service"
    m.equal(m.pathlib.Path("/run/t-boot-waiting").read_text().split(), ["ok"], "the service that waits")
    m.equal(m.show(name, "DropInPaths"), f"/run/systemd/generator/{name}.d/{GENERATED}", "its drop-ins")
    waited = m.show(name, "ExecStartPre")
    m.check("/usr/bin/scnpm wait --self" in waited and "status=0" in waited, f"it did not wait: {waited}")


# What commands print. Before the tests that leave cgroups of users behind, which it would show.
TESTS.extend(outputs.TESTS)


# Units that are selected by more than a name. Before the tests that end D-Bus: users' managers move processes into
# scopes through it, and never find it again.


def scope_of(name, uid=m.UID):
    return f"user.slice/user-{uid}.slice/user@{uid}.service/app.slice/{name}"


def two_users():
    """Brings the second user's manager up; the first one's lingers."""
    m.start(f"user@{m.OTHER_UID}.service")


@test
def application_is_let_through_by_whatever_name_its_scope_has():
    two_users()
    m.start_with(m.selected(f"{m.USER}:app:t-mail"))
    for number, name in enumerate(["app-gnome-t\\x2dmail-17.scope", "app-t\\x2dmail-18.scope"]):
        m.in_scope(name, m.connects(f"mail{number}"))
        m.equal(m.tries(f"mail{number}"), ["ok"], name)
    m.in_scope("app-gnome-t\\x2dmailer-19.scope", m.connects("mailer") + " || true")
    m.equal(m.tries("mailer"), ["refused"], "another application")
    m.in_scope("app-gnome-t\\x2dmail-20.scope", m.connects("stranger") + " || true", uid=m.OTHER_UID)
    m.equal(m.tries("stranger"), ["refused"], "the same application of another user")
    m.elements_become()


@test
def selected_units_have_their_elements_while_they_run():
    two_users()
    m.start_with(m.selected("user:t-sel-*.service"), m.selected(f"{m.OTHER_UID}:t-sel-b.service", port=7002))
    for name in ["t-sel-a.service", "t-sel-b.service"]:
        sleeper(name, where=m.USER_UNITS)
    m.reload_units()
    for uid in [m.UID, m.OTHER_UID]:
        m.as_user("systemctl", "--user", "daemon-reload", uid=uid)
        m.as_user("systemctl", "--user", "start", "t-sel-a.service", "t-sel-b.service", uid=uid)
    both = [scope_of(name, uid) for uid in [m.UID, m.OTHER_UID] for name in ["t-sel-a.service", "t-sel-b.service"]]
    m.elements_become(*both, scope_of("t-sel-b.service", m.OTHER_UID))
    m.run("systemctl", "reload", "scnpm.service")
    m.elements_become(*both, scope_of("t-sel-b.service", m.OTHER_UID))
    m.run("systemctl", "stop", f"user@{m.OTHER_UID}.service")
    m.elements_become(*both[:2])
    m.start(f"user@{m.OTHER_UID}.service")
    m.as_user("systemctl", "--user", "start", "t-sel-b.service", uid=m.OTHER_UID)
    m.elements_become(*both[:2], *[scope_of("t-sel-b.service", m.OTHER_UID)] * 2)


@test
def unit_that_a_rule_names_and_a_pattern_selects_has_both_elements_over_restarts():
    path = "system.slice/t-both.service"
    m.start_with(m.system_rule("t-both.service"), m.selected("system:t-bot*.service", port=7002))
    sleeper("t-both.service")
    m.reload_units()
    for _ in range(3):
        m.start("t-both.service")
        m.elements_become(path, path)
        m.run("systemctl", "stop", "t-both.service")
        m.elements_become()


@test
def system_unit_is_selected_wherever_its_slice_is():
    m.start_with(m.selected("system:t-sliced.service"), m.selected("system:t-glob-*.service", port=7002))
    sleeper("t-sliced.service", "Slice=t-deep-er.slice", f"ExecStartPre=-{m.connects('sliced')}")
    sleeper("t-glob-x.service", f"ExecStartPre=-{m.connects('glob', port=7002)}")
    m.reload_units()
    m.start("t-glob-x.service")
    m.equal(m.tries("glob"), ["ok"], "the first connection")
    m.start("t-sliced.service")
    m.elements_become("t.slice/t-deep.slice/t-deep-er.slice/t-sliced.service", "system.slice/t-glob-x.service")
    m.is_let_through("t.slice/t-deep.slice/t-deep-er.slice/t-sliced.service", 7001)


@test
def user_can_imitate_nobody():
    m.start_with(m.selected("system:t-imitated.service"), m.selected(f"{m.OTHER}:app:x"))
    top = m.CGROUPS / f"user.slice/user-{m.UID}.slice/user@{m.UID}.service"
    for place in ["system.slice/t-imitated.service", f"user.slice/user-{m.OTHER_UID}.slice/user@{m.OTHER_UID}.service/app-x-1.scope"]:
        m.as_user("mkdir", "-p", str(top / place))
    for number in range(300):
        m.as_user("mkdir", str(top / f"a\";{{}} flush {number}.scope")) if number < 3 else None
    sleeper("t-imitated.service")
    m.reload_units()
    m.start("t-imitated.service")
    m.elements_become("system.slice/t-imitated.service")


@test
def five_hundred_scopes_of_two_users_get_what_is_theirs_at_the_first_try():
    two_users()
    ports = {m.UID: 7001, m.OTHER_UID: 7002}
    names = {m.UID: m.USER, m.OTHER_UID: m.OTHER}
    rules = [m.selected(f"{names[uid]}:app:t{app}", port=ports[uid]) for uid in ports for app in range(10)]
    m.start_with(*rules)
    m.TRIES.mkdir(exist_ok=True)
    m.TRIES.chmod(0o1777)
    scopes = [(uid, number) for uid in ports for number in range(250)]
    random.Random(1).shuffle(scopes)

    def try_in(scope):
        uid, number = scope
        tries = m.TRIES / f"many-{uid}-{number}"
        tries.unlink(missing_ok=True)
        allowed, forbidden = ports[uid], 14003 - ports[uid]
        command = f"{m.CONNECT} {allowed} {tries}; {m.CONNECT} {forbidden} {tries}; true"
        m.in_scope(f"app-desk-t{number % 20}-{number}.scope", command, uid=uid)
        return m.tries(tries.name)

    def missed_in_a_round():
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found = dict(zip(scopes, pool.map(try_in, scopes)))
        expected = {scope: ["ok" if scope[1] % 20 < 10 else "refused", "refused"] for scope in scopes}
        missed = {scope: tries for scope, tries in found.items() if tries != expected[scope]}
        # Late is one thing, to be let through where nobody should be another.
        open_to = {scope: tries for scope, tries in missed.items() if tries != ["refused", "refused"]}
        m.equal(open_to, {}, "scopes that were not refused what is not theirs")
        return missed

    one_round_is({}, lambda _: missed_in_a_round(), f"of {len(scopes)} scopes")
    m.elements_become()


def one_round_is(expected, find, what):
    """A machine that is taken away for some ms makes tries late: one round of three has to be without a miss."""
    rounds = []
    while len(rounds) < 3 and (not rounds or rounds[-1] != expected):
        rounds.append(find(len(rounds)))
    m.equal(rounds[-1], expected, f"{what}, of all rounds: {rounds}")


def first_tries(count, name):
    """Of a system unit and of a third user's application, each of which is started anew for each of its tries."""
    before = len(m.tries("first"))
    for number in range(1, count + 1):
        m.start("t-first.service")
        m.eventually(lambda: len(m.tries("first")) == before + number, "the service did not connect", 60)
        m.in_scope(f"app-t-{name}-{number}.scope", m.connects("application", 7002) + " || true")
    return m.tries("first")[before:] + m.tries("application")[before:]


@test
def floods_of_two_users_keep_nobody_else_from_being_let_through_nor_the_daemon_from_ending():
    floods.managers()
    m.start_with(m.system_rule("t-first.service"), m.selected("user:app-*.scope", port=7002))
    m.service("t-first.service", f"ExecStart=-{m.connects('first')}")
    m.reload_units()
    with floods.of_two_users():
        what = "first tries of a system unit and a third user's application"
        one_round_is(["ok"] * 40, lambda number: first_tries(20, number), what)
        m.stop("scnpm.service")
    m.equal(m.show("scnpm.service", "Result"), "success", "how the daemon ended")
    m.equal(m.show("scnpm.service", "ExecMainStatus"), "0", "exit status of the daemon")


@test
def selected_units_are_found_without_the_source_cgroup():
    two_users()
    m.start_with(m.selected("user:t-blind-*.service"), options=["--sources", "dbus,journal"])
    m.as_user("systemd-run", "--user", "--unit=t-blind-a.service", "--slice=app.slice", "sleep", "infinity")
    m.elements_become(scope_of("t-blind-a.service"))
    m.as_user("systemctl", "--user", "stop", "t-blind-a.service")
    m.elements_become()


def recipes():
    """The file of docs/desktop.md, and its recipes by their first words, for the tests' user."""
    text = m.pathlib.Path("/opt/tests/desktop.md").read_text().replace("alice:", f"{m.USER}:")
    before, after = text.split("## Recipes")
    [base] = m.blocks_below(before.split("## The file")[1]).values()
    return base, {above: block + "\n" for above, block in m.blocks_below(after.split("\n## ")[0]).items()}


@test
def recipes_for_desktops_do_what_they_say():
    two_users()
    base, all_recipes = recipes()
    m.equal(len(all_recipes), 7, "recipes in docs/desktop.md")
    m.Listeners([7022, 7080, 7100])
    for title, unit, options, expected in [
        ("A game without network", "app-x-game", [], {7080: "refused", 7100: "refused"}),
        ("A browser", "app-x-browser", [], {7080: "ok", 7100: "refused"}),
        ("A port", "app-x-terminal", [], {7022: "ok", 7100: "ok"}),
        ("A port", "app-y-browser", [], {7022: "refused", 7100: "ok"}),
        ("Everything in a slice", "any-in", ["--slice=app-untrusted.slice"], {7080: "ok", 7100: "refused"}),
        ("Everything in a slice", "any-out", [], {7080: "ok", 7100: "ok"}),
    ]:
        recipe = next(text for name, text in all_recipes.items() if name.startswith(title))
        m.start_with(recipe, base=base)
        for port, outcome in expected.items():
            name = f"{unit}-{port}.scope"
            command = ["systemd-run", "--user", "--scope", "--quiet", *options, f"--unit={name}"]
            m.as_user(*command, "sh", "-c", m.connects(name, port) + " || true")
            m.equal(m.tries(name), [outcome], f"{title}: {unit} to port {port}")


@test
def recipes_for_a_vpn_let_through_whom_they_name():
    two_users()
    base, all_recipes = recipes()
    server = "import socket\ns = [socket.create_server(('192.0.2.25', p)) for p in (22, 443)]\nwhile True: s[1].accept()"
    for command in [
        "ip netns add far", "ip link add my-vpn type veth peer name far netns far",
        "ip address add 192.0.2.1/24 dev my-vpn", "ip link set my-vpn up",
        "ip -n far address add 192.0.2.25/24 dev far", "ip -n far link set far up",
    ]:  # fmt: skip
        m.run(*command.split())
    far = subprocess.Popen(["ip", "netns", "exec", "far", "python3", "-c", server])
    try:
        m.eventually(lambda: "192.0.2.25:443" in m.run("ip", "netns", "exec", "far", "ss", "-ltn").stdout, "no server")
        m.start_with(*all_recipes.values(), base=base)
        for unit, port, outcome in [
            ("app-gnome-mail-1.scope", 443, "ok"),
            ("app-gnome-letters-1.scope", 443, "refused"),
            ("app-flatpak-org.mozilla.firefox-1.scope", 443, "ok"),
            ("app-flatpak-org.mozilla.firefox-2.scope", 22, "refused"),
            ("app-kde-backup-1.scope", 22, "ok"),
        ]:
            client = f"import socket; socket.create_connection(('192.0.2.25', {port}), 5)"
            m.in_scope(unit, f'python3 -c "{client}" 2>/dev/null && echo ok >{m.TRIES}/{unit} || echo refused >{m.TRIES}/{unit}')
            m.equal(m.tries(unit), [outcome], f"{unit} to port {port}")
    finally:
        far.kill()
        far.wait()
        m.run("ip", "netns", "delete", "far")


@test
def recipes_for_desktops_are_found_right():
    base, all_recipes = recipes()
    m.write_policy(*all_recipes.values(), base=base)
    report = json.loads(m.run(m.SCNPM, "check", "--json", str(m.CONF)).stdout)
    m.equal(report["findings"], [], "findings")


TESTS.extend(runs.TESTS)
TESTS.extend(explains.TESTS)
TESTS.extend(counts.TESTS)
TESTS.extend(denied.TESTS)
TESTS.extend(learns.TESTS)
TESTS.extend(control.EARLY)
TESTS.extend(metrics.TESTS)


def is_on_the_bus():
    peers = m.run("busctl", "list", "--no-legend", "--no-pager", ok=False).stdout
    return any(line.split()[1:2] == [str(m.daemon_pid())] for line in peers.splitlines())


# Kinds of units. The connection is the first thing that the unit does.


def starts_with_its_rule(name, *settings, cgroup=None, expected=1):
    """The unit's first connections get through, a stranger's do not, and the element goes with the unit."""
    cgroup = cgroup or f"system.slice/{name}"
    m.start_with(m.rule(name, cgroup))
    m.service(name.replace("@bar.", "@."), *settings)
    m.service("t-stranger.service", "Type=oneshot", f"ExecStart=-{m.connects('stranger')}")
    m.reload_units()
    m.start(name, "t-stranger.service")
    m.eventually(lambda: len(m.tries("unit")) == expected, lambda: f"tries: {m.tries('unit')}")
    m.equal(m.tries("unit"), ["ok"] * expected, "the unit's connections")
    m.equal(m.tries("stranger"), ["refused"], "the stranger's connection")
    m.elements_become(cgroup)
    m.stop(name)
    m.elements_become()


@test
def simple_service_is_let_through_from_exec_start_pre_on():
    starts_with_its_rule(
        "t-simple.service", f"ExecStartPre=-{m.connects('unit')}",
        f"ExecStart=/bin/sh -c '{m.connects('unit')}; exec sleep infinity'", expected=2,
    )  # fmt: skip


@test
def oneshot_service_is_let_through_from_exec_start_pre_on():
    starts_with_its_rule(
        "t-oneshot.service", "Type=oneshot", "RemainAfterExit=yes", f"ExecStartPre=-{m.connects('unit')}",
        # RemainAfterExit alone would leave the unit without a process and so without a cgroup.
        f"ExecStart=-{m.connects('unit')}", "ExecStartPost=/bin/sh -c 'sleep infinity &'", expected=2,
    )  # fmt: skip


@test
def notify_service_is_let_through_from_exec_start_pre_on():
    starts_with_its_rule(
        "t-notify.service", "Type=notify", "NotifyAccess=all", f"ExecStartPre=-{m.connects('unit')}",
        f"ExecStart=/bin/sh -c '{m.connects('unit')}; systemd-notify --ready; exec sleep infinity'", expected=2,
    )  # fmt: skip


@test
def service_in_a_nested_slice_is_let_through():
    starts_with_its_rule(
        "t-nested.service", "Slice=t-b-c.slice", f"ExecStartPre=-{m.connects('unit')}", "ExecStart=/bin/sleep infinity",
        cgroup="t.slice/t-b.slice/t-b-c.slice/t-nested.service",
    )  # fmt: skip


@test
def template_instance_is_let_through():
    starts_with_its_rule(
        "t-foo@bar.service", f"ExecStartPre=-{m.connects('unit')}", "ExecStart=/bin/sleep infinity",
        cgroup=r"system.slice/system-t\x2dfoo.slice/t-foo@bar.service",
    )  # fmt: skip


@test
def service_with_an_escaped_name_is_let_through():
    starts_with_its_rule(
        r"t-app\x2dx.service", f"ExecStartPre=-{m.connects('unit')}", "ExecStart=/bin/sleep infinity"
    )


@test
def user_service_is_let_through_from_exec_start_pre_on():
    name = "t-user.service"
    cgroup = f"{m.USER_SLICE}/{name}"
    m.start_with(m.rule(name, cgroup))
    m.service(
        name, f"ExecStartPre=-{m.connects('unit')}", "ExecStart=/bin/sleep infinity", where=m.USER_UNITS
    )
    m.service("t-other.service", "Type=oneshot", f"ExecStart=-{m.connects('stranger')}", where=m.USER_UNITS)
    m.start(f"user@{m.UID}.service")
    m.reload_units()
    m.as_user("systemctl", "--user", "start", name, "t-other.service")
    m.equal(m.tries("unit"), ["ok"], "the unit's connection")
    m.equal(m.tries("stranger"), ["refused"], "the stranger's connection")
    m.elements_become(cgroup)
    m.as_user("systemctl", "--user", "stop", name)
    m.elements_become()


@test
def comment_has_units_wait_from_the_next_reload_of_the_manager_on():
    name, prefixed = "t-waits.service", "t-pre-one.service"
    m.start_with("# scnpm: wait\n", m.system_rule(name), "# scnpm: wait\n", m.selected("system:t-pre-*.service"))
    for each in [name, prefixed]:
        m.service(each, "Type=oneshot", f"ExecStart=-{m.connects(each)}")
    m.reload_units()
    m.equal(m.show(name, "DropInPaths"), f"/run/systemd/generator/{name}.d/{GENERATED}", "drop-ins")
    m.check(f"/run/systemd/generator/t-pre-.service.d/{GENERATED}" in m.show(prefixed, "DropInPaths"), "no drop-in of the prefix")
    m.check("scnpm.service" in m.show(name, "After"), "it does not start after scnpm.service")
    verified = m.run("systemd-analyze", "verify", "--man=no", name, ok=False)
    m.equal((verified.returncode, verified.stderr), (0, ""), "systemd-analyze verify")
    m.start(name, prefixed)
    m.equal([m.tries(name), m.tries(prefixed)], [["ok"], ["ok"]], "first connections")
    m.stop("scnpm.service")
    m.check(m.run("systemctl", "start", name, ok=False).returncode != 0, "it starts without the daemon")
    m.says("does not run", name=name)
    m.write_policy(m.system_rule(name))
    m.reload_units()
    m.equal(m.show(name, "DropInPaths"), "", "drop-ins without the comment")
    m.start(name)


@test
def comment_has_no_unit_wait_that_scnpm_may_have_to_wait_for():
    early = ["systemd-tmpfiles-setup.service", "nftables.service", "scnpm.service"]
    m.start_with(*["# scnpm: wait\n" + m.system_rule(each) for each in ["t-waits.service", *early]])
    m.reload_units()
    generated = m.pathlib.Path("/run/systemd/generator").glob(f"*/{GENERATED}")
    m.equal([path.parent.name for path in generated], ["t-waits.service.d"], "drop-ins")
    m.CONF.unlink()
    m.reload_units()
    m.equal(list(m.pathlib.Path("/run/systemd/generator").glob(f"*/{GENERATED}")), [], "drop-ins without a policy")


@test
def comment_has_users_units_wait():
    name, other = "t-user.service", "t-other.service"
    cgroup = f"{m.USER_SLICE}/{name}"
    m.start_with("# scnpm: wait\n", m.selected(f"{m.USER}:{name}, {m.OTHER}:{other}"))
    m.start(f"user@{m.UID}.service")
    for each in [name, other]:
        m.service(each, f"ExecStartPre=-{m.connects(each)}", "ExecStart=/bin/sleep infinity", where=m.USER_UNITS)
    m.reload_units()

    def drop_ins(unit):
        return m.as_user("systemctl", "--user", "show", "-P", "DropInPaths", unit).stdout.strip()

    m.equal(drop_ins(name), f"/run/user/{m.UID}/systemd/generator/{name}.d/{GENERATED}", "drop-ins")
    m.equal(drop_ins(other), "", "drop-ins of another user's unit")
    m.as_user("systemctl", "--user", "start", name)
    m.elements_become(cgroup)
    m.as_user("systemctl", "--user", "stop", name)
    m.stop("scnpm.service")
    m.check(m.as_user("systemctl", "--user", "start", name, ok=False).returncode != 0, "it starts without the daemon")


@test
def user_manager_that_comes_later_is_noticed():
    name = "t-late.service"
    cgroup = f"{m.USER_SLICE}/{name}"
    m.stop(f"user@{m.UID}.service", f"user-{m.UID}.slice")
    m.start_with(m.rule(name, cgroup))
    m.service(name, f"ExecStartPre=-{m.connects('unit')}", "ExecStart=/bin/sleep infinity", where=m.USER_UNITS)
    m.start(f"user@{m.UID}.service")
    m.as_user("systemctl", "--user", "start", name)
    m.equal(m.tries("unit"), ["ok"], "the unit's connection")
    m.elements_become(cgroup)
    m.stop(f"user@{m.UID}.service")
    m.elements_become()
    m.start(f"user@{m.UID}.service")


@test
def user_scope_is_let_through():
    name = "t-mail.scope"
    cgroup = f"{m.USER_SLICE}/{name}"
    m.start_with(m.rule(name, cgroup))
    m.start(f"user@{m.UID}.service")
    # As a desktop does it: a process of a session puts itself in a scope of the user's manager. It is
    # moved there by a request of its own, so it runs before the rule can be there; it connects anew then.
    m.run(
        "systemd-run", "--quiet", "--unit=t-session.service", "-p", "PAMName=login", "-p", f"User={m.USER}",
        "systemd-run", "--quiet", "--user", "--scope", f"--unit={name}", "--slice=app.slice",
        "/bin/sh", "-c", f"sleep 1; {m.connects('unit')}; exec sleep infinity",
    )  # fmt: skip
    m.elements_become(cgroup)
    m.eventually(lambda: m.tries("unit"), "the scope did not connect")
    m.equal(m.tries("unit"), ["ok"], "the scope's connection")
    m.is_let_through(cgroup)
    m.as_user("systemctl", "--user", "stop", name)
    m.elements_become()


# Lives of units


@test
def unit_restarted_fifty_times_gets_through_each_time_and_has_one_element():
    name = "t-restarted.service"
    m.start_with(m.system_rule(name))
    m.service(name, f"ExecStart=/bin/sh -c '{m.connects('unit')}; exec sleep infinity'")
    m.reload_units()

    def fifty(number):
        for count in range(50 * number + 1, 50 * number + 51):
            m.run("systemctl", "restart", name)
            m.eventually(lambda: len(m.tries("unit")) == count, "the unit did not connect")
        return m.tries("unit")[-50:]

    one_round_is(["ok"] * 50, fifty, "the unit's connections")
    m.elements_become(f"system.slice/{name}")


@test
def unit_that_exits_by_itself_loses_its_element():
    cgroup = running("t-exits.service")
    m.start_with(m.system_rule("t-exits.service"))
    m.elements_become(cgroup)
    os.kill(int(m.show("t-exits.service", "MainPID")), signal.SIGTERM)
    m.elements_become()


@test
def unit_that_runs_already_is_let_through_when_the_daemon_starts():
    cgroup = running("t-early.service")
    m.start_with(m.system_rule("t-early.service"))
    m.equal(m.elements(), [cgroup], "elements when the daemon is ready")
    m.check(m.gets_through(cgroup), "the unit is refused")


@test
def cgroup_annotated_under_another_units_name_is_followed():
    m.start_with(m.rule("t-session.scope", "system.slice/t-sshd.service"))
    cgroup = running("t-sshd.service")
    m.is_let_through(cgroup)
    m.elements_become(cgroup)
    m.stop("t-sshd.service")
    m.elements_become()


@test
def rule_without_a_cgroup_holds_while_its_unit_is_active():
    name = "t-gate.service"
    stranger = running("t-stranger.service")
    m.start_with(m.rule(name, port=7003))
    m.service(name, "Type=oneshot", "RemainAfterExit=yes", "ExecStart=/bin/true")
    m.reload_units()
    m.check(not m.gets_through(stranger, 7003), "the rule holds before its unit is active")
    m.start(name)
    m.is_let_through(stranger, 7003)
    m.stop(name)
    m.is_refused(stranger, 7003)
    m.start(name)
    m.is_let_through(stranger, 7003)


@test
def rule_without_a_cgroup_holds_while_any_users_unit_of_that_name_runs():
    two_users()
    stranger = running("t-stranger.service")
    m.start_with(m.rule("t-shared.service", port=7003), m.rule("t-brief.service", port=7004))
    m.eventually(is_on_the_bus, "scnpm is not on the bus")
    sleeper("t-shared.service", where=m.USER_UNITS)
    m.service("t-brief.service", "ExecStart=/bin/sleep 2", where=m.USER_UNITS)

    def users(verb, name, *uids):
        for uid in uids:
            m.as_user("systemctl", "--user", verb, name, uid=uid)

    for uid in [m.UID, m.OTHER_UID]:
        m.as_user("systemctl", "--user", "daemon-reload", uid=uid)
    m.check(not m.gets_through(stranger, 7003), "the rule holds before its unit runs")
    users("start", "t-shared.service", m.UID, m.OTHER_UID)
    m.is_let_through(stranger, 7003)
    users("stop", "t-shared.service", m.OTHER_UID)
    # The journal is late.
    time.sleep(1)
    m.check(m.gets_through(stranger, 7003), "another user's stop took the rule away")
    users("stop", "t-shared.service", m.UID)
    m.is_refused(stranger, 7003)
    users("start", "t-brief.service", m.UID)
    m.is_let_through(stranger, 7004)
    m.is_refused(stranger, 7004)


@test
def several_annotations_of_a_unit_hold_together():
    name = "t-several.service"
    cgroup = f"system.slice/{name}"
    m.start_with(m.rule(name, cgroup), m.rule(name, cgroup, port=7002))
    running(name)
    m.is_let_through(cgroup, 7001)
    m.is_let_through(cgroup, 7002)
    m.check(not m.gets_through(cgroup, 7003), "a port that nobody allowed is open")


# Reload, crash, other people's changes


@test
def reload_applies_the_changed_file():
    old, new = running("t-old.service"), running("t-new.service")
    m.start_with(m.system_rule("t-old.service"))
    m.is_let_through(old)
    m.write_policy(m.system_rule("t-new.service"))
    m.run("systemctl", "reload", "scnpm.service")
    m.elements_become(new)
    m.is_let_through(new)
    m.is_refused(old)
    m.write_policy(m.system_rule("t-old.service"))
    os.kill(m.daemon_pid(), signal.SIGHUP)
    m.elements_become(old)


@test
def reload_of_an_unreadable_file_keeps_the_old_policy():
    cgroup = running("t-kept.service")
    m.start_with(m.system_rule("t-kept.service"))
    before, pid = m.skeleton(), m.daemon_pid()
    away = m.CONF.with_suffix(".away")
    m.CONF.rename(away)
    try:
        m.check(m.run("systemctl", "reload", "scnpm.service", ok=False).returncode != 0, "the reload does not fail")
        m.says("the old policy stays", str(m.CONF))
        m.equal(m.skeleton(), before, "the ruleset after the reload")
        m.check(m.gets_through(cgroup), "the unit is refused after the reload")
        m.stop("t-kept.service")
        m.elements_become()
        m.start("t-kept.service")
        m.elements_become(cgroup)
        m.equal(m.daemon_pid(), pid, "the daemon's PID")
    finally:
        away.rename(m.CONF)


@test
def good_annotations_live_on_beside_bad_ones():
    cgroup = running("t-good.service")
    m.start_with(
        m.system_rule("t-good.service"),
        "# t-bad.service :: add rule inet filter allowed socket cgroupv2 level two \"x\" accept\n",
        "# t-nochain.service :: add rule inet filter nowhere socket cgroupv2 level 2 \"system.slice/t-nochain.service\" accept\n",
        "# t-nonsense.service :: add rule inet filter allowed socket cgroupv2 level 2 \"system.slice/t-nonsense.service\" tcp dprot 1 accept\n",
    )  # fmt: skip
    m.elements_become(cgroup)
    m.is_let_through(cgroup)
    lines = m.CONF.read_text().splitlines()
    for name in ["t-bad.service", "t-nochain.service", "t-nonsense.service"]:
        number = next(i for i, line in enumerate(lines, 1) if name in line)
        m.says(f"{m.CONF}:{number}")


@test
def crashed_daemon_replaces_its_leftovers():
    m.start_with(*[m.system_rule(f"t-{each}.service") for each in ["gone", "stays", "comes"]])
    running("t-gone.service")
    stays = running("t-stays.service")
    m.elements_become("system.slice/t-gone.service", stays)
    before = m.skeleton()
    m.configure_daemon(more="Restart=no\n")
    os.kill(m.daemon_pid(), signal.SIGKILL)
    m.eventually(lambda: m.show("scnpm.service", "ActiveState") == "failed", "the daemon lives")
    m.check(m.gets_through(stays), "the rules do not outlive the daemon")
    m.stop("t-gone.service")
    comes = running("t-comes.service")
    m.start("scnpm.service")
    m.elements_become(stays, comes)
    m.equal(m.skeleton(), before, "the ruleset after the crash")


@test
def daemon_comes_back_by_itself_after_a_crash():
    cgroup = running("t-back.service")
    m.start_with(m.system_rule("t-back.service"))
    pid = m.daemon_pid()
    os.kill(pid, signal.SIGKILL)
    m.eventually(lambda: m.active("scnpm.service") and m.daemon_pid() not in (0, pid), "the daemon stays away")
    m.elements_become(cgroup)


def waits_for(chain, seconds, *command):
    """A command that has to delete a chain waits while it cannot, since somebody's map leads to the chain (EBUSY)."""
    m.run("nft", f"add map inet filter holding {{ type mark : verdict; elements = {{ 1 : jump {chain} }}; }}")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(seconds)
        early = process.poll()
        m.run("nft", "delete map inet filter holding")
        said = process.communicate()[1]
    m.equal((early, process.returncode, said), (None, 0, ""), "exit status before and after, and what it says")


@test
def daemon_that_cannot_load_its_policy_for_a_moment_starts_all_the_same():
    name = "t-held.service"
    cgroup = running(name)
    m.start_with(m.system_rule(name))
    m.stop("scnpm.service")
    # What looks like a chain of an earlier run.
    m.run("nft", "add chain inet filter scnpm.held")
    waits_for("scnpm.held", 1, "systemctl", "start", "scnpm.service")
    m.equal(m.show("scnpm.service", "NRestarts"), "0", "restarts")
    m.elements_become(cgroup)
    m.is_let_through(cgroup)


# Elements in sets and maps of the user's own

WITH_SETS = m.BASE.replace(
    "    chain allowed", "    set listed { type cgroupsv2; }\n    map marks { type cgroupsv2 : mark; }\n    chain allowed"
).replace(
    "        tcp dport 7001-7009 jump",
    "        socket cgroupv2 level 2 @listed accept\n"
    "        meta mark set socket cgroupv2 level 2 map @marks\n"
    "        tcp dport 7001-7009 jump",
)


def element(name, where, value=""):
    return f'# {name} :: add element inet filter {where} {{ "system.slice/{name}"{value} }}\n'


def nothing_is_wrong():
    m.linted()
    m.equal((m.findings(), [entry["MESSAGE"] for entry in m.entries() if entry["PRIORITY"] <= "4"]), ([], []), "findings")


def kill_daemon():
    m.configure_daemon(more="Restart=no\n")
    os.kill(m.daemon_pid(), signal.SIGKILL)
    m.eventually(lambda: m.show("scnpm.service", "ActiveState") == "failed", "the daemon lives")


@test
def changed_value_of_an_element_replaces_the_old_one():
    cgroup = running("t-marked.service")
    m.start_with(element("t-marked.service", "marks", " : 1"), base=WITH_SETS)
    m.elements_of_become("marks", {cgroup: 1})
    m.write_policy(element("t-marked.service", "marks", " : 2"), base=WITH_SETS)
    m.run("systemctl", "reload", "scnpm.service")
    m.elements_of_become("marks", {cgroup: 2})
    nothing_is_wrong()
    m.write_policy(element("t-marked.service", "marks", " : 3"), base=WITH_SETS)
    m.run("systemctl", "restart", "scnpm.service")
    m.equal(m.elements_of("marks"), {cgroup: 3}, "elements after the restart")
    nothing_is_wrong()
    m.write_policy(element("t-marked.service", "marks", " : 4"), base=WITH_SETS)
    kill_daemon()
    m.start("scnpm.service")
    m.equal(m.elements_of("marks"), {cgroup: 4}, "elements after the crash")
    nothing_is_wrong()
    m.stop("t-marked.service")
    m.elements_of_become("marks", {})


@test
def element_of_a_removed_annotation_goes_with_the_next_start():
    first, second, own = (running(f"t-{each}.service") for each in ["first", "second", "own"])
    all_of_them = [element("t-first.service", "listed"), element("t-second.service", "listed")]
    m.start_with(*all_of_them, base=WITH_SETS)
    m.run("nft", "add", "element", "inet", "filter", "listed", f'{{ "{own}" }}')
    m.elements_of_become("listed", {first: None, second: None, own: None})
    m.write_policy(all_of_them[0], base=WITH_SETS)
    m.run("systemctl", "restart", "scnpm.service")
    m.equal(m.elements_of("listed"), {first: None, own: None}, "elements after the restart")
    m.write_policy(base=WITH_SETS)
    kill_daemon()
    m.start("scnpm.service")
    m.equal(m.elements_of("listed"), {own: None}, "elements after the crash")


@test
def what_the_kernel_cannot_do_for_a_moment_is_tried_again():
    m.start_with(m.system_rule("t-waits.service"))
    with m.failing("sendto", "ENOMEM") as told:
        cgroup = running("t-waits.service")
        m.eventually(lambda: told.read_text().count("INJECTED") >= 4, "the daemon does not try again")
        m.equal(m.elements(), [], "elements while the kernel is short of memory")
    m.elements_become(cgroup)
    m.is_let_through(cgroup)
    with m.failing("sendto", "ENOMEM", when="1"):
        m.stop("t-waits.service")
        m.says("t-waits.service has to wait", "Cannot allocate memory")
    m.elements_become()
    m.check(all(entry["PRIORITY"] >= "4" for entry in m.entries()), lambda: f"an error is logged:\n{m.log()}")


@test
def reload_that_the_kernel_cannot_do_for_a_moment_is_tried_again():
    old, new = running("t-old.service"), running("t-new.service")
    m.start_with(m.system_rule("t-old.service"))
    m.elements_become(old)
    m.write_policy(m.system_rule("t-new.service"))
    with m.failing("sendmsg", "ENOMEM", when="1..3"):
        m.run("systemctl", "reload", "scnpm.service")
        m.elements_become(new)
    m.is_let_through(new)
    words = "the policy cannot be loaded for now, it will be tried again: Could not process rule: Cannot allocate memory"
    m.equal([(entry["PRIORITY"], entry["MESSAGE"]) for entry in m.entries() if entry["PRIORITY"] <= "4"], [("4", words)], "what is logged")


@test
def load_that_fails_leaves_the_old_policys_units_followed():
    m.start_with(m.selected("system:t-old-*.service"))
    m.elements_become()
    m.write_policy(m.selected("system:t-new-*.service"))
    with m.failing("sendmsg", "ENOMEM"):
        m.run("systemctl", "reload", "scnpm.service", ok=False)
        m.says("Cannot allocate memory")
        first, _ = running("t-old-one.service"), running("t-new-one.service")
        m.elements_become(first)
        m.stop("t-old-one.service")
        m.elements_become()


@test
def listed_ruleset_can_be_loaded_again():
    units = [f"t-{each}.service" for each in ["one", "two", "three"]]
    m.start_with(*[m.system_rule(each) for each in units], m.rule("t-three.service", port=7003))
    cgroups = [running(each) for each in units]
    m.elements_become(*cgroups)
    m.stop("t-two.service")
    m.run("systemctl", "restart", "t-three.service")
    m.elements_become(cgroups[0], cgroups[2])
    m.stop("scnpm.service")
    listing = m.ruleset()
    saved = m.pathlib.Path("/run/saved.nft")
    saved.write_text("flush ruleset\n" + listing)
    m.run("nft", "-f", str(saved))
    m.equal(m.ruleset(), listing, "the ruleset loaded from its listing")


@test
def restart_of_nftables_with_u_brings_the_rules_back():
    cgroup = running("t-again.service")
    m.start_with(m.system_rule("t-again.service"), options=["-u", "nftables.service"])
    for _ in range(5):
        m.run("systemctl", "restart", "nftables.service")
        m.elements_become(cgroup)
        m.is_let_through(cgroup)


@test
def flushed_ruleset_comes_back_without_u():
    cgroup = running("t-flushed.service")
    m.start_with(m.system_rule("t-flushed.service"))
    before = m.skeleton()
    m.run("nft", "flush", "ruleset")
    time.sleep(0.5)
    m.load_base()
    m.elements_become(cgroup)
    m.load_base()
    m.elements_become(cgroup)
    m.is_let_through(cgroup)
    m.eventually(lambda: m.skeleton() == before, lambda: f"not as before:\n{m.ruleset()}")


@test
def deleted_elements_come_back():
    cgroup = running("t-deleted.service")
    m.start_with(m.system_rule("t-deleted.service"))
    m.elements_become(cgroup)
    name = next(line.split()[1] for line in m.ruleset().splitlines() if line.strip().startswith("map scnpm."))
    m.run("nft", "flush", "map", "inet", "filter", name)
    m.elements_become(cgroup)


@test
def what_others_add_to_ours_or_rename_is_put_right():
    cgroup, stranger = running("t-known.service"), running("t-stranger.service")
    m.start_with(m.system_rule("t-known.service"))
    m.elements_become(cgroup)
    before = m.ruleset()
    chain = re.search(r"chain (scnpm\S+)", before)[1]
    verdict = re.search(r"map (scnpm\S+)", before)[1]
    for change in [
        f'add element inet filter {verdict} {{ "{stranger}" : accept }}',
        f"insert rule inet filter {chain} accept",
        f"delete element inet filter {verdict} {{ \"{cgroup}\" }}",
        f"rename chain inet filter {chain} theirs",
        "add set inet filter scnpm.other { type mark; }",
        "flush chain inet filter allowed",
    ]:
        m.run("nft", change)
        m.eventually(lambda: m.ruleset() == before, lambda: f"after {change}:\n{m.ruleset()}")
    m.run("nft", "rename chain inet filter allowed elsewhere")
    m.is_refused(stranger)
    m.run("nft", "rename chain inet filter elsewhere allowed")
    m.eventually(lambda: m.ruleset() == before, lambda: f"after the chain's name came back:\n{m.ruleset()}")
    named = [entry["MESSAGE"] for entry in m.entries() if "changed the ruleset" in entry["MESSAGE"]]
    m.check(len(named) == 1 and named[0].startswith("nft (process "), f"who did it: {named}")


@test
def two_daemons_with_one_policy_do_not_fight_for_ever():
    cgroup = running("t-fought-for.service")
    m.start_with(m.system_rule("t-fought-for.service"))
    m.elements_become(cgroup)
    m.run("systemd-run", "--quiet", "--unit=t-second", m.SCNPM, str(m.CONF))
    m.eventually(
        lambda: any("undoes what is loaded" in m.log(name) for name in ["scnpm.service", "t-second.service"]),
        "nobody says that there is a fight",
    )
    first, began = m.loads(), time.monotonic()
    time.sleep(3)
    m.check(m.loads() - first < 10, f"{m.loads() - first} loads in {time.monotonic() - began:.0f} s")
    m.stop("t-second.service")
    m.elements_become(cgroup)
    m.is_let_through(cgroup)


@test
def tables_that_somebody_owns_are_left_alone():
    old, new = running("t-old.service"), running("t-new.service")
    m.start_with(m.system_rule("t-old.service"))
    m.elements_become(old)
    with subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as owner:
        owner.stdin.write("add table inet theirs { flags owner; }\nadd chain inet theirs scnpm.theirs\n")
        owner.stdin.flush()
        m.eventually(lambda: "scnpm.theirs" in m.ruleset(), "there is no such table")
        m.write_policy(m.system_rule("t-new.service"))
        m.run("systemctl", "reload", "scnpm.service")
        m.elements_become(new)
        m.check("scnpm.theirs" in m.ruleset(), "the owner's chain is gone")
        owner.stdin.close()


@test
def daemon_that_is_killed_or_restarted_leaves_open_what_is_open():
    stranger, known = running("t-stranger.service"), running("t-known.service")
    m.service("t-oneshot.service", "Type=oneshot", "RemainAfterExit=yes", "ExecStart=/bin/true")
    m.reload_units()
    m.start("t-oneshot.service")
    m.start_with(m.rule("t-oneshot.service", port=7003), m.rule("t-known.service", port=7004), m.system_rule("t-known.service"))
    m.is_let_through(stranger, 7003)
    m.is_let_through(stranger, 7004)
    probes = [m.Probe(stranger, 7003), m.Probe(stranger, 7004), m.Probe(known, 7001)]
    for _ in range(5):
        kill_daemon()
        m.start("scnpm.service")
        time.sleep(0.3)
        m.run("systemctl", "restart", "scnpm.service")
        time.sleep(0.3)
        m.run("systemctl", "reload", "scnpm.service")
    m.equal([probe.refusals() for probe in probes], [[], [], []], "refusals meanwhile, in milliseconds")
    m.stop("t-oneshot.service")
    m.is_refused(stranger, 7003)


@test
def reload_of_a_thousand_annotations_refuses_nobody_and_gives_its_memory_back():
    with m.cgroups(1000) as names:
        policies = [[m.system_rule(name, port=port) for name in names] for port in ["7001", "{ 7001, 7002 }"]]
        m.start_with(*policies[0])
        probes = [m.Probe(f"system.slice/{name}", 7001) for name in [names[0], names[-1]]]
        held = []
        for number in range(6):
            m.write_policy(*policies[1 - number % 2])
            m.run("systemctl", "reload", "scnpm.service")
            m.eventually(lambda: m.loads() == number + 2, "not loaded again")
            held.append(m.resident_memory())
        m.equal([probe.refusals() for probe in probes], [[], []], "refusals meanwhile, in milliseconds")
        m.equal(m.log().count("1000 of 1000 elements in the kernel"), 7, "loads of all elements")
        m.check(held[-1] <= held[0] + 1024, f"resident memory after each reload, in kB: {held}")


@test
def unit_that_stops_while_the_daemon_is_dead_is_closed_at_its_start():
    stranger = running("t-stranger.service")
    m.service("t-oneshot.service", "Type=oneshot", "RemainAfterExit=yes", "ExecStart=/bin/true")
    m.reload_units()
    m.start("t-oneshot.service")
    m.start_with(m.rule("t-oneshot.service", port=7003))
    m.is_let_through(stranger, 7003)
    kill_daemon()
    m.stop("t-oneshot.service")
    m.start("scnpm.service")
    m.check(not m.gets_through(stranger, 7003), "the rule holds though its unit has ended")


@test
def state_log_of_a_busy_time_is_decided_the_same_once_more():
    log = m.pathlib.Path("/run/scnpm/state.log")
    first, gate = running("t-first.service"), "t-gate.service"
    m.service(gate, "Type=oneshot", "RemainAfterExit=yes", "ExecStart=/bin/true")
    m.reload_units()
    m.write_policy(m.system_rule("t-first.service"), m.rule(gate, port=7003), m.selected("system:t-other-*.service"))
    m.load_base()
    m.start_daemon("--state-log", str(log))
    for number in range(5):
        m.run("systemctl", "restart", "t-first.service")
        m.start(gate)
        running(f"t-other-{number}.service")
        m.load_base()
        m.stop(gate)
        m.stop(f"t-other-{number}.service")
        m.run("systemctl", "reload", "scnpm.service")
    m.elements_become(first)
    m.equal(log.stat().st_mode & 0o777, 0o600, "the log's mode")
    m.stop("scnpm.service")
    copy = m.pathlib.Path("/tmp/t-state.log")
    copy.write_text(log.read_text())
    shown = m.as_user(m.SCNPM, "replay", str(copy)).stdout
    m.check("today:" not in shown and shown.count("\n") > 50, f"replayed:\n{shown}")


# Changed files


@test
def file_that_is_being_written_is_no_policy():
    first, second = running("t-first.service"), running("t-second.service")
    annotations = [m.system_rule("t-first.service"), m.system_rule("t-second.service")]
    m.start_with(*annotations)
    m.elements_become(first, second)
    whole = m.CONF.read_text()
    for cut in [0, len(whole) // 3, len(whole) - len(annotations[1]), len(whole) - 10] * 3:
        with open(m.CONF, "w") as file:
            file.write(whole[:cut])
            file.flush()
            reload = subprocess.Popen(["systemctl", "reload", "scnpm.service"])
            time.sleep(0.1)
            m.equal(m.elements(), sorted([first, second]), f"elements with {cut} bytes of the file")
            file.write(whole[cut:])
        m.equal(reload.wait(), 0, "systemctl reload")
        m.eventually(lambda: m.show("scnpm.service", "ActiveState") == "active", "the reload does not end")
        m.equal(m.elements(), sorted([first, second]), f"elements after a file of {cut} bytes")


@test
def emptied_file_is_no_policy_and_one_that_says_so_is():
    cgroup = running("t-kept.service")
    m.start_with(m.system_rule("t-kept.service"))
    m.elements_become(cgroup)
    m.CONF.write_text("")
    m.check(m.run("systemctl", "reload", "scnpm.service", ok=False).returncode != 0, "the reload does not fail")
    m.says("the old policy stays", f"{m.CONF} is empty now")
    m.elements_become(cgroup)
    m.CONF.write_text("# nothing to do here\n")
    m.run("systemctl", "reload", "scnpm.service")
    m.elements_become()


@test
def changed_files_are_loaded_unless_they_have_errors():
    first, second = running("t-first.service"), running("t-second.service")
    includes = m.pathlib.Path("/etc/t-included")
    includes.mkdir(exist_ok=True)
    base = m.BASE + f'include "{includes}/*.nft"\n'
    try:
        m.start_with(m.system_rule("t-first.service"), base=base, options=["--watch-config"])
        m.elements_become(first)
        m.write_policy(m.system_rule("t-second.service"), base=base)
        m.elements_become(second)
        (includes / "more.nft").write_text(m.system_rule("t-first.service"))
        m.elements_become(first, second)
        new = m.CONF.with_suffix(".new")
        new.write_text(base)
        new.rename(m.CONF)
        m.elements_become(first)
        for wrong in ["t-second.service :: add rule inet filter", "t-second.service :: add rule inet filter nowhere accept"]:
            m.write_policy(m.system_rule("t-second.service"), f"# {wrong}\n", base=base)
            m.says("the old policy stays")
            time.sleep(0.5)
            m.elements_become(first)
        m.write_policy(m.system_rule("t-second.service"), base=base)
        m.elements_become(first, second)
        loads = m.loads()
        m.CONF.touch()
        time.sleep(0.6)
        m.equal(m.loads(), loads, "loads of files that say the same")
    finally:
        for each in includes.iterdir():
            each.unlink()
        includes.rmdir()


# Sources, each alone


def follows_a_service(source):
    name = "t-followed.service"
    cgroup = f"system.slice/{name}"
    m.start_with(m.system_rule(name), options=["--sources", source])
    for _ in range(3):
        running(name)
        m.elements_become(cgroup)
        m.is_let_through(cgroup)
        m.stop(name)
        m.elements_become()
    m.start(name)
    m.elements_become(cgroup)
    os.kill(int(m.show(name, "MainPID")), signal.SIGTERM)
    m.elements_become()


def follows_a_user_service(source):
    name = "t-followed.service"
    cgroup = f"{m.USER_SLICE}/{name}"
    m.start(f"user@{m.UID}.service")
    m.start_with(m.rule(name, cgroup), options=["--sources", source])
    sleeper(name, where=m.USER_UNITS)
    m.reload_units()
    for _ in range(3):
        m.as_user("systemctl", "--user", "start", name)
        m.elements_become(cgroup)
        m.as_user("systemctl", "--user", "stop", name)
        m.elements_become()


@test
def cgroups_alone_follow_a_service():
    follows_a_service("cgroup")


@test
def cgroups_alone_follow_a_user_service():
    follows_a_user_service("cgroup")


@test
def dbus_alone_follows_a_service():
    follows_a_service("dbus")


@test
def journal_alone_follows_a_service():
    follows_a_service("journal")


@test
def journal_alone_follows_a_user_service():
    follows_a_user_service("journal")


@test
def journal_is_followed_across_rotation():
    name = "t-rotated.service"
    m.start_with(m.system_rule(name), options=["--sources", "journal"])
    cgroup = running(name)
    m.elements_become(cgroup)
    m.run("journalctl", "--rotate")
    m.run("journalctl", "--vacuum-files=1")
    m.stop(name)
    m.elements_become()
    m.start(name)
    m.elements_become(cgroup)


@test
def journal_that_is_opened_late_misses_nothing():
    name = "t-early.service"
    machine = pathlib.Path("/etc/machine-id").read_text().strip()
    directories = [pathlib.Path(root, "log/journal", machine) for root in ("/run", "/var")]
    # Who opens it to read waits for somebody who opens it to write.
    slow = next(directory for directory in directories if directory.is_dir()) / "slow.journal"
    os.mkfifo(slow)
    try:
        m.start_with(m.system_rule(name), options=["--sources", "journal"])
        cgroup = running(name)
        time.sleep(0.5)
        m.elements_become()
        os.close(os.open(slow, os.O_WRONLY | os.O_NONBLOCK))
    finally:
        slow.unlink()
    m.elements_become(cgroup)


@test
def daemon_survives_a_restart_of_dbus():
    name = "t-bus.service"
    stranger = running("t-stranger.service")
    m.start_with(m.system_rule(name), m.rule("t-gate.service", port=7003))
    m.eventually(is_on_the_bus, "scnpm is not on the bus")
    pid = m.daemon_pid()
    m.stop_dbus()
    try:
        cgroup = running(name)
        m.elements_become(cgroup)
        m.stop(name)
        m.elements_become()
    finally:
        m.start_dbus()
    m.eventually(is_on_the_bus, "scnpm is not on the bus again", 60)
    m.service("t-gate.service", "Type=oneshot", "RemainAfterExit=yes", "ExecStart=/bin/true")
    m.reload_units()
    m.start("t-gate.service")
    m.is_let_through(stranger, 7003)
    m.equal(m.daemon_pid(), pid, "the daemon's PID")


@test
def daemon_started_without_dbus_connects_when_it_comes():
    name = "t-bus.service"
    m.stop_dbus()
    try:
        m.start_with(m.system_rule(name), options=["--sources", "dbus"])
    finally:
        m.start_dbus()
    m.eventually(is_on_the_bus, "scnpm is not on the bus", 60)
    cgroup = running(name)
    m.elements_become(cgroup)


# The daemon as a service and as a program


@test
def clean_removes_what_is_ours_and_nothing_else():
    cgroup = running("t-clean.service")
    m.write_policy(m.system_rule("t-clean.service"), m.rule("t-clean.service", port=7003))
    m.load_base()
    m.run("nft", "add table inet other { chain c { tcp dport 7001 counter; } ; set s { type cgroupsv2; } ; }")
    m.run("nft", f'add element inet other s {{ "{cgroup}" }}')
    before = m.run("nft", "--stateless", "list", "ruleset").stdout
    m.start_daemon()
    m.elements_become(cgroup)
    m.stop("scnpm.service")
    m.check("scnpm." in m.ruleset(), "nothing of ours is in the ruleset")
    m.run("timeout", "20", m.SCNPM, "--clean", str(m.CONF))
    m.equal(m.run("nft", "--stateless", "list", "ruleset").stdout, before, "the ruleset after --clean")


@test
def clean_goes_on_when_somebody_else_is_in_the_way_for_a_moment():
    m.start_with(m.system_rule("t-clean.service"))
    m.stop("scnpm.service")
    chains = [line.split()[1] for line in m.ruleset().splitlines() if line.strip().startswith("chain scnpm.")]
    waits_for(chains[0], 0.3, m.SCNPM, "--clean", str(m.CONF))
    m.check("scnpm." not in m.ruleset(), m.ruleset)


@test
def daemon_whose_user_is_not_installed_follows_cgroups():
    m.stop("scnpm.service")
    m.run("userdel", "scnpm")
    try:
        m.start_with(m.system_rule("t-dynamic.service"))
        cgroup = running("t-dynamic.service")
        m.elements_become(cgroup)
    finally:
        m.stop("scnpm.service")
        m.run("systemd-sysusers", "scnpm.conf")


@test
def terminated_daemon_leaves_the_rules():
    cgroup = running("t-term.service")
    m.start_with(m.system_rule("t-term.service"))
    m.elements_become(cgroup)
    before = m.ruleset()
    m.stop("scnpm.service")
    m.equal(m.show("scnpm.service", "Result"), "success", "the result of stopping")
    m.equal(m.ruleset(), before, "the ruleset after the daemon's end")
    m.check(m.gets_through(cgroup), "the unit is refused")


@test
def service_manager_is_told_of_the_state():
    m.start_with(m.system_rule("t-state.service"))
    m.equal(m.show("scnpm.service", "NotifyAccess"), "main", "NotifyAccess")
    m.equal(m.show("scnpm.service", "ActiveState"), "active", "ActiveState")
    m.check(m.show("scnpm.service", "StatusText"), "there is no status text")


@test
def quiet_when_all_is_well():
    cgroup = running("t-quiet.service")
    m.start_with(m.system_rule("t-quiet.service"))
    m.elements_become(cgroup)
    m.stop("t-quiet.service")
    m.elements_become()
    m.linted()
    said = [entry["MESSAGE"] for entry in m.entries() if entry["_PID"] == str(m.daemon_pid())]
    m.check(len(said) <= 1, f"more than one line: {said}")


@test
def journald_that_hangs_holds_up_nobody():
    m.start_with(m.system_rule("t-again.service"), options=["--debug"])
    cgroup = m.CGROUPS / "system.slice/t-again.service"
    journald = int(m.show("systemd-journald.service", "MainPID"))
    os.kill(journald, signal.SIGSTOP)
    try:
        for _ in range(1000):
            cgroup.mkdir()
            cgroup.rmdir()
        cgroup.mkdir()
        m.is_let_through("system.slice/t-again.service")
    finally:
        os.kill(journald, signal.SIGCONT)
        cgroup.rmdir()
    m.elements_become()
    m.run("systemctl", "reload", "scnpm.service")
    m.says("lines are missing here: the journal did not take them")


@test
def journal_entries_have_fields():
    name = "t-fields.service"
    m.start_with(m.system_rule(name), options=["--debug"])
    cgroup = running(name)
    m.elements_become(cgroup)
    number = next(i for i, line in enumerate(m.CONF.read_text().splitlines(), 1) if name in line)
    wanted = {"UNIT": name, "CGROUP": cgroup, "RULE_FILE": str(m.CONF), "RULE_LINE": str(number)}
    wanted["CGROUP_ID"] = str(os.stat(m.CGROUPS / cgroup).st_ino)

    def logged():
        return any(all(entry.get(key) == value for key, value in wanted.items()) for entry in m.entries())

    m.eventually(logged, lambda: f"no entry with {wanted}; the last one: {m.entries()[-1:]}")


@test
def policy_without_annotations_is_a_warning_and_can_be_reloaded():
    cgroup = running("t-later.service")
    m.start_with()
    m.check(any(entry.get("PRIORITY") == "4" for entry in m.entries()), lambda: f"no warning:\n{m.log()}")
    m.write_policy(m.system_rule("t-later.service"))
    m.run("systemctl", "reload", "scnpm.service")
    m.elements_become(cgroup)


@test
def host_name_that_does_not_resolve_is_reported_and_tried_again():
    cgroup, other = running("t-named.service"), running("t-plain.service")
    m.start_with(
        m.system_rule("t-named.service", matches="ip daddr mail.intranet.test"), m.system_rule("t-plain.service")
    )
    m.says("mail.intranet.test")
    m.is_let_through(other)
    m.check(not m.gets_through(cgroup), "a rule matches whose host name is not known")
    skeleton, loads = m.skeleton(), m.loads()
    with m.known_hosts("mail.intranet.test"):
        m.eventually(lambda: m.gets_through(cgroup), lambda: f"still refused:\n{m.log()}", 120)
    m.equal(m.skeleton(), skeleton, "the ruleset without elements")
    m.equal(m.loads(), loads, "loads")


@test
def changed_address_of_a_host_name_changes_elements_and_nothing_else():
    cgroup, other = running("t-named.service"), running("t-listed.service")
    with m.known_hosts("mail.intranet.test"):
        m.start_with(
            m.system_rule("t-named.service", matches="ip daddr mail.intranet.test"),
            m.system_rule("t-listed.service", matches="ip daddr { mail.intranet.test, 192.0.2.0/24 }"),
        )
        m.is_let_through(cgroup)
        m.is_let_through(other)
    skeleton, loads = m.skeleton(), m.loads()
    with m.known_hosts("mail.intranet.test", address="127.0.0.2"):
        m.run("systemctl", "reload", "scnpm.service")
        m.is_refused(cgroup)
        m.is_refused(other)
        m.eventually(lambda: "127.0.0.2" in m.ruleset(), lambda: f"no such address:\n{m.ruleset()}")
    m.run("systemctl", "reload", "scnpm.service")
    time.sleep(1)
    m.check("127.0.0.2" in m.ruleset(), "an address went with a look-up that failed")
    m.equal(m.skeleton(), skeleton, "the ruleset without elements")
    m.equal(m.loads(), loads + 2, "loads: one for each reload and none for an address")


@test
def name_servers_are_asked_although_the_daemon_may_not_use_the_network():
    cgroup = running("t-named.service")
    policy = [m.system_rule("t-named.service", matches="ip daddr host.scnpm.test")]
    m.start_with(*policy)
    m.says("host.scnpm.test")
    with m.NameServer("scnpm.test"):
        m.run("systemctl", "stop", "scnpm-names.service")
        m.run("systemctl", "reload", "scnpm.service")
        m.is_let_through(cgroup)
    m.start_daemon()
    m.run("systemctl", "stop", "scnpm-names.socket", "scnpm-names.service")
    m.run("systemctl", "reload", "scnpm.service")
    m.says("scnpm-names.socket does not answer")
    m.run("systemctl", "start", "scnpm-names.socket")
    with m.NameServer("scnpm.test"):
        m.run("systemctl", "reload", "scnpm.service")
        m.is_let_through(cgroup)


@test
def directory_of_users_that_hangs_delays_no_load():
    plain, of_user = running("t-plain.service"), scope_of("t-mail.service")
    sleeper("t-mail.service", where=m.USER_UNITS)
    m.reload_units()
    m.as_user("systemctl", "--user", "start", "t-mail.service")
    m.write_policy(m.system_rule("t-plain.service"), m.selected(f"{m.USER}:t-mail.service"))
    m.load_base()
    with m.directory_that_hangs() as questions:
        m.start_daemon()
        m.check(any(m.waits_for_an_answer(question) for question in questions), "the load waited for the answer")
        m.elements_become(plain)
    m.elements_become(plain, of_user)


@test
def rule_that_must_not_match_a_host_name_waits_for_its_address():
    cgroup = running("t-negated.service")
    m.start_with(m.system_rule("t-negated.service", matches="ip daddr != mail.intranet.test"))
    m.says("mail.intranet.test")
    m.check(not m.gets_through(cgroup), "`!=` to nothing lets everything through")
    with m.known_hosts("mail.intranet.test", address="127.0.0.2"):
        m.eventually(lambda: m.gets_through(cgroup), lambda: f"still refused:\n{m.log()}", 120)


@test
def examples_load_at_boot_and_have_no_errors():
    with m.known_hosts("mail.intranet.local", "payments.example.com"):
        examples = sorted(m.EXAMPLES.glob("*.conf"))
        m.check(len(examples) >= 3, f"only these examples: {examples}")
        for example in examples:
            m.start_with(base=example.read_text().replace("alice:", f"{m.USER}:"))
            m.run(m.SCNPM, "check", str(example))
            m.linted()
            serious = [entry["MESSAGE"] for entry in m.entries() if int(entry["PRIORITY"]) <= 4]
            # They are for machines with other units, and with systemd-resolved. Two have host names, to show that it can be done.
            expected = ["[W003]", "[W013]", "[W023]", "[W039]", "names fill no set for now"]
            serious = [message for message in serious if not any(code in message for code in expected)]
            m.equal(serious, [], f"errors and warnings of {example.name}")


def refuses_to_start(*command, words):
    done = m.run("timeout", "20", *command, ok=False)
    m.equal(done.returncode, 6, f"exit status (it says: {done.stderr.strip()})")
    for word in words:
        m.check(word in done.stderr, f"no {word!r} in: {done.stderr.strip()}")
    m.check(len(done.stderr.strip().splitlines()) <= 3, f"too many words: {done.stderr.strip()}")


@test
def missing_file_is_named():
    refuses_to_start(m.SCNPM, "/etc/no-such.conf", words=["/etc/no-such.conf"])


@test
def mistake_of_configuration_is_not_tried_for_ever():
    m.write_policy(m.system_rule("t-x.service"))
    m.configure_daemon("/etc/no-such.conf")
    m.run("systemctl", "start", "scnpm.service", ok=False)
    time.sleep(2)
    m.equal((m.show("scnpm.service", "ActiveState"), m.show("scnpm.service", "NRestarts")), ("failed", "0"), "state, restarts")
    m.says("/etc/no-such.conf")


@test
def missing_capability_is_named():
    m.write_policy(m.system_rule("t-x.service"))
    refuses_to_start(
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
        m.SCNPM, str(m.CONF), words=["CAP_NET_ADMIN"],
    )  # fmt: skip


@test
def missing_libnftables_is_named():
    m.write_policy(m.system_rule("t-x.service"))
    library = next(m.pathlib.Path("/usr/lib").glob("*/libnftables.so.1")).resolve()
    refuses_to_start(
        "unshare", "--mount", "sh", "-c", f"mount --bind /dev/null {library} && exec {m.SCNPM} {m.CONF}",
        words=["libnftables"],
    )  # fmt: skip


@test
def unit_file_is_valid_and_tight():
    units = ["scnpm.service", "scnpm-names.service", "scnpm-names.socket", "scnpm-answers.service", "scnpm-answers.socket"]
    verified = m.run("systemd-analyze", "verify", "--man=no", *units, ok=False)
    m.equal((verified.returncode, verified.stderr), (0, ""), "systemd-analyze verify")
    # Exposure in tenths of what systemd-analyze prints, where 10.0 is the worst: docs/threat-model.md says what is left.
    exposure = m.run("systemd-analyze", "security", "--no-pager", "--threshold=11", "scnpm.service", ok=False)
    m.equal(exposure.returncode, 0, f"systemd-analyze security: {exposure.stdout}")


# scnpm check, and what the daemon says of the same

# Port 7011 is for a service's clients.
SERVING = m.BASE.replace(
    "    chain output {",
    """    chain served { }
    chain input {
        type filter hook input priority filter; policy accept;
        ct state established,related accept
        tcp dport 7011 jump served
        tcp dport 7011 reject with tcp reset
    }
    chain output {""",
)
MISSPELT = m.system_rule("t-misspelt.service", matches="tcp dprot 7001")


def refusing(name):
    return f'# {name} :: add rule inet filter allowed socket cgroupv2 level 2 "system.slice/{name}" drop\n'


def with_level(level, name):
    return m.system_rule(name).replace("level 2", f"level {level}")


def listener(name):
    """A socket unit, and the service that it is for."""
    sleeper(f"{name}.service")
    m.unit(f"{name}.socket", "[Socket]\nListenStream=127.0.0.1:7011\n[Install]\nWantedBy=sockets.target\n")


@test
def daemon_says_what_the_lints_find_at_start_and_reload():
    for name in ["t-level.service", "t-refused.service", "t-new.service", "t-good.service"]:
        sleeper(name)
    m.reload_units()
    m.start_with(
        with_level(3, "t-level.service"), refusing("t-refused.service"), m.system_rule("t-nobody.service"),
        m.system_rule("t-good.service"),
    )  # fmt: skip
    m.linted()
    m.equal(
        m.findings(),
        [("t-level.service", "W001"), ("t-refused.service", "W006"), ("t-nobody.service", "W003")],
        "findings at the start",
    )
    m.check(all(entry["PRIORITY"] != "3" for entry in m.entries()), "a warning is logged as an error")
    m.write_policy(with_level(1, "t-new.service"), m.system_rule("t-good.service"))
    m.run("systemctl", "reload", "scnpm.service")
    m.says("W001", "level 1")
    m.linted()
    m.equal(m.findings()[3:], [("t-new.service", "W001")], "findings at the reload")


@test
def daemon_says_nothing_of_what_a_comment_allows():
    for name in ["t-level.service", "t-refused.service"]:
        sleeper(name)
    m.reload_units()
    m.start_with(
        "# scnpm: allow(W001)\n", with_level(3, "t-level.service"),
        "# scnpm: allow(W006)\n", refusing("t-refused.service"),
        "# scnpm: allow(W003)\n", m.system_rule("t-nobody.service"),
    )  # fmt: skip
    m.linted()
    m.equal(m.findings(), [], "findings")


@test
def daemon_knows_of_sockets_and_slices():
    sleeper("t-sliced.service", "Slice=t-b-c.slice")
    listener("t-web")
    m.reload_units()
    m.start("t-sliced.service")
    m.run("systemctl", "enable", "--quiet", "--runtime", "t-web.socket")
    m.start_with(
        m.system_rule("t-sliced.service"), m.system_rule("t-web.service", port=7011).replace(" allowed ", " served "),
        base=SERVING,
    )  # fmt: skip
    m.linted()
    m.equal(m.findings(), [("t-sliced.service", "W002"), ("t-web.service", "W012")], "findings")


def checked_by_anybody(*annotations, base=m.BASE):
    """What root is told of the policy; the ordinary user is told the same."""
    m.write_policy(*annotations, base=base)
    report = m.checked()
    m.equal(m.checked(by=m.as_user), report, "what the user is told, and not root")
    return report


@test
def daemon_says_what_check_says_in_the_same_words_and_once():
    sleeper("t-good.service")
    m.reload_units()
    # In a table of its own: when a hook is wrong, the kernel may refuse whatever is in the same table.
    forwarding = """table inet routed {
    chain forwarded { }
    chain forward {
        type filter hook forward priority filter; policy accept;
        jump forwarded
    }
}
"""
    m.start_with(
        m.system_rule("t-good.service").replace(" filter allowed ", " routed forwarded "),
        with_level(3, "t-good.service"),
        "# t-nobody:t-*.service :: add rule inet filter allowed socket cgroupv2 unit accept\n",
        m.system_rule("t-good.service", matches="ip daddr no-such-host.invalid"),
        "# t.service :: ad rule inet filter allowed\n",
        base=m.BASE + forwarding,
    )
    m.says("W023", "no-such-host.invalid")
    m.linted()
    found = m.checked()["findings"]
    expected = [
        f"{it['file']}:{it['line']}:{it['column']}: {it['severity']}[{it['code']}]: {it['message']}"
        + (f"\nhelp: {it['help']}" if it["help"] else "")
        for it in found
    ]
    said = [entry["MESSAGE"] for entry in m.entries() if entry.get("MESSAGE", "").startswith(f"{m.CONF}:")]
    # Before the resolver has answered, the lint warns of the host name.
    said = [message for message in said if "[W013]" not in message]
    m.equal(sorted(said), sorted(expected), "what the daemon says")
    m.equal(sorted(it["code"] for it in found), ["E021", "W001", "W004", "W023", "W026"], "the codes")
    explanation = next(it["help"] for it in found if it["code"] == "E021")
    m.check("only reached from forward" in explanation, explanation)


@test
def check_knows_where_units_run():
    cgroup = "t.slice/t-b.slice/t-b-c.slice/t-sliced.service"
    sleeper("t-sliced.service", "Slice=t-b-c.slice")
    sleeper("t-idle.service")
    m.reload_units()
    m.start("t-sliced.service")
    report = checked_by_anybody(m.rule("t-sliced.service", cgroup), m.system_rule("t-idle.service"))
    m.equal(report["findings"], [], "findings of the right path")
    m.equal([unit["runs"] for unit in report["units"]], [True, False], "what runs")
    table = m.run(m.SCNPM, "check", str(m.CONF)).stdout
    for row in [["t-sliced.service", "inet", "filter", "allowed", "4", "yes", "1"], ["t-idle.service"]]:
        m.check(any(line.split()[:len(row)] == row for line in table.splitlines()), f"no {row} in\n{table}")
    report = checked_by_anybody(m.system_rule("t-sliced.service"))
    m.equal(m.codes(report), ["W002"], "findings of the wrong path")
    m.check(cgroup in report["findings"][0]["fix"]["text"], f"another path: {report}")
    # The unit file says so, too.
    m.stop("t-sliced.service")
    report = checked_by_anybody(m.system_rule("t-sliced.service"))
    m.equal(m.codes(report), ["W002"], "findings while the unit is stopped")
    m.check(cgroup in report["findings"][0]["fix"]["text"], f"another path: {report}")


@test
def check_finds_a_transient_unit():
    m.run("systemd-run", "--quiet", "--unit=t-transient.service", "--slice=t-b.slice", "/bin/sleep", "infinity")
    report = checked_by_anybody(m.rule("t-transient.service", "t.slice/t-b.slice/t-transient.service"))
    m.equal((report["findings"], report["units"][0]["runs"]), ([], True), "the transient unit")
    report = checked_by_anybody(m.system_rule("t-transient.service"))
    m.equal(m.codes(report), ["W002"], "findings of the wrong path")


@test
def check_finds_units_of_a_users_manager():
    name = "t-mine.service"
    sleeper(name, where=m.USER_UNITS)
    m.start(f"user@{m.UID}.service")
    m.reload_units()
    m.as_user("systemctl", "--user", "start", name)
    report = checked_by_anybody(m.rule(name, f"{m.USER_SLICE}/{name}"))
    m.equal((report["findings"], report["units"][0]["runs"]), ([], True), "the user's unit")


@test
def unit_in_a_users_home_is_known():
    name = "t-homed.service"
    home = m.pathlib.Path(f"/home/{m.USER}/.config/systemd/user")
    sleeper(name, where=home)
    try:
        m.equal(checked_by_anybody(m.rule(name, f"{m.USER_SLICE}/{name}"))["findings"], [], "findings")
        m.load_base()
        m.start_daemon()
        m.linted()
        m.equal(m.findings(), [], "the daemon's findings")
    finally:
        (home / name).unlink()


@test
def check_names_the_unit_that_is_meant():
    sleeper("t-postfix.service")
    m.reload_units()
    report = checked_by_anybody(m.system_rule("t-postfx.service"))
    m.equal(m.codes(report), ["W003"], "findings")
    m.equal(report["findings"][0]["help"], "did you mean `t-postfix.service`?", "help")


@test
def check_knows_aliases():
    sleeper("t-real.service", "[Install]", "Alias=t-other.service")
    m.reload_units()
    m.run("systemctl", "enable", "--quiet", "--runtime", "t-real.service")
    m.start("t-other.service")
    report = checked_by_anybody(m.system_rule("t-other.service"))
    m.equal(m.codes(report), ["W002"], "findings")
    m.equal(report["findings"][0]["fix"]["text"], "system.slice/t-real.service", "the right path")
    m.check(report["units"][0]["runs"], "the alias does not run")
    report = checked_by_anybody(m.rule("t-other.service", "system.slice/t-real.service"))
    m.equal((report["findings"], report["units"][0]["runs"]), ([], True), "the alias with its unit's path")


@test
def check_tells_of_plain_rules_for_cgroups_that_come_and_go():
    plain = 'add rule inet filter output socket cgroupv2 level 2 "system.slice/t-plain.service" accept\n'
    running("t-plain.service")
    m.equal(m.codes(checked_by_anybody(base=m.BASE + plain)), ["W021"], "findings while it runs")
    m.stop("t-plain.service")
    m.equal(m.codes(checked_by_anybody(base=m.BASE + plain)), ["E011"], "findings while it is stopped")
    m.check(m.run("nft", "-c", "-f", str(m.CONF), ok=False).returncode != 0, "nft takes it")


@test
def check_knows_which_socket_units_listen():
    listener("t-web")
    m.reload_units()
    annotation = m.system_rule("t-web.service", port=7011).replace(" allowed ", " served ")

    def found():
        return m.codes(checked_by_anybody(annotation, base=SERVING))

    m.equal(found(), [], "findings while the socket is unused")
    m.run("systemctl", "enable", "--quiet", "--runtime", "t-web.socket")
    m.equal(found(), ["W012"], "findings while the socket is enabled")


@test
def check_needs_no_hosts_file():
    hosts = m.pathlib.Path("/etc/hosts")
    text = hosts.read_text() if hosts.exists() else None
    hosts.unlink(missing_ok=True)
    try:
        sleeper("t-good.service")
        m.equal(checked_by_anybody(m.system_rule("t-good.service"))["findings"], [], "findings")
    finally:
        if text is not None:
            hosts.write_text(text)


@test
def check_changes_nothing():
    name = "t-held.service"
    cgroup = running(name)
    m.start_with(m.system_rule(name), options=["--debug"])
    m.elements_become(cgroup)
    m.eventually(is_on_the_bus, "scnpm is not on the bus")
    m.linted()
    before, said = m.run("nft", "--handle", "list", "ruleset").stdout, m.log()
    # The daemon has read another file than is checked here.
    checked_by_anybody(m.system_rule(name, port=7002), m.system_rule("t-nobody.service"), MISSPELT)
    time.sleep(0.5)
    m.equal(m.run("nft", "--handle", "list", "ruleset").stdout, before, "the ruleset")
    m.equal(m.log(), said, "what the daemon says")
    m.check(not (m.CGROUPS / "system.slice/t-nobody.service").exists(), "a cgroup was made")
    m.equal(m.elements(), [cgroup], "elements")
    m.check(m.gets_through(cgroup), "the unit is refused")


# examples/systemd


def reload_is_refused(code):
    before = m.ruleset()
    done = m.run("systemctl", "reload", "nftables.service", ok=False)
    m.check(done.returncode != 0, "the reload is not refused")
    m.equal(m.ruleset(), before, "the ruleset after the reload")
    m.check(m.active("nftables.service"), "nftables.service is not active after the reload")
    m.says(f"{m.CONF}:", f"error[{code}]: ", name="nftables.service")


@test
def nftables_that_is_checked_before_starts_and_reloads():
    running("t-good.service")
    m.write_policy(m.system_rule("t-good.service"))
    m.drop_in_of_examples("nftables.service", "scnpm-check.conf")
    m.run("systemctl", "restart", "nftables.service")
    m.check("chain allowed" in m.ruleset(), "the base is not loaded at the start")
    m.write_policy(m.system_rule("t-good.service"), base=SERVING)
    m.run("systemctl", "reload", "nftables.service")
    m.check("chain served" in m.ruleset(), "the base is not loaded at the reload")
    m.equal(m.findings("nftables.service"), [], "findings")


@test
def nftables_that_is_checked_before_does_not_reload_what_is_wrong():
    running("t-good.service")
    m.write_policy(m.system_rule("t-good.service"))
    m.drop_in_of_examples("nftables.service", "scnpm-check.conf")
    m.run("systemctl", "restart", "nftables.service")
    m.write_policy(m.system_rule("t-good.service"), base=SERVING.replace("policy accept", "policy acept", 1))
    reload_is_refused("E010")
    # nft alone would take this.
    m.write_policy(m.system_rule("t-good.service"), MISSPELT, base=SERVING)
    reload_is_refused("E020")


@test
def nftables_that_is_checked_before_starts_with_an_error_in_an_annotation():
    running("t-good.service")
    m.drop_in_of_examples("nftables.service", "scnpm-check.conf")
    m.write_policy(m.system_rule("t-good.service"), MISSPELT)
    m.run("systemctl", "restart", "nftables.service")
    m.check("chain allowed" in m.ruleset(), "the base is not loaded")
    m.says(f"{m.CONF}:", "error[E020]: ", name="nftables.service")


@test
def daemon_that_is_checked_before_starts_with_right_annotations_only():
    running("t-good.service")
    m.write_policy(m.system_rule("t-good.service"))
    m.load_base()
    m.configure_daemon(more="Restart=no\n")
    m.drop_in_of_examples("scnpm.service", "check.conf")
    m.start("scnpm.service")
    m.elements_become("system.slice/t-good.service")
    m.stop("scnpm.service")
    m.write_policy(m.system_rule("t-good.service"), MISSPELT)
    m.check(m.run("systemctl", "start", "scnpm.service", ok=False).returncode != 0, "it starts")
    m.equal(m.show("scnpm.service", "ActiveState"), "failed", "ActiveState")
    m.says(f"{m.CONF}:", "error[E020]: ")


# After all that need users' managers, since these end D-Bus.
TESTS.extend(control.TESTS)


def part_of(tests, words):
    """The share of the tests that a word like `2/3` stands for, or all; and the other words."""
    part = next((word for word in words if re.fullmatch(r"[1-9]/[1-9]", word)), "1/1")
    number, parts = map(int, part.split("/"))
    return tests[number - 1 :: parts], [word for word in words if word != part]


def main(words):
    # The first ones look at one and the same boot.
    boot = TESTS[:4]
    others, chosen = part_of(TESTS[4:], words)
    passed, failed = m.run_tests(boot, chosen, clean_up=lambda: None)
    m.stop("t-boot-listener.socket", "t-boot-listener.service")
    m.reset()
    m.Listeners(range(7001, 7010))
    more = m.run_tests(others, chosen)
    passed, failed = passed + more[0], failed + more[1]
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
