"""Measurements that need a booted machine.

    measure.py starts N        N starts of a service that connects at once, idle, and N under load; all must get through
    measure.py journal N       the same with the journal as the only source: printed, nothing is required
    measure.py idle SECONDS    memory and context switches of the daemon while nothing happens
    measure.py kills N         kill -9 N times at random moments, while units restart and one of them connects once a millisecond
    measure.py floods N        N first tries of a system unit and N of a user's application while two others flood
    measure.py run N           what `scnpm run` takes for a command, beside systemd-run: medians of N
    measure.py wait N          N first tries under load of a service that waits for its rules, and N of one that does not, while
                               the daemon is stopped for 200 ms and killed at random
"""

import collections
import contextlib
import os
import pathlib
import random
import select
import signal
import statistics
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(__file__))
import floods
import machine as m

NAME = "t-first.service"
MEMORY_LIMIT_KB = 8192
# In the container the journal's files are in memory, so what is mapped of them is shared.
PARTS = [("RssAnon", "its own"), ("RssFile", "of files"), ("RssShmem", "of files in a tmpfs")]


def let_through(count, kind):
    """How many of so many starts of a service get through at their first try."""
    m.service(NAME, f"Type={kind}", f"ExecStart=-{m.connects('first')}")
    m.reload_units()
    for number in range(1, count + 1):
        m.start(NAME)
        m.eventually(lambda: len(m.tries("first")) == number, "the service did not connect", 60)
        m.eventually(lambda: not m.active(NAME), "the service does not end", 60)
    outcomes = m.tries("first")
    (m.TRIES / "first").unlink()
    return outcomes.count("ok")


def load_the_machine():
    """Three busy loops per core, each a service, so that the scheduler does not take them for one."""
    m.service("t-busy@.service", "ExecStart=/bin/sh -c 'while :; do :; done'")
    m.reload_units()
    m.start(*[f"t-busy@{number}.service" for number in range(3 * os.cpu_count())])


def starts(count, options=()):
    """Prints the counts; whether all got through."""
    m.Listeners(range(7001, 7002))
    m.start_with(m.system_rule(NAME), options=options)
    complete = True
    for load in ["idle", "three busy loops per core"]:
        if load != "idle":
            load_the_machine()
        for kind in ["simple", "oneshot"]:
            began = time.monotonic()
            passed = let_through(count // 2, kind)
            complete = complete and passed == count // 2
            took = time.monotonic() - began
            print(f"first try of Type={kind}, {load}: {passed} of {count // 2} let through ({took:.0f} s)")
    m.reset()
    return complete


def switches(pid):
    """Voluntary context switches of all threads."""
    total = 0
    for status in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
        total += int(field(status, "voluntary_ctxt_switches"))
    return total


def field(status, name):
    return next(line.split()[1] for line in status.read_text().splitlines() if line.startswith(f"{name}:"))


def idle(seconds):
    """Prints memory and wake-ups; whether the memory is within the limit and nothing woke the daemon."""
    m.write_policy(m.system_rule(NAME))
    m.load_base()
    m.start_daemon(more="WatchdogSec=0\n")
    # Whatever the machine does by itself is not what is measured.
    m.run("systemctl", "stop", "*.timer", ok=False)
    time.sleep(10)
    pid = m.daemon_pid()
    before = switches(pid)
    time.sleep(seconds)
    woken = switches(pid) - before
    status = pathlib.Path(f"/proc/{pid}/status")
    memory = int(field(status, "VmRSS"))
    parts = ", ".join(f"{field(status, part)} {name}" for part, name in PARTS)
    print(f"resident memory: {memory} kB, {parts} (at most {MEMORY_LIMIT_KB})")
    print(f"voluntary context switches in {seconds} s while nothing happens: {woken} (at most 0)")
    m.reset()
    return memory <= MEMORY_LIMIT_KB and woken == 0


def cpu(pid, seconds):
    """The share of a core that a process takes, in percent."""

    def ticks():
        return sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))

    before, began = ticks(), time.monotonic()
    time.sleep(seconds)
    return 100 * (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)


