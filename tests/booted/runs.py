"""Tests of `scnpm run`, which inside.py runs among its own."""

import contextlib
import json
import os
import pathlib
import pty
import re
import select
import signal
import socket
import subprocess
import threading
import time

import machine as m

TESTS = []
OWN_CGROUP = "sed -n s,^0::/,,p /proc/self/cgroup"
NO_SOCKET = "/run/t-nobody/control"


def test(function):
    TESTS.append(function)
    return function


def scnpm_run(*words, uid=m.UID, ok=True, **options):
    """`scnpm run` of a user's, without its daemon and its warning of that."""
    return m.as_user(m.SCNPM, "run", "--no-wait", *words, uid=uid, ok=ok, **options)


def cgroup_of(*words, **options):
    """The cgroup of a command, which prints it and its own number."""
    where, pid = scnpm_run(*words, "sh", "-c", f"{OWN_CGROUP}; echo $$", **options).stdout.split()
    return where, pid


def fails(done, exit_code, *words):
    """It failed with this exit status and one line, and nothing ran."""
    m.equal((done.returncode, done.stdout), (exit_code, ""), f"exit status and output ({done.stderr.strip()})")
    lines = done.stderr.splitlines()
    m.check(len(lines) == 1 and lines[0].startswith("scnpm: error: "), f"not one line: {done.stderr}")
    for word in words:
        m.check(word in done.stderr, f"no {word!r} in {done.stderr!r}")


@test
def run_command_is_in_a_scope_of_its_application():
    where, pid = cgroup_of("--")
    m.equal(where, f"{m.USER_SLICE}/app-scnpm-sh-{pid}.scope", "the cgroup of a command")
    where, pid = cgroup_of("--app", "org.t-mail.desktop")
    m.equal(where, f"{m.USER_SLICE}/app-scnpm-org.t\\x2dmail.desktop-{pid}.scope", "the cgroup of an application")
    where, _ = cgroup_of("--unit", "t-run")
    m.equal(where, f"{m.USER_SLICE}/t-run.scope", "the cgroup of a unit")
    where, _ = cgroup_of("--unit=t-run.scope", "--slice=app-t")
    m.equal(where, f"{m.USER_SLICE}/app-t.slice/t-run.scope", "the cgroup in a slice, and the name once more")
    m.eventually(lambda: not (m.CGROUPS / where).exists(), "the scope outlives its command")


@test
def run_selects_the_rules_for_the_application():
    m.start_with(m.selected(f"{m.USER}:app:t-mail"), m.selected(f"{m.USER}:t-run.scope", port=7002))
    for name, port, options in [("mail", 7001, ["--app", "t-mail"]), ("unit", 7002, ["--unit", "t-run"])]:
        command = ["sh", "-c", f"sleep 0.2; {m.connects(name, port)}"]
        scnpm_run(*options, "--", *command)
        m.equal(m.tries(name), ["ok"], f"{name} with a rule")
    scnpm_run("--app", "t-other", "--", "sh", "-c", f"{m.connects('other')} || true")
    m.equal(m.tries("other"), ["refused"], "an application without a rule")


@test
def run_ends_as_the_command_ends():
    m.equal(scnpm_run("--", "sh", "-c", "exit 7", ok=False).returncode, 7, "exit status")
    for number in [signal.SIGTERM, signal.SIGKILL, signal.SIGPIPE]:
        done = scnpm_run("--", "sh", "-c", f"kill -{int(number)} $$", ok=False)
        m.equal(done.returncode, -number, f"the end by {number.name}")
    shell = f"{m.SCNPM} run --no-wait -- sh -c 'kill -TERM $$'; echo $?"
    m.equal(m.as_user("bash", "-c", shell).stdout, "143\n", "what a shell says")


