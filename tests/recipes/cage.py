"""The recipes of docs/cage.md: what a cage lets out and refuses, what happens to it, and the ways out that a sandbox closes."""

import os
import pathlib
import re
import signal
import subprocess
import time

import machine as m
import recipe

PAGE = "cage.md"
TESTS = []
POLICY, GAP = "The administrator's part", "Without a gap"
HOME = pathlib.Path(f"/home/{m.USER}")


def test(function):
    TESTS.append(function)
    return function


def policy(*more):
    return "flush ruleset\n" + recipe.blocks(PAGE, POLICY)[0].replace("alice", m.USER) + "".join(more)


def start(text):
    m.CONF.write_text(text)
    m.load_base()
    m.start_daemon()
    m.equal(m.codes(m.checked()), [], "what check finds on the page")


def load(text):
    m.CONF.write_text(text)
    m.run("systemctl", "reload", "scnpm.service")


def connect(port):
    return f"{m.CONNECT} {port} /dev/null"


def caged(command, *before, cage="build", uid=m.UID, ok=False):
    return m.as_user(m.SCNPM, "run", "--cage", cage, "--", *before, "sh", "-c", command, uid=uid, ok=ok, cwd=str(HOME))


def outcome(port, *before, **options):
    """Whether a caged command gets through."""
    done = caged(f"{connect(port)}; echo $?", *before, **options)
    m.check(done.stdout.strip().isdigit(), f"it did not run: {done.stderr}")
    return done.stdout.strip() == "0"