def kills(count):
    """Prints how many kills left a wrong state, and how often a unit that runs was refused; whether neither did."""
    m.Listeners(range(7001, 7004))
    units = [f"t-each-{number}.service" for number in range(10)]
    for name in [*units, "t-kept.service", "t-stranger.service"]:
        m.service(name, "ExecStart=/bin/sleep infinity")
    m.service("t-gate.service", "Type=oneshot", "RemainAfterExit=yes", "ExecStart=/bin/true")
    m.reload_units()
    m.start("t-kept.service", "t-stranger.service", "t-gate.service")
    m.write_policy(*[m.system_rule(name) for name in [*units, "t-kept.service"]], m.rule("t-gate.service", port=7003))
    m.load_base()
    m.configure_daemon(more="Restart=always\nRestartSec=0\n")
    m.run("systemctl", "restart", "scnpm.service")
    probes = {
        "a unit of the policy": m.Probe("system.slice/t-kept.service", 7001),
        "a rule without a cgroup": m.Probe("system.slice/t-stranger.service", 7003),
    }
    chance, wrong = random.Random(count), 0
    for _ in range(count):
        pid = m.daemon_pid()
        m.run("systemctl", "--no-block", chance.choice(["start", "stop", "restart"]), chance.choice(units), ok=False)
        if chance.random() < 0.2:
            m.run("systemctl", "--no-block", "reload", "scnpm.service", ok=False)
        time.sleep(chance.random() / 10)
        os.kill(pid, signal.SIGKILL)
        m.eventually(lambda: m.daemon_pid() not in [0, pid] and m.active("scnpm.service"), "it is not restarted")
        try:
            m.eventually(lambda: m.elements() == running(["t-kept.service", *units]), "a wrong state", 5)
        except m.Failure:
            wrong += 1
    refused = [(name, change[2]) for name, probe in probes.items() for change in probe.end() if change[0] == "refused"]
    for name, took in refused:
        print(f"{name} was refused for {took:.1f} ms")
    print(f"{count} times kill -9: {wrong} wrong states, {len(refused)} times a unit that runs was refused")
    return not wrong and not refused


def running(names):
    return sorted(f"system.slice/{name}" for name in names if (m.CGROUPS / "system.slice" / name).exists())


def application(count):
    """How many of so many scopes of a user get through at their first try."""
    for number in range(count):
        m.in_scope(f"app-t-{number}.scope", m.connects("application", 7002) + " || true")
    return m.tries("application").count("ok")


def milliseconds_to_end(pid):
    """From SIGTERM to the end of the daemon."""
    waits = os.pidfd_open(pid)
    began = time.monotonic()
    signal.pidfd_send_signal(waits, signal.SIGTERM)
    select.select([waits], [], [], 60)
    return 1000 * (time.monotonic() - began)


def floods_of_two_users(count):
    """Prints who gets through, and what the floods cost; whether it is as it should be."""
    m.Listeners(range(7001, 7003))
    floods.managers()
    m.start_with(m.system_rule(NAME), m.selected("user:app-*.scope", port=7002))
    pid = m.daemon_pid()
    before = m.resident_memory()
    with floods.of_two_users():
        time.sleep(10)
        share = cpu(pid, 10)
        passed = {}

        def of_the_user():
            passed["a third user's application"] = application(count)

        beside = threading.Thread(target=of_the_user)
        beside.start()
        passed["a system unit"] = let_through(count, "simple")
        beside.join()
        after = m.resident_memory()
        said = m.log().count("changed the ruleset that the policy is in")
        took = milliseconds_to_end(pid)
    for whose, number in sorted(passed.items()):
        print(f"first tries of {whose} while two users flood: {number} of {count} let through")
    print(f"the daemon's share of a core meanwhile: {share:.0f} % (at most 20)")
    print(f"SIGTERM to the daemon's end: {took:.0f} ms (at most 100)")
    print(f"resident memory: {before} kB before, {after} kB during the floods")
    print(f"changes of the ruleset by others that the daemon saw: {said} (none was made)")
    m.reset()
    return all(number == count for number in passed.values()) and share <= 20 and took <= 100