@test
def run_does_nothing_for_what_cannot_be_run():
    home = pathlib.Path(f"/home/{m.USER}")
    (home / "t-plain").write_text("echo no")
    (home / "t-lost").write_text("#!/nonexistent\n")
    (home / "t-shell").write_text("echo yes")
    for name in ["t-lost", "t-shell"]:
        (home / name).chmod(0o755)
    before = m.run("journalctl", "-b", "_UID=1000", "-o", "cat").stdout.count("app-scnpm")
    fails(scnpm_run("--", "t-no-such", ok=False), 127, "`t-no-such`", "write its path")
    fails(scnpm_run("--", f"{home}/none", ok=False), 127, "no such file")
    fails(scnpm_run("--", f"{home}/t-plain", ok=False), 126, "chmod")
    fails(scnpm_run("--", f"{home}", ok=False), 126, "directory")
    fails(scnpm_run("--", "", ok=False), 127)
    m.equal(m.run("journalctl", "-b", "_UID=1000", "-o", "cat").stdout.count("app-scnpm"), before, "scopes that were made")
    fails(scnpm_run("--", f"{home}/t-lost", ok=False), 127, "interpreter")
    m.equal(scnpm_run("--", f"{home}/t-shell").stdout, "yes\n", "a file without #!, which execvp(3) gives to sh")


@test
def run_says_what_is_wrong_with_its_arguments():
    for arguments, words in [
        (["--app", "alice:app:mail"], ["such as mail"]),
        (["--app", ""], ["application's id"]),
        (["--app", "a b"], ["write a\\x20b"]),
        (["--app", "x" * 300], ["too long"]),
        (["--unit", "t-run.service"], ["--service"]),
        (["--unit", "t run"], ["systemd-escape"]),
        (["--unit", "t\x1b[31m\n"], ["systemd-escape"]),
        (["--slice", "app.service"], ["app.slice"]),
        (["--slice", "a--b"], ["app.slice"]),
    ]:
        fails(scnpm_run(*arguments, "--", "true", ok=False), 125, *words)
    for arguments in [["--ap", "mail", "--", "true"], ["--app", "mail"], ["--app", "a", "--unit", "b", "--", "true"]]:
        m.equal(scnpm_run(*arguments, ok=False).returncode, 125, f"exit status of wrong usage: {arguments}")


@test
def run_says_that_a_name_is_taken():
    with subprocess.Popen(user_command(m.SCNPM, "run", "--no-wait", "--unit=t-run", "--", "sleep", "60")) as first:
        try:
            m.eventually(lambda: (m.CGROUPS / m.USER_SLICE / "t-run.scope").exists(), "no scope")
            stop = "systemctl --user stop t-run.scope"
            fails(scnpm_run("--unit=t-run", "--", "true", ok=False), 125, "t-run.scope already", stop)
        finally:
            m.as_user(*stop.split())
            m.equal(first.wait(), -signal.SIGTERM, "the end by systemd")


@test
def run_passes_on_all_that_a_process_has():
    """Arguments, files, signals, environment and directory are what they are without it."""
    program = (
        "import os,sys; print(sys.argv[1:], sorted((f, os.readlink('/proc/self/fd/' + f)) for f in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + f)),"
        "[l for l in open('/proc/self/status') if l[:4] in ('SigB', 'SigI', 'SigC') or l[:4] == 'NoNe' or l[:5] == 'Umask'],"
        "os.getcwd(), os.environ, open('/proc/self/cmdline', 'rb').read(), os.nice(0), os.getsid(0) != os.getpid())"
    )
    words = ["python3", "-c", program, "-c:300", "--app", "--", "", "a\nb", "$HOME %h \\x41", "\udcff\udc80", "'\"", "\x1b[31m"]

    def told(*before, **options):
        done = m.as_user(*before, *words, stdin=subprocess.DEVNULL, **options)
        return re.sub(r"\('\d+', '/proc/\d+/fd'\)|(pipe|socket):\[\d+\]", "", done.stdout)

    def odd_signals():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    own = [m.SCNPM, "run", "--no-wait", "--"]
    for options in [{}, {"preexec_fn": odd_signals}, {"restore_signals": False}, {"cwd": "/tmp"}, {"umask": 0o27}]:
        m.equal(told(*own, **options), told(**options), f"what the command finds with {options}")
    argv0 = m.as_user("bash", "-c", f"exec {m.SCNPM} run --no-wait -- bash -c 'exec -a odd cat /proc/self/cmdline'")
    m.equal(argv0.stdout, "odd\0/proc/self/cmdline\0", "a name that is not the file's")


