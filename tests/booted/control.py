"""Tests of the control socket, which inside.py runs among its own: who may change something (polkit), and another client
than ours (varlinkctl)."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import machine as m
import page as pages

TESTS = []
# Those that need users' managers, and so a D-Bus that was never ended.
EARLY = []
SOCKET = "/run/scnpm/control"
UNIT = "t-good.service"
CGROUP = f"system.slice/{UNIT}"
RULES = pathlib.Path("/etc/polkit-1/rules.d/10-tests.rules")
NOT_PERMITTED = 4


def test(function):
    TESTS.append(function)
    return function


def start(name=UNIT):
    m.service(name, "ExecStart=/bin/sleep infinity")
    m.reload_units()
    m.start(name)


def reload(by=m.as_user, **options):
    return by(m.SCNPM, "reload", ok=False, **options)


def is_refused(done, *words):
    m.equal((done.returncode, done.stdout), (NOT_PERMITTED, ""), f"exit status and output ({done.stderr.strip()})")
    m.equal(done.stderr.count("\n"), 1, f"lines of {done.stderr!r}")
    for word in (*words, "run it as root"):
        m.check(word in done.stderr, f"no {word!r} in {done.stderr!r}")


def is_done(done):
    m.equal((done.returncode, done.stderr), (0, ""), "exit status and stderr")


# polkit


@contextlib.contextmanager
def rule(answer, group=m.USER, action="reload"):
    """polkit gives this answer to users of a group who want to do it, and to no others: docs/control.md has the rules."""
    text = pathlib.Path("/opt/tests/control.md").read_text()
    rules = [block.text for block in pages.blocks("control.md", text) if block.text.startswith("polkit.addRule")]
    [documented] = [rule for rule in rules if f"io.scnpm.{action}" in rule]
    RULES.write_text(documented.replace("netdev", group).replace("YES", answer) + "\n")
    RULES.chmod(0o644)
    restart_polkit()
    try:
        yield
    finally:
        RULES.unlink()
        restart_polkit()


def restart_polkit():
    # However often.
    m.run("systemctl", "reset-failed", "polkit.service", ok=False)
    m.run("systemctl", "restart", "polkit.service")


@test
def reload_by_a_user_is_as_polkit_says():
    start()
    m.start_with(m.system_rule(UNIT))
    m.is_let_through(CGROUP)
    m.write_policy(m.system_rule(UNIT, port=7002))
    # Where nothing is said, the administrator's password is needed, and nobody is there to ask for it.
    is_refused(reload(), "polkit does not permit it")
    with rule("NO"):
        is_refused(reload(), "polkit does not permit it")
    m.check(m.gets_through(CGROUP) and not m.gets_through(CGROUP, 7002), "the new policy is in force")
    with rule("YES"):
        is_refused(reload(uid=m.OTHER_UID), "polkit does not permit it")
        m.check(m.gets_through(CGROUP), "the new policy is in force")
        is_done(reload())
        m.check(m.gets_through(CGROUP, 7002) and not m.gets_through(CGROUP), "the new policy is not in force")
        m.write_policy(m.system_rule(UNIT, port=7003))
        tried = m.as_user(m.SCNPM, "reload", "--try", "60", input="n\n", ok=False)
        m.check(tried.returncode == 1 and "the old policy is back" in tried.stderr, f"{tried}")
        m.check(m.gets_through(CGROUP, 7002), "the old policy is not back")
        is_done(reload())
        m.check(m.gets_through(CGROUP, 7003), "the new policy is not in force")
    is_refused(reload(), "polkit does not permit it")


# What may be refused is recorded, and can be allowed for a while.
RECORDING = """#!/usr/sbin/nft -f
flush ruleset
table inet filter {
    chain refused { }
    chain output {
        type filter hook output priority filter; policy accept;
        ct state established,related accept
        tcp dport 7001-7009 jump refused
        tcp dport 7001-7009 reject with tcp reset
    }
}
# scnpm: record refusals in inet filter refused
"""


def allow(*words, by=m.as_user, **options):
    return by(m.SCNPM, "allow", *words, ok=False, **options)


def connects_from(name, port=7001, uid=m.UID):
    """Whether an application of a user's gets through, once there was time for its rules."""
    command = f"sleep 0.3; {m.CONNECT} {port} /dev/null"
    done = m.as_user("systemd-run", "--user", "--scope", "--quiet", f"--unit={name}", "sh", "-c", command, ok=False, uid=uid)
    # A scope that could not be made says nothing of packets.
    m.equal(done.stderr, "", "stderr of systemd-run")
    return done.returncode == 0


