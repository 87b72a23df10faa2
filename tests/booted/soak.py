"""soak.py MINUTES [SEED]: units of several users come and go while everything around scnpm fails at random.

All the while processes inside and outside of the policy connect once a millisecond. At the end: nobody was let through who is
not in the policy, nobody who is was refused for longer than docs/guarantees.md says, the kernel is as the policy says, and
the daemon's memory and file descriptors are where they were.
"""

import collections
import contextlib
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(__file__))
import machine as m

# Milliseconds without rules after a reset: mostly what systemd needs to start scnpm again, when it was killed just before and
# systemd itself is executed again.
RESET_LIMIT = 3000
# Milliseconds of refusals that are no fault of the policy's: one try.
QUIET_LIMIT = 2
MEMORY_LIMIT_KB = 4096
FDS_LIMIT = 4

def sleeper(name, where=m.UNITS):
    m.service(name, "ExecStart=/bin/sleep infinity", where=where)


# While there is no ruleset nothing is tracked, so the kernel goes on taking connections that ended then for established ones, and
# whoever gets the same port later for part of them. So only replies are let through for what they are.
BASE = m.BASE.replace("ct state established,related accept", "ct direction reply accept")
SYSTEM = [f"t-soak-{number}.service" for number in range(40)]
GATE, KEPT, STRANGER = "t-gate.service", "t-kept.service", "t-stranger.service"


def set_up():
    for name in [*SYSTEM, KEPT, STRANGER]:
        sleeper(name)
    m.service(GATE, "Type=oneshot", "RemainAfterExit=yes", "ExecStart=/bin/true")
    m.service("t-first.service", f"ExecStart=-{m.connects('first')}")
    m.reload_units()
    m.start(f"user@{m.OTHER_UID}.service")
    m.start(KEPT, STRANGER, GATE, "nftables.service")
    m.write_policy(
        *[m.system_rule(name) for name in SYSTEM],
        m.system_rule(KEPT),
        m.system_rule("t-first.service"),
        m.rule(GATE, port=7003),
        m.selected(f"{m.USER}:app:t-mail", port=7004),
        m.selected("user:app-t\\x2dany-*.scope", port=7005),
        base=BASE,
    )
    m.load_base()
    # As long as systemd needs to start it again.
    m.configure_daemon("--watch-config", more="Restart=always\nRestartSec=0\n")
    m.run("systemctl", "restart", "scnpm.service")


class Life:
    """Units that come and go."""

    def __init__(self, random):
        self.random = random
        self.starts = 0

    def step(self):
        kind = self.random.randrange(4)
        if kind == 0:
            name = self.random.choice(SYSTEM)
            m.run("systemctl", self.random.choice(["start", "stop", "restart"]), name, ok=False)
        elif kind == 1:
            uid = self.random.choice([m.UID, m.OTHER_UID])
            app = self.random.choice(["t\\x2dmail", "t\\x2dany"])
            m.as_user(
                "systemd-run", "--user", "--scope", "--quiet", f"--unit=app-{app}-{self.random.randrange(10**9)}.scope", "true",
                uid=uid, ok=False,
            )  # fmt: skip
        elif kind == 2:
            self.starts += 1
            m.run("systemctl", "start", "t-first.service", ok=False)
        else:
            time.sleep(self.random.random() / 10)


def restart_of_scnpm():
    m.run("systemctl", "restart", "scnpm.service")


def kill_of_scnpm():
    with contextlib.suppress(ProcessLookupError):
        pid = m.daemon_pid()
        if pid:
            os.kill(pid, signal.SIGKILL)


def reset_by_flush():
    m.run("nft", "flush", "ruleset")
    m.load_base()


FAULTS = {
    # What it is, and for how many milliseconds units may be refused because of it.
    "reload": (lambda: m.run("systemctl", "reload", "scnpm.service", ok=False), QUIET_LIMIT),
    "restart": (restart_of_scnpm, QUIET_LIMIT),
    "kill -9": (kill_of_scnpm, QUIET_LIMIT),
    "daemon-reload": (lambda: m.run("systemctl", "daemon-reload"), QUIET_LIMIT),
    "daemon-reexec": (lambda: m.run("systemctl", "daemon-reexec"), QUIET_LIMIT),
    "journald": (lambda: m.run("systemctl", "restart", "systemd-journald.service"), QUIET_LIMIT),
    "vacuum": (lambda: m.run("journalctl", "--rotate", "--vacuum-size=1M"), QUIET_LIMIT),
    "touch": (lambda: m.write_policy_again(), QUIET_LIMIT),
    "nft -f": (m.load_base, RESET_LIMIT),
    "flush and load": (reset_by_flush, RESET_LIMIT),
    "nftables": (lambda: m.run("systemctl", "restart", "nftables.service"), RESET_LIMIT),
}