def user_command(*command, uid=m.UID):
    environment = [f"XDG_RUNTIME_DIR=/run/user/{uid}", f"PATH={os.environ['PATH']}", "TERM=dumb"]
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups", "env", "-i", *environment, *command]


class Terminal:
    """A shell of a user's on a terminal of its own."""

    def __init__(self):
        pid, self.file = pty.fork()
        if not pid:
            # A shell that starts something in the background has it ignore these.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGQUIT, signal.SIG_DFL)
            os.execvp("setpriv", user_command("PS1=ready:", "bash", "--norc", "--noprofile", "-i"))
        self.pid, self.text = pid, ""
        self.expect("ready:")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.file)
        os.waitpid(self.pid, 0)

    def type(self, text):
        os.write(self.file, text.encode())

    def expect(self, text, patience=20):
        """Reads until the text has come."""
        end = time.monotonic() + patience
        while text not in self.text:
            ready = select.select([self.file], [], [], max(0, end - time.monotonic()))[0]
            m.check(ready, lambda: f"no {text!r} on the terminal: {self.text!r}")
            self.text += os.read(self.file, 4096).decode(errors="replace")
        before, _, self.text = self.text.partition(text)
        return before


@test
def run_leaves_what_a_command_ignores():
    """A shell looks, since Rust and Python ignore SIGPIPE themselves. A service has the manager's other signals."""
    sigpipe = 1 << signal.SIGPIPE - 1

    def ignored(shell, *run):
        done = m.as_user("bash", "-c", f'{shell}; exec "$@" sed -n "s/SigIgn://p" /proc/self/status', "-", *run)
        return int(done.stdout, 16)

    own = [m.SCNPM, "run", "--no-wait"]
    for shell, expected in [(":", 0), ("trap '' PIPE", sigpipe), ("trap '' PIPE USR1", sigpipe)]:
        m.equal(ignored(shell) & sigpipe, expected, f"SIGPIPE after {shell}")
        m.equal(ignored(shell, *own, "--"), ignored(shell), f"what a command ignores after {shell}")
        m.equal(ignored(shell, *own, "--service", "--") & sigpipe, expected, f"SIGPIPE of a service after {shell}")


@test
def run_leaves_the_terminal_to_the_command():
    with Terminal() as terminal:
        terminal.type(f"{m.SCNPM} run --no-wait --unit t-run -- sh -c 'echo be''gun; exec sleep 60'\n")
        terminal.expect("begun")
        terminal.type("\x1a")
        terminal.expect("Stopped")
        terminal.type("fg\n")
        terminal.expect("sleep 60")
        m.eventually(lambda: process_in("t-run.scope") == "S", "it does not go on")
        terminal.type("\x03")
        terminal.type("echo code=$?.\n")
        terminal.expect("code=130.")
        terminal.type(f"{m.SCNPM} run --no-wait -- python3 -c 'import os; print(os.ttyname(0), os.tcgetpgrp(0) == os.getpgrp())'\n")
        terminal.expect(" True")
        terminal.type(f"{m.SCNPM} run --no-wait -- sleep 60 & sleep 1; kill %1; wait %1; echo code=$?.\n")
        terminal.expect("code=143.")


def process_in(scope):
    """The state of the one process there."""
    pids = (m.CGROUPS / m.USER_SLICE / scope / "cgroup.procs").read_text().split()
    return pathlib.Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[0]


@test
def run_works_for_two_users_side_by_side():
    m.start(f"user@{m.OTHER_UID}.service")
    m.start_with(m.selected(f"{m.USER}:app:t-mail"), m.selected(f"{m.OTHER}:app:t-mail", port=7002))
    for uid, name, port, outcome in [
        (m.UID, "a", 7001, "ok"), (m.UID, "b", 7002, "refused"),
        (m.OTHER_UID, "c", 7001, "refused"), (m.OTHER_UID, "d", 7002, "ok"),
    ]:  # fmt: skip
        command = f"sleep 0.2; {m.connects(name, port)} || true"
        scnpm_run("--app=t-mail", "--", "sh", "-c", command, uid=uid)
        m.equal(m.tries(name), [outcome], f"user {uid} to port {port}")