def commands(count):
    """Prints the medians, each way of starting a command after the other; whether `scnpm run` adds 20 ms at most."""
    m.start_with(m.selected(f"{m.USER}:app:t-mail"))
    m.linted()
    systemd, ours, unwaited = "systemd-run --user --scope", "scnpm run", "scnpm run --no-wait"
    ways = {
        systemd: [*systemd.split(), "--quiet", "--slice=app.slice"],
        ours: [m.SCNPM, "run", "--app=t-mail", "--"],
        unwaited: [m.SCNPM, "run", "--no-wait", "--app=t-mail", "--"],
    }
    took = {name: [] for name in ways}
    for _ in range(count):
        for name, command in ways.items():
            began = time.monotonic()
            m.equal(m.as_user(*command, "true").stderr, "", "what is said")
            took[name].append(1000 * (time.monotonic() - began))
    medians = {name: statistics.median(times) for name, times in took.items()}
    for name, median in medians.items():
        print(f"{name} true: median of {count} {median:.1f} ms, worst {max(took[name]):.1f} ms")
    more = medians[ours] - medians[systemd]
    print(f"scnpm run adds {more:.1f} ms (at most 20)")
    m.reset()
    return more <= 20


@contextlib.contextmanager
def daemon_that_stops_and_dies(chance):
    """All the time, at random: it is stopped for 200 ms, or sometimes killed. Gives how often each was done."""
    done, is_over = collections.Counter(), threading.Event()

    def disturb():
        while not is_over.wait(0.3 * chance.random()):
            pid = m.daemon_pid()
            with contextlib.suppress(ProcessLookupError):
                if pid and chance.random() < 0.1:
                    os.kill(pid, signal.SIGKILL)
                    done["killed"] += 1
                elif pid:
                    os.kill(pid, signal.SIGSTOP)
                    done["stopped"] += 1
                    time.sleep(0.2)
                    os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield done
    finally:
        is_over.set()
        thread.join()


def first_tries(count, *settings):
    """How so many starts of a service went: `ok`, `refused`, or `failed` if its command was not run."""
    m.service(NAME, "Type=oneshot", *settings, f"ExecStart=-{m.connects('first')}")
    m.reload_units()
    outcomes = []
    for _ in range(count):
        m.run("systemctl", "start", NAME, ok=False)
        outcomes.append(*m.tries("first") or ["failed"])
        if outcomes[-1] == "failed":
            print(f"start {len(outcomes)} was not made:\n{m.log(NAME)}\nThe daemon's log:\n{m.log()}")
        (m.TRIES / "first").unlink(missing_ok=True)
    return outcomes


def waits(count):
    """Prints how many got through; whether all that waited did."""
    m.Listeners(range(7001, 7002))
    m.start_with(m.system_rule(NAME))
    load_the_machine()
    passed = {}
    for name, settings in [("without", []), ("with", [f"ExecStartPre=+{m.SCNPM} wait --self"])]:
        began = time.monotonic()
        with daemon_that_stops_and_dies(random.Random(count)) as done:
            outcomes = collections.Counter(first_tries(count, *settings))
        passed[name] = outcomes["ok"]
        more = f"{outcomes['refused']} refused, {outcomes['failed']} not started"
        hindered = f"the daemon was stopped {done['stopped']} times and killed {done['killed']} times"
        print(f"first tries {name} scnpm wait: {outcomes['ok']} of {count} let through, {more}; {hindered} ({time.monotonic() - began:.0f} s)")
    m.reset()
    return passed["with"] == count


def main(what, number):
    match what:
        case "starts":
            return 0 if starts(number) else 1
        case "journal":
            starts(number, options=["--sources", "journal"])
            return 0
        case "idle":
            return 0 if idle(number) else 1
        case "kills":
            return 0 if kills(number) else 1
        case "floods":
            return 0 if floods_of_two_users(number) else 1
        case "run":
            return 0 if commands(number) else 1
        case "wait":
            return 0 if waits(number) else 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    m.stop("t-boot-listener.socket", "t-boot-listener.service")
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