def background(command, cage="build"):
    environment = {"XDG_RUNTIME_DIR": f"/run/user/{m.UID}", "PATH": os.environ["PATH"], "HOME": str(HOME)}
    words = ["setpriv", f"--reuid={m.UID}", f"--regid={m.UID}", "--init-groups", m.SCNPM, "run", "--cage", cage, "--"]
    return subprocess.Popen([*words, "sh", "-c", command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fails(done, *words):
    m.equal((done.returncode, done.stdout), (125, ""), f"exit status and output ({done.stderr.strip()})")
    for word in words:
        m.check(word in done.stderr, f"no {word!r} in {done.stderr!r}")


@test
def cage_lets_out_what_it_names_for_each_user():
    start(policy())
    for uid in [m.UID, m.OTHER_UID]:
        m.check(outcome(3128, uid=uid), "the proxy is refused")
        m.check(not outcome(7001, uid=uid), "another port is not refused")
    m.equal(m.as_user(*connect(7001).split(), ok=False).returncode, 0, "outside of the cage")
    starts = 10
    through = sum(int(caged(f"for n in 1 2 3; do {connect(7001)} && echo; done; true").stdout.count("\n")) for _ in range(starts))
    m.equal(through, 0, "connections of new cages that get out")
    recipe.figure(f"refused connections of {starts} starts in a cage that get out", through)


@test
def cage_narrows_and_never_widens():
    refused = policy().replace("ct state established,related accept\n", "ct state established,related accept\n tcp dport 3128 reject\n")
    start(refused)
    m.check(not outcome(3128), "what the cage lets through is let through by nobody else")
    wide = policy().replace("dport 3128 return", "dport 3128 accept")
    m.CONF.write_text(wide)
    m.equal(m.codes(m.checked()), ["W050"], "an accept in a cage")
    first, accept = "        jump cages\n", "        ct state established,related accept\n"
    m.check(first + accept in policy(), "the page's chain is another one")
    m.CONF.write_text(policy().replace(first + accept, accept + first))
    m.check("W050" in m.codes(m.checked()), f"a call behind an accept: {m.codes(m.checked())}")
    m.CONF.write_text(policy().replace("jump caged\n", "tcp dport 25 jump caged\n"))
    m.check("W051" in m.codes(m.checked()), "a cage that nothing closes")


@test
def refusals_are_said_at_the_end_and_their_lines_help():
    start(policy())
    done = caged(connect(7001))
    m.equal(done.returncode, 1, "exit status of the command")
    line = f"# user:cage:build :: insert rule inet filter cages socket cgroupv2 unit ip daddr 127.0.0.1 tcp dport 7001 return"
    m.check(line in done.stderr, done.stderr)
    shown = next(block for block in recipe.blocks(PAGE) if "--cage build -- make" in block).split("\n", 1)[1]
    shown = shown.replace("192.0.2.1", "127.0.0.1").replace("443", "7001")
    printed = re.sub(r"\d+ packets?", "3 packets", done.stderr)
    m.check(shown in printed, lambda: f"the page shows {shown}, and this was printed: {printed}")
    m.check(line in m.as_user(m.SCNPM, "denied").stdout, "scnpm denied offers another line")
    load(policy(line + "\n"))
    m.equal(m.codes(m.checked()), [], "what check finds in the line")
    done = caged(connect(7001))
    m.equal((done.returncode, done.stderr), (0, ""), "with the line")
    load(policy().replace("# scnpm: record", "# "))
    done = caged(connect(7001))
    m.check("not recorded" in done.stderr, done.stderr)


@test
def mistakes_are_told():
    start(policy(f"# {m.USER}:cage:own :: add rule inet filter cages socket cgroupv2 unit jump caged\n"))
    fails(caged("echo no", cage="biuld"), "`biuld`", "`build`?", "build, own")
    fails(caged("echo no", cage="own", uid=m.OTHER_UID), "There are: build")
    fails(caged("echo no", cage="user:cage:build"), "such as build")
    fails(caged("echo no", cage="a b"), "blanks")
    for more in [["--app", "x"], ["--no-wait"], ["--service"], ["--unit", "x"]]:
        m.equal(m.as_user(m.SCNPM, "run", "--cage", "build", *more, "--", "true", ok=False).returncode, 125, f"with {more}")
    m.equal(m.as_user(m.SCNPM, "run", "--cage", "build", "--", "t-none", ok=False).returncode, 127, "a command that is missing")
    m.equal(m.run(m.SCNPM, "run", "--cage", "build", "--", "true", ok=False).returncode, 125, "root, for whom it is not")
    m.CONF.write_text(policy().replace("jump caged\n", "jump none\n"))
    m.start_daemon()
    fails(caged("echo no"), "refuses", "scnpm status")
    load(re.sub("# user.*", "", policy()))
    fails(caged("echo no"), "no cage", "docs/cage.md")
    m.stop("scnpm.service")
    fails(caged("echo no"), "systemctl start scnpm")


@test
def it_ends_as_the_command_ends():
    start(policy())
    m.equal(caged("exit 7").returncode, 7, "exit status")
    for number in [signal.SIGTERM, signal.SIGKILL, signal.SIGINT]:
        m.equal(caged(f"kill -{int(number)} $$").returncode, -number, f"the end by {number.name}")
    for number in [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]:
        process = background(f"trap 'echo got; exit 3' {int(number)}; echo up; while :; do sleep 0.05; done")
        m.equal(process.stdout.readline(), "up\n", "it runs")
        process.send_signal(number)
        m.equal((process.communicate(timeout=20)[0], process.returncode), ("got\n", 3), f"{number.name} that is passed on")
    ignoring = f"trap '' INT; exec {m.SCNPM} run --cage build -- sh -c 'kill -INT $$; echo lives'"
    m.equal(m.as_user("sh", "-c", ignoring).stdout, "lives\n", "a signal that the caller ignores")


@test
def cage_that_goes_takes_its_commands_with_it():
    start(policy())
    process = background("sleep 100 & echo up; sleep 100")
    m.equal(process.stdout.readline(), "up\n", "it runs")
    m.run("systemctl", "kill", "--signal=KILL", "scnpm.service")
    time.sleep(0.5)
    m.run("systemctl", "restart", "scnpm.service")
    load(policy("# t.service :: add rule inet filter cages tcp dport 1 return\n"))
    time.sleep(0.5)
    m.equal(process.poll(), None, "a daemon that was killed, and another change of the policy")
    slices = m.CGROUPS / f"user.slice/user-{m.UID}.slice/user@{m.UID}.service/cage.slice"
    scope = next(slices.glob("cage-build-*.scope"))
    load(re.sub("# user.*", "", policy()))
    began = time.monotonic()
    process.wait(20)
    left = (scope / "cgroup.procs").read_text().split() if scope.exists() else []
    m.equal(left, [], "processes that are left of the cage")
    output, errors = process.communicate(timeout=20)
    m.equal(process.returncode, 125, f"exit status ({errors})")
    m.check("no longer in force" in errors, errors)
    m.check(time.monotonic() - began < 5, "it takes long")


@test
def cage_holds_without_the_daemon():
    start(policy())
    process = background(f"echo up; sleep 2; {connect(7001)}; echo $?; {connect(3128)}; echo $?")
    m.equal(process.stdout.readline(), "up\n", "it runs")
    m.stop("scnpm.service")
    output, errors = process.communicate(timeout=20)
    m.equal(output, "1\n0\n", "connections while the daemon does not run")
    m.check("cannot be said" in errors, errors)


@test
def gap_is_short_when_the_firewall_is_loaded_anew():
    start(policy())
    process = background("echo up; exec sleep 60")
    m.equal(process.stdout.readline(), "up\n", "it runs")
    slices = m.CGROUPS / f"user.slice/user-{m.UID}.slice/user@{m.UID}.service/cage.slice"
    scope = next(slices.glob("cage-build-*.scope")).relative_to(m.CGROUPS)
    probe = m.Probe(str(scope), 7001)
    time.sleep(0.5)
    for _ in range(10):
        m.load_base()
        time.sleep(0.5)
    times = probe.end()
    process.terminate()
    process.communicate(timeout=20)
    open_for = [took for what, _, took in times if what == "passes"]
    m.check(times and times[0][0] == "refused", f"the cage is open: {times}")
    m.check(max(open_for, default=0) < 1000, f"open for {open_for} ms")
    longest = f"{max(open_for, default=0):.1f} ms"
    recipe.figure("cage that is open while nft -f loads the firewall anew, 10 times", f"{len(open_for)} times", f"{longest} at most")


def escapes():
    """Ways out of the cgroup, as commands that connect outside of it."""
    outside = f"/sys/fs/cgroup/{m.USER_SLICE}/t-outside"
    return [
        ("systemd-run --user", f"systemd-run --user --quiet --wait --collect {connect(7001)}"),
        ("cgroup.procs", f"mkdir -p {outside} && echo $$ > {outside}/cgroup.procs && {connect(7001)}"),
    ]


@test
def bubblewrap_closes_the_ways_out():
    start(policy())
    sandbox = recipe.blocks(PAGE, "With bubblewrap")[0]
    words = re.search(r"-- (bwrap .*) -- make", sandbox.replace("\\\n", ""))[1].replace('"$PWD"', str(HOME)).split()
    m.check(not outcome(7001, *words), "the cage refuses nothing in the sandbox")
    m.check(outcome(3128, *words), "the sandbox keeps what the cage lets out")
    m.equal(caged("touch ok && cat ok", *words).returncode, 0, "the directory can be written to")
    for name, command in escapes():
        without, within = caged(command), caged(command, *words)
        m.equal(without.returncode, 0, f"{name} does not get out without a sandbox: {without.stderr}")
        m.check(within.returncode != 0, f"{name} gets out of the sandbox")
        recipe.figure(f"{name} out of a cage", "gets out", "with bubblewrap: does not")


@test
def service_of_the_system_is_a_cage():
    unit, rules = recipe.blocks(PAGE, "As a service of the system")
    script = pathlib.Path("/usr/local/bin/agent")
    for number, (name, command) in enumerate([("connects", f"{connect(3128)} && ! {connect(7001)}"), *escapes()]):
        script.write_text(f"#!/bin/sh\n{command}\n")
        script.chmod(0o755)
        m.unit("agent.service", unit.replace("User=agent", f"User={m.USER}\nType=oneshot\nEnvironment=XDG_RUNTIME_DIR=/run/user/{m.UID}"))
        m.reload_units()
        start(policy(rules))
        done = m.run("systemctl", "start", "agent.service", ok=False)
        m.equal(done.returncode == 0, number == 0, f"{name}: {m.log('agent.service')}")
    (m.UNITS / "agent.service").unlink()
    script.unlink()


@test
def rule_for_a_user_has_no_gap():
    chain = recipe.blocks(PAGE, GAP)[0].replace("agent", m.USER)
    text = policy()
    begin = text.index("    chain output")
    start(text.replace(text[begin : text.index("\n}\n", begin)], chain))
    m.check(outcome(3128) and not outcome(7001), "the cage does not work with it")
    m.stop("scnpm.service")
    m.load_base()
    m.equal(m.as_user(*connect(7001).split(), ok=False).returncode, 1, "the user without scnpm")
    m.equal(m.as_user(*connect(3128).split(), ok=False).returncode, 0, "the proxy without scnpm")


def clean_up():
    outside = m.CGROUPS / m.USER_SLICE / "t-outside"
    if outside.exists():
        outside.rmdir()
    m.reset()


if __name__ == "__main__":
    # What a shell starts in the background ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    m.run("loginctl", "enable-linger", m.OTHER)
    m.stop("t-boot-listener.socket", "t-boot-listener.service")
    LISTENERS = m.Listeners([3128, 7001])
    recipe.main(TESTS, clean_up)