@test
def run_finds_the_manager_of_its_user():
    where = "app-scnpm-cat-"
    command = [m.SCNPM, "run", "--no-wait", "--", "cat", "/proc/self/cgroup"]

    def by(*environment, uid=m.UID):
        bare = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "env", "-i", *environment]
        return m.run(*bare, *command, ok=False)

    for environment in [[], ["XDG_RUNTIME_DIR=/nonexistent"], ["XDG_RUNTIME_DIR="], ["DBUS_SESSION_BUS_ADDRESS=unix:path=/x"]]:
        done = by(*environment)
        m.check(where in done.stdout, f"{environment}: {done.stdout}{done.stderr}")
    m.run("systemctl", "stop", f"user@{m.OTHER_UID}.service", ok=False)
    done = by(f"XDG_RUNTIME_DIR=/run/user/{m.UID}", uid=m.OTHER_UID)
    fails(done, 125, f"loginctl enable-linger {m.OTHER}")
    fails(by(uid=4711), 125, "loginctl enable-linger 4711")


@test
def run_by_root_is_in_a_scope_of_the_systems():
    m.start_with(m.selected("system:app:t-mail"))
    shell = f"sleep 0.2; {m.connects('root')}; {OWN_CGROUP}"
    done = m.run(m.SCNPM, "run", "--no-wait", "--app=t-mail", "--", "sh", "-c", shell)
    m.check(done.stdout.startswith("system.slice/app-scnpm-t\\x2dmail-"), done.stdout)
    m.equal(m.tries("root"), ["ok"], "a command of root's")


# Waiting


@contextlib.contextmanager
def daemon_that_answers(*answers, delay=0.0):
    """One that takes a call for each answer, waits, and says that. Gives the socket and what was asked."""
    path, calls = pathlib.Path("/run/t-control"), []
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o666)
        server.listen(1)

        def serve():
            for answer in answers:
                with contextlib.suppress(OSError), server.accept()[0] as client:
                    calls.append(json.loads(client.recv(65536).rstrip(b"\0")))
                    time.sleep(delay)
                    client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield str(path), calls
        finally:
            server.shutdown(socket.SHUT_RDWR)
            path.unlink()
            thread.join()


def reply(**parameters):
    return json.dumps({"parameters": parameters}).encode() + b"\0"


DONE = reply(annotations=[], refused=[])
ECHO = ["--unit=t-run", "--", "sh", "-c", "date +%s.%N"]


@test
def run_waits_for_the_daemon():
    for service in [[], ["--service"]]:
        with daemon_that_answers(DONE, delay=0.5) as (path, calls):
            began = time.time()
            done = m.as_user(m.SCNPM, "run", "--socket", path, *service, *ECHO)
            m.check(float(done.stdout) - began > 0.5, "it did not wait")
            m.equal(done.stderr, "", "what is said if all is well")
        kind = "service" if service else "scope"
        expected = {"method": "io.scnpm.Wait", "parameters": {"cgroup": f"{m.USER_SLICE}/t-run.{kind}"}}
        m.equal(calls, [expected], "what was asked")


@test
def run_says_that_it_is_not_certain_of_rules():
    refused = reply(annotations=[], refused=["a.conf:3: no\x1b[31m such table"])
    unknown = json.dumps({"error": "org.varlink.service.MethodNotFound"}).encode() + b"\0"
    for answer, word in [(refused, "no\ufffd[31m such table"), (unknown, "older"), (b"x\0", "not understood")]:
        for options in [[], ["--service"]]:
            with daemon_that_answers(answer) as (path, _):
                done = m.as_user(m.SCNPM, "run", "--socket", path, *options, *ECHO)
                m.check(done.stdout and done.stderr.startswith("scnpm: warning: "), f"{word}: {done}")
                m.check(word in done.stderr and done.stderr.count("\n") == 1, done.stderr)
            with daemon_that_answers(answer) as (path, _):
                done = m.as_user(m.SCNPM, "run", "--wait", "--socket", path, *options, *ECHO, ok=False)
                fails(done, 125, word, "was not run")