def holdings():
    """Resident memory (kB) and file descriptors of the daemon."""
    return m.resident_memory(), len(os.listdir(f"/proc/{m.daemon_pid()}/fd"))


def settled():
    """Waits for a quiet moment; the daemon's holdings then."""
    time.sleep(3)
    m.eventually(lambda: m.show("scnpm.service", "ActiveState") == "active", "the daemon does not run")
    return holdings()


def soak(minutes, seed):
    m.stop("t-boot-listener.socket", "t-boot-listener.service")
    m.reset()
    chance = random.Random(seed)
    m.Listeners(range(7001, 7010))
    set_up()
    before = settled()
    life = Life(random.Random(seed + 1))
    probes = {
        "a unit of the policy": m.Probe(f"system.slice/{KEPT}", 7001),
        "a rule without a cgroup": m.Probe(f"system.slice/{STRANGER}", 7003),
        "a stranger": m.Probe(f"system.slice/{STRANGER}", 7001),
    }
    ended, end = threading.Event(), time.monotonic() + 60 * minutes
    lives = threading.Thread(target=lambda: [life.step() for _ in iter(ended.is_set, True)], daemon=True)
    lives.start()
    faults, windows, history = collections.Counter(), [], []
    while time.monotonic() < end:
        name = chance.choice(list(FAULTS))
        fault, limit = FAULTS[name]
        began = time.monotonic()
        history.append((began, name))
        fault()
        faults[name] += 1
        time.sleep(chance.random() * 1.5 + 0.3)
        if limit == RESET_LIMIT:
            windows.append((began, time.monotonic()))
    ended.set()
    lives.join()
    wrong = judge({name: probe.end() for name, probe in probes.items()}, windows, history)
    m.stop(*SYSTEM, "t-first.service")
    # Of the daemon's last run: it was killed and restarted.
    m.run("systemctl", "restart", "scnpm.service")
    memory, fds = settled()
    if memory > before[0] + MEMORY_LIMIT_KB or fds > before[1] + FDS_LIMIT:
        wrong.append(f"the daemon has {memory} kB and {fds} descriptors, {before[0]} kB and {before[1]} before")
    m.elements_become(f"system.slice/{KEPT}")
    print(f"{minutes} minutes, seed {seed}: {sum(faults.values())} faults ({', '.join(f'{n} {name}' for name, n in faults.items())})")
    outcomes = m.tries("first")
    print(f"{life.starts} starts, of which {outcomes.count('ok')} connected at once, {outcomes.count('refused')} were refused")
    for each in wrong:
        print(f"WRONG: {each}")
    return not wrong


def after(at, history):
    """Which fault came last before a time, and how many milliseconds before."""
    begun, name = max((one for one in history if one[0] <= at), default=(at, "nothing"))
    return f"{1000 * (at - begun):.0f} ms after {name}"


def judge(times, windows, history):
    """What probes saw that docs/guarantees.md does not allow."""
    wrong = []
    for name, changes in times.items():
        if name == "a stranger":
            # Between flush and load there is no ruleset at all, which lets everybody through: the loader's doing.
            passed = [one for one in changes if one[0] == "passes" and not is_within(one, windows)]
            wrong += [f"{name} got through for {took:.1f} ms, {after(at, history)}" for _, at, took in passed]
            continue
        refused = [one for one in changes if one[0] == "refused"]
        outside = [one for one in refused if not is_within(one, windows)]
        print(f"{name}: refused {len(refused)} times after resets, for {max([0, *[one[2] for one in refused]]):.1f} ms at most")
        wrong += [f"{name} was refused for {took:.1f} ms, {after(at, history)}" for _, at, took in outside if took > QUIET_LIMIT]
        wrong += [f"{name} was refused for {took:.1f} ms, {after(at, history)}" for _, at, took in refused if took > RESET_LIMIT]
    return wrong


def is_within(change, windows):
    _, begun, _ = change
    return any(first <= begun <= last for first, last in windows)


if __name__ == "__main__":
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    sys.exit(0 if soak(float(sys.argv[1]), seed) else 1)
