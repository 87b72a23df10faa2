"""The recipes of docs/quotas.md: what is let through, over restarts of units and of scnpm, and what begins anew when."""

import json
import re
import signal
import subprocess
import time

import machine as m
import recipe

PAGE = "quotas.md"
TESTS = []
MEGABYTE = 1024 * 1024
TOLERANCE = 0.02

# Sends datagrams until so many bytes or seconds are over, and at an end in time until one is refused; prints the bytes that were let
# through, headers included, and the time.
SENDER = """
import socket, sys, time
most, longest, size = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
data, tried, passed = bytes(size - 28), 0, 0
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
    began, is_refused = time.monotonic(), False
    while tried < most and not (is_refused and time.monotonic() - began > longest):
        tried += size
        try:
            each.sendto(data, ("127.0.0.1", 7099))
            passed, is_refused = passed + size, False
        except PermissionError:
            is_refused = True
    print(passed, time.monotonic() - began)
"""


def test(function):
    TESTS.append(function)
    return function


def policy_of(heading, number=0):
    """The file in a section of the page, with the tests' user."""
    return recipe.blocks(PAGE, heading)[number].replace("alice", m.USER)


def start(text):
    m.CONF.write_text("flush ruleset\n" + text)
    m.load_base()
    m.start_daemon()
    m.equal(m.codes(m.checked()), [], "what check finds on the page")