@test
def run_waits_over_the_end_of_a_daemon():
    with daemon_that_answers(b"", DONE) as (path, calls):
        done = m.as_user(m.SCNPM, "run", "--wait", "--socket", path, *ECHO)
        m.equal((len(calls), done.stderr), (2, ""), "how often was asked, and what is said")


@test
def run_without_the_daemon_is_a_warning_and_with_wait_an_error():
    m.stop("scnpm.service")
    done = m.as_user(m.SCNPM, "run", "--socket", NO_SOCKET, *ECHO)
    m.check(done.stdout and "systemctl start scnpm" in done.stderr, f"{done}")
    fails(m.as_user(m.SCNPM, "run", "--wait", "--socket", NO_SOCKET, *ECHO, ok=False), 125, "systemctl start scnpm")
    done = m.as_user(m.SCNPM, "run", "--no-wait", "--socket", NO_SOCKET, *ECHO)
    m.equal(done.stderr, "", "what is said without waiting")


@test
def run_is_let_through_at_its_first_try():
    m.start_with(m.selected(f"{m.USER}:app:t-mail"))
    for number in range(20):
        options = ["--service"] if number % 4 == 3 else []
        done = m.as_user(m.SCNPM, "run", "--wait", "--app=t-mail", *options, "--", "sh", "-c", m.connects("mail"), ok=False)
        m.equal((done.returncode, done.stderr), (0, ""), f"start {number}")
    m.equal(m.tries("mail"), ["ok"] * 20, "first tries")


# docs/desktop.md


def launchers():
    """The blocks about starting applications, by what is above each."""
    text = pathlib.Path("/opt/tests/desktop.md").read_text()
    section = text.split("## Start it with its rules in force")[1].split("\n## ")[0]
    return m.blocks_below(section)


@contextlib.contextmanager
def thunderbird():
    """An application that tries at once; the place where it says its cgroup and arguments."""
    program, said = pathlib.Path("/usr/local/bin/thunderbird"), pathlib.Path("/run/t-thunderbird")
    said.touch()
    said.chmod(0o666)
    connect = m.connects("thunderbird")
    program.write_text(f'#!/bin/sh\n{connect}\n{{ {OWN_CGROUP}; echo "$@"; }} >{said}\n')
    program.chmod(0o755)
    try:
        yield said
    finally:
        program.unlink()
        said.unlink()


@test
def run_starts_applications_as_the_documentation_has_it():
    m.start_with(*[m.selected(f"{m.USER}:app:{each}") for each in ["mail", "thunderbird"]])
    blocks = launchers()
    entry = pathlib.Path("/etc/xdg/autostart/t-mail.desktop")
    prefixed = {title: code.removeprefix("launch-prefix=") + " thunderbird" for title, code in blocks.items()}
    bound = {title: re.split(r'\bexec,? |_cmd\("', code)[-1].removesuffix('"))') for title, code in blocks.items()}
    tried = set()

    def starts(title, command, app="mail", slice_name=""):
        name = next(name for name in blocks if name.startswith(title))
        tried.add(name)
        m.as_user("bash", "-c", command[name] if isinstance(command, dict) else command)
        m.eventually(lambda: said.read_text(), f"{name}: it was not started")
        m.check(said.read_text().startswith(f"{m.USER_SLICE}/{slice_name}app-scnpm-{app}-"), f"{name}: {said.read_text()}")
        m.equal(m.tries("thunderbird"), ["ok"], f"{name}: its first try")
        (m.TRIES / "thunderbird").unlink()
        said.write_text("")

    with thunderbird() as said:
        starts("An application", blocks)
        alias = next(code for title, code in blocks.items() if title.startswith("In a shell"))
        starts("In a shell", f"shopt -s expand_aliases\n{alias}\nthunderbird")
        starts("sway", bound)
        starts("Hyprland", bound)
        starts("Older versions of Hyprland", bound)
        starts("fuzzel, for", prefixed, app="thunderbird")
        starts("fuzzel, with", {name: f"FUZZEL_DESKTOP_FILE_ID=mail.desktop {code}" for name, code in prefixed.items()})
        starts("uwsm", prefixed, app="thunderbird", slice_name="app-graphical.slice/")
        m.unit(entry.name, next(code for title, code in blocks.items() if title.startswith("In the menus")) + "\n", entry.parent)
        try:
            m.reload_units()
            starts("In the menus", "systemctl --user start app-t\\\\x2dmail@autostart.service")
        finally:
            entry.unlink()
            m.reload_units()
    m.equal(tried, set(blocks), "blocks that are tried")