# Before the tests that end D-Bus: users' managers make no scopes after that.
def allow_by_a_user_is_as_polkit_says_and_for_own_units_only():
    start()
    m.start(f"user@{m.UID}.service")
    m.start_with(base=RECORDING)
    own = ("app:t-mail", "127.0.0.1:7001")
    others = [f"system:{UNIT}", "user:app:t-mail", f"{m.OTHER}:app:t-mail", f"app:t-mail,{m.OTHER_UID}:app:t-mail"]

    def passes():
        # Each name is used once: systemd may still have the scope before.
        return connects_from(f"app-t-t\\x2dmail-{time.monotonic_ns()}.scope")

    def is_refused_to(done, *words):
        m.equal((done.returncode, done.stdout), (1, ""), f"exit status and output ({done.stderr.strip()})")
        for word in words:
            m.check(word in done.stderr, f"no {word!r} in {done.stderr!r}")

    is_refused_to(allow(*own), "polkit does not permit it")
    with rule("NO", action="allow"):
        is_refused_to(allow(*own), "polkit does not permit it")
    # Leave for another action is none for this one.
    with rule("YES", action="reload"):
        is_refused_to(allow(*own), "polkit does not permit it")
    m.check(not passes(), "it passes without leave")
    with rule("YES", action="allow"):
        for unit in others:
            is_refused_to(allow(unit, "127.0.0.1:7001"), "your own units only")
        is_refused(reload(), "polkit does not permit it")
        is_refused_to(allow(*own, uid=m.OTHER_UID), "polkit does not permit it")
        m.check(not passes() and not m.gets_through(CGROUP), "it passes without leave")
        done = allow(*own, "--for", "1h")
        try:
            m.equal((done.returncode, done.stderr), (0, ""), "exit status and stderr of allow")
            m.check(passes(), f"it is refused: {done.stdout}")
            m.check(not m.gets_through(CGROUP), "a unit of the system passes")
            m.equal(allow("--undo").returncode, 0, "exit status of allow --undo")
            m.check(not passes(), "it passes though it was ended")
        finally:
            # It is kept for the next daemon.
            m.run(m.SCNPM, "allow", "--undo", ok=False)


EARLY.append(allow_by_a_user_is_as_polkit_says_and_for_own_units_only)


@test
def reload_without_polkit_is_for_root_alone():
    start()
    m.start_with(m.system_rule(UNIT))
    with rule("YES"):
        is_done(reload())
        m.run("systemctl", "mask", "--runtime", "--now", "polkit.service")
        try:
            is_refused(reload(), "only root", "polkit cannot be asked", "masked")
            is_done(reload(by=m.run))
            m.stop_dbus()
            is_refused(reload(), "only root", "polkit cannot be asked", "D-Bus does not run")
            is_done(reload(by=m.run))
        finally:
            m.start_dbus()
            m.run("systemctl", "unmask", "--runtime", "polkit.service")
        m.eventually(lambda: reload().returncode == 0, "polkit is not asked once it is back")


def call(method, *, process=(), **parameters):
    """What the daemon answers to a call, which a process of a user's makes as it likes."""
    message = json.dumps({"method": method, "parameters": parameters})
    program = (
        "import socket, sys\n"
        "with socket.socket(socket.AF_UNIX) as client:\n"
        f"    client.connect({SOCKET!r})\n"
        "    client.sendall(sys.argv[1].encode() + bytes(1))\n"
        "    print(client.makefile('rb').read1().rstrip(bytes(1)).decode())\n"
    )
    return json.loads(m.as_user(*process, "python3", "-c", program, message).stdout)