def sender(app, most=50 * MEGABYTE, longest=60, size=60000, uid=m.UID):
    """A start of an application that sends once its rules are in force."""
    name = m.USER if uid == m.UID else m.OTHER
    environment = {"XDG_RUNTIME_DIR": f"/run/user/{uid}", "PATH": "/usr/bin:/bin", "HOME": f"/home/{name}"}
    words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups", m.SCNPM, "run", "--wait", "--app", app, "--"]
    return subprocess.Popen([*words, "python3", "-c", SENDER, str(most), str(longest), str(size)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    output, errors = process.communicate(timeout=120)
    m.check(process.returncode == 0, errors)
    passed, seconds = output.split()
    return int(passed), float(seconds)


def sent(app, **options):
    """What a start of an application gets through, in bytes."""
    return ended(sender(app, **options))[0]


def within_tolerance(found, expected, what):
    off = found / expected - 1
    m.check(abs(off) < TOLERANCE, f"{what}: {found} instead of {expected} bytes ({off:+.1%})")
    return f"{off:+.2%}"


def restart_daemon(number):
    """In the ways in which it goes and comes."""
    if number % 3 == 2:
        m.run("systemctl", "kill", "--signal=KILL", "scnpm.service")
        m.eventually(lambda: not m.active("scnpm.service") or m.daemon_pid() > 0, "systemd does not start it again")
    m.run("systemctl", "restart", "scnpm.service")


def other_annotation(number):
    with m.CONF.open("a") as file:
        file.write(f'# t-other.service :: add rule inet filter quotas socket cgroupv2 level 2 "system.slice/t-other.service" tcp dport {number} drop\n')
    m.run("systemctl", "reload", "scnpm.service")


@test
def quota_is_kept_over_restarts_of_the_unit_and_of_scnpm():
    start(policy_of("What shares a quota"))
    passed = 0
    for number in range(10):
        passed += sent("backup")
        restart_daemon(number)
    other_annotation(5)
    passed += sent("backup")
    m.equal(sent("backup") < MEGABYTE, True, "nothing passes when it is used up")
    off = within_tolerance(passed, 500 * MEGABYTE, "quota of 500 mbytes")
    recipe.figure("quota of 500 mbytes over 10 restarts and a reload", off)
    m.equal(sent("other") , 50 * MEGABYTE // 60000 * 60000 + 60000, "another application's")


@test
def quota_begins_anew_when_its_annotation_is_edited_and_not_when_its_amount_is():
    start(policy_of("What shares a quota").replace("500", "40"))
    within_tolerance(sent("backup", most=30 * MEGABYTE), 30 * MEGABYTE, "before")
    text = m.CONF.read_text()
    m.CONF.write_text(text.replace("over 40", "over 60"))
    m.run("systemctl", "reload", "scnpm.service")
    within_tolerance(sent("backup"), 30 * MEGABYTE, "with a larger amount")
    m.CONF.write_text(text.replace("unit quota", "unit meta l4proto udp quota"))
    m.run("systemctl", "reload", "scnpm.service")
    within_tolerance(sent("backup"), 40 * MEGABYTE, "with another match")
    m.run("nft", "-f", str(m.CONF))
    m.eventually(lambda: "scnpm.quota." in m.ruleset(), "the rule does not come back")
    within_tolerance(sent("backup"), 40 * MEGABYTE, "after nft -f")
    m.CONF.write_text(re.sub("#.*", "", text))
    m.run("systemctl", "reload", "scnpm.service")
    m.check("scnpm.quota." not in m.ruleset(), "the quota outlives its annotation")


@test
def quota_of_both_directions_has_a_name():
    start(policy_of("What shares a quota", 1).replace("500", "30"))
    passed = sent("backup")
    restart_daemon(0)
    passed += sent("backup")
    within_tolerance(passed, 30 * MEGABYTE, "nobody listens, so nothing comes in")


@test
def quota_of_a_day_is_set_back_by_the_timer():
    file, service, timer, enable, used = recipe.blocks(PAGE, "A quota for each day")
    start(file.replace("alice", m.USER).replace("500", "30"))
    m.unit("quota-daily.service", service)
    m.unit("quota-daily.timer", timer)
    m.reload_units()
    try:
        m.run("sh", "-c", enable.removeprefix("# ").replace("enable", "enable --runtime"))
        within_tolerance(sent("backup"), 30 * MEGABYTE, "on the first day")
        m.check("used" in m.run("sh", "-c", used.removeprefix("# ")).stdout, "nothing is used")
        m.check(sent("backup") < MEGABYTE, "the quota is not used up")
        m.start("quota-daily.service")
        restart_daemon(0)
        within_tolerance(sent("backup"), 30 * MEGABYTE, "on the next day")
    finally:
        m.run("systemctl", "disable", "--now", "--runtime", "quota-daily.timer", ok=False)
        for name in ["quota-daily.service", "quota-daily.timer"]:
            (m.UNITS / name).unlink()


@test
def rate_is_kept_over_restarts_of_scnpm():
    # So much may come at once that nothing is lost if the sender does not run for a while, on a busy machine.
    start(policy_of("Rates").replace("burst 1 ", "burst 6 "))
    process = sender("backup", most=1 << 50, longest=12, size=9000)
    time.sleep(1)
    for number in range(10):
        restart_daemon(0)
        time.sleep(0.3)
    other_annotation(5)
    passed, seconds = ended(process)
    off = within_tolerance(passed, int((2 * seconds + 2 + 6) * MEGABYTE), "rate of 2 mbytes/second")
    recipe.figure("rate of 2 mbytes/second over 10 restarts and a reload", off)


@test
def each_start_and_each_user_has_a_quota():
    start(policy_of("One for each instance, or for each user").replace("100", "20"))
    for number in range(2):
        within_tolerance(sent("backup"), 20 * MEGABYTE, f"start {number}")
    within_tolerance(sent("sync"), 20 * MEGABYTE, "one user")
    restart_daemon(0)
    m.check(sent("sync") < MEGABYTE, "the user's quota is not used up")
    within_tolerance(sent("sync", uid=m.OTHER_UID), 20 * MEGABYTE, "another user")


@test
def new_connections_have_a_rate():
    start(policy_of("Up to an amount"))
    m.Listeners([7001])
    connects = "import socket\nprint(sum(socket.socket().connect_ex(('127.0.0.1', 7001)) == 0 for _ in range(15)))"
    for expected in [10, 0]:
        done = m.as_user(m.SCNPM, "run", "--wait", "--app", "crawler", "--", "python3", "-c", connects)
        m.check(int(done.stdout) - expected in (0, 1), f"{done.stdout.strip()} connections of 15, {expected} expected")
        restart_daemon(0)


@test
def named_counter_is_the_users_own():
    start(
        "table inet filter {\ncounter mine { }\nchain quotas { }\nchain output { type filter hook output priority 0; jump quotas; }\n}\n"
        + f"# {m.USER}:app:backup :: add rule inet filter quotas socket cgroupv2 unit counter name \"mine\"\n"
    )
    passed = 0
    for number in range(3):
        passed += sent("backup", most=MEGABYTE)
        restart_daemon(number)
    listed = json.loads(m.run("nft", "-j", "list", "counters").stdout)["nftables"]
    counted = [entry["counter"]["bytes"] for entry in listed if entry.get("counter", {}).get("name") == "mine"]
    m.equal(counted, [passed], "bytes of a counter with a name")


if __name__ == "__main__":
    m.run("loginctl", "enable-linger", m.OTHER)
    recipe.main(TESTS)