# --service


@test
def run_service_is_like_the_command_itself():
    where, _ = cgroup_of("--service", "--app=t-mail", "--")
    m.check(re.fullmatch(re.escape(f"{m.USER_SLICE}/app-scnpm-t\\x2dmail@") + r"\d+\.service", where), where)
    where, _ = cgroup_of("--service", "--unit=t-run", "--slice=app-t")
    m.equal(where, f"{m.USER_SLICE}/app-t.slice/t-run.service", "the cgroup of a named service")
    m.equal(scnpm_run("--service", "--", "cat", input="in\n").stdout, "in\n", "through stdin and stdout")
    done = scnpm_run("--service", "--", "sh", "-c", "echo out; echo err >&2; exit 7", ok=False)
    m.equal((done.stdout, done.stderr, done.returncode), ("out\n", "err\n", 7), "output and exit status")
    done = scnpm_run("--service", "--", "sh", "-c", "kill -KILL $$", ok=False)
    m.equal((done.stderr, done.returncode), ("", 137), "the end by a signal")
    words = ["", "a\nb", "$HOME ${PATH} %h \\x41", "\udcff\udc80", "'\"", "\x1b[31m", "-c:300", "--"]
    program = ["python3", "-c", "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['ODD'])", *words]
    done = m.as_user("env", "ODD=a $b %c\nd\x1b", *[m.SCNPM, "run", "--no-wait", "--service", "--"], *program, cwd="/tmp")
    m.equal(done.stdout, f"{words!r} /tmp a $b %c\nd\x1b\n", "arguments, directory and environment")
    fails(scnpm_run("--service", "--", "t-no-such", ok=False), 127, "`t-no-such`")
    fails(scnpm_run("--service", "--unit=t-run.scope", "--", "true", ok=False), 125, ".scope")
    m.equal(m.as_user("systemctl", "--user", "list-units", "--all", "--plain", "--no-legend", "*scnpm*").stdout, "", "left over")


@test
def run_service_passes_signals_on():
    for number in [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]:
        shell = "echo begun; trap 'echo caught; exit 3' TERM INT HUP; sleep 60 & wait"
        command = user_command(m.SCNPM, "run", "--no-wait", "--service", "--unit=t-run", "--", "bash", "-c", shell)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            m.equal(run.stdout.readline(), "begun\n", "the beginning")
            time.sleep(0.3)
            run.send_signal(number)
            m.equal(run.stdout.read(), "caught\n", f"what comes of {number.name}")
            m.equal(run.wait(), 3, "exit status")
        m.eventually(lambda: not (m.CGROUPS / m.USER_SLICE / "t-run.service").exists(), "the service is not gone")
    with Terminal() as terminal:
        terminal.type(f"{m.SCNPM} run --no-wait --service -- sh -c 'echo be''gun; exec sleep 60'\n")
        terminal.expect("begun")
        terminal.type("\x03")
        terminal.type("echo code=$?.\n")
        terminal.expect("code=130.")


@test
def run_service_says_that_a_name_is_taken():
    with subprocess.Popen(user_command(m.SCNPM, "run", "--no-wait", "--service", "--unit=t-run", "--", "sleep", "60")) as first:
        try:
            m.eventually(lambda: (m.CGROUPS / m.USER_SLICE / "t-run.service").exists(), "no service")
            fails(scnpm_run("--service", "--unit=t-run", "--", "true", ok=False), 125, "t-run.service already")
        finally:
            m.as_user("systemctl", "--user", "stop", "t-run.service")
            m.equal(first.wait(), 128 + signal.SIGTERM, "the end by systemd")