@test
def reload_is_not_permitted_by_what_a_client_says_of_itself():
    start()
    m.start_with(m.system_rule(UNIT))
    with rule("YES", group="root"):
        m.equal(call("io.scnpm.Reload")["error"], "io.scnpm.NotPermitted", "the answer to a call")
        m.equal(call("io.scnpm.Confirm")["error"], "io.scnpm.NotPermitted", "the answer to a call")
        m.equal(call("io.scnpm.Revert")["error"], "io.scnpm.NotPermitted", "the answer to a call")
        for parameters in [{"uid": 0}, {"user": "root"}, {"pid": 1}]:
            answer = call("io.scnpm.Reload", **parameters)
            m.equal(answer["error"], "org.varlink.service.InvalidParameter", f"the answer to {parameters}")
        is_refused(m.as_user("env", "USER=root", "LOGNAME=root", "SUDO_UID=1000", m.SCNPM, "reload", ok=False))
        inside = ["unshare", "--user", "--map-root-user"]
        m.equal(m.as_user(*inside, "id", "-u").stdout, "0\n", "the user in a namespace of its own")
        is_refused(m.as_user(*inside, m.SCNPM, "reload", ok=False))


def calling(count, in_turn=False):
    """Connections of a user's that want the policy loaded again, at the same time or each for a moment."""
    program = (
        "import socket, sys, time\n"
        "all = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[1]))]\n"
        "for client in all:\n"
        f"    client.connect({SOCKET!r})\n"
        "    client.sendall(b'{\"method\": \"io.scnpm.Reload\"}\\0')\n"
        f"    if {in_turn}:\n"
        "        time.sleep(0.02)\n"
        "        client.close()\n"
        "print('called', flush=True)\n"
        f"if not {in_turn}:\n"
        "    print(all[0].makefile('rb').read1().rstrip(bytes(1)).decode(), flush=True)\n"
    )
    command = ["setpriv", f"--reuid={m.UID}", f"--regid={m.UID}", "--clear-groups", "python3", "-c", program, str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    m.equal(process.stdout.readline(), "called\n", "what it says")
    return process


def descriptors():
    return len(list(pathlib.Path(f"/proc/{m.daemon_pid()}/fd").iterdir()))


@test
def polkit_that_hangs_holds_up_nobody_else():
    start()
    m.start_with(m.system_rule(UNIT), m.system_rule("t-late.service", port=7002))
    m.is_let_through(CGROUP)
    with rule("YES"):
        before = descriptors()
        m.start("polkit.service")
        with m.frozen("polkit.service"):
            # Who goes away leaves no question behind.
            with calling(20, in_turn=True) as client:
                client.wait()
            # Whoever comes later is answered when they all have been let in.
            m.run(m.SCNPM, "status")
            m.eventually(lambda: descriptors() == before, lambda: f"descriptors: {before} before, {descriptors()} now")
            with calling(50) as client:
                try:
                    done = reload()
                    m.check(done.returncode == 1 and "try again when it has answered" in done.stderr, f"{done}")
                    m.check(descriptors() < before + 60, f"descriptors: {before} before, {descriptors()} now")
                    for by in [m.run, m.as_user]:
                        m.equal(by("timeout", "20", m.SCNPM, "status").returncode, 0, "exit status of status")
                    start("t-late.service")
                    m.eventually(lambda: m.gets_through("system.slice/t-late.service", 7002), "a rule waits for polkit")
                    m.equal(reload(by=m.run).returncode, 0, "exit status of root's reload")
                    m.check(client.poll() is None, "polkit has answered")
                finally:
                    os.kill(int(m.show("polkit.service", "MainPID")), signal.SIGCONT)
                m.check(json.loads(client.stdout.readline())["parameters"]["loaded"], "it is not loaded once polkit answers")


# varlinkctl


def varlinkctl(*words, by=m.run, ok=True):
    return by("varlinkctl", "--json=short", *words, ok=ok)


def called(method, by=m.run, **parameters):
    return json.loads(varlinkctl("call", f"unix:{SOCKET}", f"io.scnpm.{method}", json.dumps(parameters), by=by).stdout)


def has_varlinkctl():
    """Whether there is one; only in systemd before 256 there need not be."""
    version = int(m.run("systemctl", "--version").stdout.split()[1].split("~")[0])
    is_there = shutil.which("varlinkctl") is not None
    m.check(is_there or version < 256, f"systemd {version} without varlinkctl")
    return is_there


@test
def varlinkctl_can_introspect_and_call():
    if not has_varlinkctl():
        return
    start()
    m.start_with(m.system_rule(UNIT))
    m.is_let_through(CGROUP)
    for by in [m.run, m.as_user]:
        info = json.loads(varlinkctl("info", f"unix:{SOCKET}", by=by).stdout)
        m.equal((info["product"], "io.scnpm" in info["interfaces"]), ("scnpm", True), f"what it says of itself: {info}")
        listed = by("varlinkctl", "list-interfaces", f"unix:{SOCKET}").stdout.split()
        m.equal(sorted(listed), ["io.scnpm", "org.varlink.service"], "interfaces")
        for interface in listed:
            text = by("varlinkctl", "introspect", f"unix:{SOCKET}", interface).stdout
            m.check(f"interface {interface}\n" in text, text)
            raw = varlinkctl("call", f"unix:{SOCKET}", "org.varlink.service.GetInterfaceDescription", json.dumps({"interface": interface}))
            for each in [text, json.loads(raw.stdout)["description"]]:
                m.run("varlinkctl", "validate-idl", input=each)
        status = called("GetStatus", by=by)["status"]
        m.equal((status["in_force"], [unit["name"] for unit in status["units"]]), (True, [UNIT]), "the status")
        status = called("GetStatus", by=by, unit=UNIT)["status"]
        m.equal(status["units"][0]["instances"][0]["path"], CGROUP, "the unit's cgroup")
        for what in [{"unit": UNIT}, {"cgroup": CGROUP}]:
            m.equal(called("Wait", by=by, **what)["refused"], [], f"waiting for {what}")
        # The errors of Varlink itself are in systemd's own words, which are not always the same.
        for method, parameters, error in [
            ("io.scnpm.GetStatus", {"unit": "t-nosuch"}, {"unit": "t-nosuch"}),
            ("io.scnpm.GetStatus", {"units": "t-nosuch"}, {"parameter": "units"}),
            ("io.scnpm.Wait", {}, {"parameter": "cgroup"}),
            ("io.scnpm.GetStatsu", {}, {"method": "io.scnpm.GetStatsu"}),
            ("io.scnpmd.GetStatus", {}, {"interface": "io.scnpmd"}),
        ]:
            done = varlinkctl("call", f"unix:{SOCKET}", method, json.dumps(parameters), by=by, ok=False)
            m.check(done.returncode != 0 and "failed: " in done.stderr, f"{method} {parameters}: {done}")
            m.equal(json.loads(done.stdout), error, f"the answer to {method} {parameters}")
            m.check("unit" not in error or "io.scnpm.NoSuchUnit" in done.stderr, f"{done}")
    m.equal(called("Reload", color=False)["loaded"], True, "root's reload")
    done = varlinkctl("call", f"unix:{SOCKET}", "io.scnpm.Reload", "{}", by=m.as_user, ok=False)
    m.check("io.scnpm.NotPermitted" in done.stderr, f"{done}")


@test
def varlinkctl_can_watch():
    if not has_varlinkctl():
        return
    start()
    m.start_with(m.system_rule(UNIT), m.system_rule("t-late.service"))
    m.is_let_through(CGROUP)
    command = ["varlinkctl", "--json=short", "--more", "--timeout=60", "call", f"unix:{SOCKET}", "io.scnpm.GetStatus", "{}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watch:
        try:
            def running():
                status = json.loads(watch.stdout.readline().strip("\x1e\n"))["status"]
                return [unit["running"] for unit in status["units"]]

            m.equal(running(), [True, False], "what runs at first")
            start("t-late.service")
            while running() != [True, True]:
                pass
            m.stop("t-late.service")
            while running() != [True, False]:
                pass
            m.stop("scnpm.service")
            m.check(watch.wait(timeout=10) != 0, "it does not see that the daemon ended")
        finally:
            watch.kill()
