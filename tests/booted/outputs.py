"""What commands print, as a person last looked at it, which inside.py checks among its own tests. outputs/NAME.txt has
each command line, its output (what goes to stderr has a `!` in front) and its exit status.

With SCNPM_BLESS=1, run.sh keeps what is printed now; look at it with git diff. What differs from run to run is put in by
NORMALISED, which knows its form: another word, or another form, is a difference."""

import concurrent.futures
import contextlib
import difflib
import os
import pathlib
import re
import subprocess

import machine as m

TESTS = []
GOLDEN = pathlib.Path(__file__).parent / "outputs"
IS_BLESSING = bool(os.environ.get("SCNPM_BLESS"))

UNIT = "t-shown.service"
CGROUP = f"system.slice/{UNIT}"
OWN = "t-own.service"
OWN_CGROUP = f"{m.USER_SLICE}/{OWN}"

# What differs from run to run: its form, and what is put in its place.
NORMALISED = [
    (r"\bscnpm \d+\.\d+\.\d+\b", "scnpm VERSION"),
    (r'"daemon": "\d+\.\d+\.\d+"', '"daemon": "VERSION"'),
    (r"\bprocess \d+\b", "process PID"),
    (r"\bpid:\d+\b", "pid:PID"),
    (r"(?m)^(  processes )\d+\b", r"\1PID"),
    (r"\bid \d+\b", "id ID"),
    # nft's, until 1.0.9.
    (r"‘([^’]*)’", r"'\1'"),
    (r"(\bscnpm\.[\w.]+) \d+(?= :)", r"\1 ID"),
    (r"\bID +ANNOTATIONS\b", "ID  ANNOTATIONS"),
    (r"(?m)^(t-\S+ +\w+ +\d+ +\S+ +)\d+ +(?=\S+$)", r"\1ID  "),
    (r"\bloaded \d+ s ago\b", "loaded N s ago"),
    (r"\bgoes back in \d+ s(?=:)", "goes back in N s"),
    (r'"(pid|id|cgroup_id|loaded_at|first|median_us|worst_us|waited_ms|on_trial_ms)": \d+', r'"\1": N'),
]


# Which source is the first to tell of a cgroup is chance if there are several.
FIGURES = r"first to tell (?:once|\d+ times); rules after \d+\.\d ms \(median\), \d+\.\d ms \(worst\)"
OF_ONE = (FIGURES, "FIGURES")
OF_SEVERAL = (rf"(?m)(?<=working)(, ({FIGURES}|first to tell (once|\d+ times)))?$", ", FIGURES")


def test(function):
    TESTS.append(function)
    return function


def normalised(text, figures):
    for form, word in [*NORMALISED, figures]:
        text = re.sub(form, word, text)
    return text


class Session:
    """Commands of one golden, and what came of them."""

    def __init__(self, figures):
        self.text = ""
        self.figures = figures

    def root(self, *words, **options):
        self._note("root#", words, m.run(*words, ok=False, **options))

    def user(self, *words, uid=m.UID, **options):
        self._note(f"{m.USER if uid == m.UID else m.OTHER}$", words, m.as_user(*words, uid=uid, ok=False, **options))

    def at_the_same_time(self, *commands):
        """For those that take their time; `by` is how each is run."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            begun = [(by, words, pool.submit(by, *words, ok=False)) for by, *words in commands]
        for by, words, done in begun:
            self._note("root#" if by is m.run else f"{m.USER}$", words, done.result())

    def comment(self, text):
        """What is done between the commands, for who reads it."""
        self.text += f"({text})\n\n"

    def _note(self, prompt, words, done):
        line = " ".join(f"'{word}'" if not word or re.search(r"[^\w@:./=,+-]", word) else word for word in words)
        said = "".join(f"! {line}\n" for line in done.stderr.splitlines())
        status = f"exit status {done.returncode}\n" if done.returncode else ""
        self.text += normalised(f"{prompt} {line}\n{done.stdout}{said}{status}\n", self.figures)


@contextlib.contextmanager
def golden(name, figures=OF_SEVERAL):
    """Compares what the session has in the end with the file of that name."""
    session = Session(figures)
    yield session
    path = GOLDEN / f"{name}.txt"
    if IS_BLESSING:
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(session.text)
        return
    kept = path.read_text() if path.exists() else ""
    different = difflib.unified_diff(kept.splitlines(), session.text.splitlines(), "kept", "printed", lineterm="", n=2)
    m.check(kept == session.text, lambda: f"outputs/{name}.txt is otherwise (SCNPM_BLESS=1 takes it over):\n" + "\n".join(different))


def sleeper(name, where=m.UNITS):
    m.service(name, "ExecStart=/bin/sleep infinity", where=where)


def sleepers():
    """A unit of the system's and one of a user's, which run."""
    sleeper(UNIT)
    sleeper(OWN, m.USER_UNITS)
    m.reload_units()
    m.start(UNIT)
    m.as_user("systemctl", "--user", "start", OWN)


def count(rule):
    return f"# scnpm: count\n{rule}"


SCNPM = "scnpm"


@test
def output_of_status():
    sleepers()
    m.start_with(
        count(m.system_rule(UNIT)), m.selected(f"{m.USER}:{OWN}", port=7002), m.selected(f"{m.OTHER}:app:mail"),
        m.system_rule("t-idle.service"), m.system_rule("t-mounted.mount"),
    )  # fmt: skip
    m.is_let_through(CGROUP)
    m.linted()
    with golden("status") as session:
        session.root(SCNPM, "status")
        session.user(SCNPM, "status")
        session.user(SCNPM, "status", uid=m.OTHER_UID)
        session.root(SCNPM, "status", UNIT)
        session.root(SCNPM, "status", "t-idle")
        session.root("timeout", "1", SCNPM, "status", "--watch", UNIT)
        session.root(SCNPM, "status", f"{m.USER}:{OWN}")
        session.root(SCNPM, "status", "t-nosuch.service")
        session.user(SCNPM, "status", OWN, uid=m.OTHER_UID)
        session.root(SCNPM, "status", "--jsno")
        session.root(SCNPM, "status", UNIT, OWN)
        session.root(SCNPM, "statsu")
        session.root(SCNPM, "status", "--socket", "/run/scnpm/contorl")


@test
def output_of_wait():
    sleepers()
    m.start_with(m.system_rule(UNIT), m.selected(f"{m.USER}:{OWN}"), m.system_rule("t-idle.service"))
    m.is_let_through(CGROUP)
    with golden("wait") as session:
        session.root(SCNPM, "wait", UNIT)
        session.root(SCNPM, "wait", "--json", UNIT)
        session.user(SCNPM, "wait", OWN)
        session.root(SCNPM, "wait", "t-other.service")
        session.root(SCNPM, "wait", "--cgroup", CGROUP)
        session.root(SCNPM, "wait", "--self")
        session.root(SCNPM, "wait", "t-idle.service", "--timeout", "0.1")
        session.root(SCNPM, "wait", "--timeout", "soon", UNIT)
        session.root(SCNPM, "wait")
        session.root(SCNPM, "wait", "t-shown.servise")
        session.root(SCNPM, "wait", "alice:ap:firefox")
        session.root(SCNPM, "wait", "--cgroup", "system.slice/../x")
        session.root(SCNPM, "wait", "--cgroup", "")
        session.root(SCNPM, "wait", "--sefl")
        session.user(SCNPM, "wait", "--cgroup", OWN_CGROUP, uid=m.OTHER_UID)


@test
def output_without_the_daemon():
    sleepers()
    m.stop("scnpm.service")
    m.write_policy(m.system_rule(UNIT))
    private = pathlib.Path("/run/t-private")
    private.mkdir(exist_ok=True)
    private.chmod(0o700)
    with golden("no-daemon") as session:
        session.root(SCNPM, "status")
        session.user(SCNPM, "status")
        session.root(SCNPM, "status", "--json")
        session.root(SCNPM, "reload")
        session.root(SCNPM, "reload", "--confirm")
        session.at_the_same_time(
            [m.run, SCNPM, "wait", UNIT],
            [m.run, SCNPM, "wait", "--or-continue", UNIT],
            [m.as_user, SCNPM, "run", "--", "echo", "it runs"],
            [m.as_user, SCNPM, "run", "--wait", "--", "echo", "it runs"],
        )
        session.root(SCNPM, "explain", UNIT)
        session.user(SCNPM, "explain", UNIT)
        session.root(SCNPM, "units", "t-")
        session.root(SCNPM, "status", "--socket", "/run/scnpm/contorl")
        session.user(SCNPM, "status", "--socket", f"{private}/control")
    private.rmdir()


@test
def output_of_run():
    m.start_with(m.selected(f"{m.USER}:app:t-mail"))
    m.run("systemctl", "stop", f"user@{m.OTHER_UID}.service", ok=False)
    with golden("run") as session:
        session.user(SCNPM, "run", "--app", "t-mail", "--", "echo", "it runs")
        session.user(SCNPM, "run", "--unit", "_odd", "--", "sed", "-n", "s,^0::,,p", "/proc/self/cgroup")
        session.user(SCNPM, "run")
        session.user(SCNPM, "run", "--app", "t-mail", "--")
        session.user(SCNPM, "run", "--", "t-nosuch", "-x")
        session.user(SCNPM, "run", "--", "/etc/passwd")
        session.user(SCNPM, "run", "--ap", "t-mail", "--", "true")
        session.user(SCNPM, "run", "--app", "alice:app:mail", "--", "true")
        session.user(SCNPM, "run", "--unit", "a b", "--", "true")
        session.user(SCNPM, "run", "--unit", "t-run.service", "--", "true")
        session.user(SCNPM, "run", "--slice", "app.service", "--", "true")
        session.user(SCNPM, "run", "--", "true", uid=m.OTHER_UID)


@test
def output_of_reload():
    sleeper(UNIT)
    m.reload_units()
    m.start(UNIT)
    m.start_with(m.system_rule(UNIT))
    m.is_let_through(CGROUP)
    good = m.CONF.read_text()
    broken = good + "# t-bad.service :: add rule inet filter alowed tcp dport 1 accept\n"
    warned = good + "# t-bad.servise :: add rule inet filter allowed tcp dport 1 accept\n"
    with golden("reload") as session:
        session.root(SCNPM, "reload")
        m.CONF.write_text(broken)
        session.comment("a line of the file has an error now")
        session.root(SCNPM, "reload")
        session.root("systemctl", "reload", "scnpm.service")
        session.root(SCNPM, "status")
        session.root(SCNPM, "reload", "--format", "short")
        session.root(SCNPM, "reload", "--json")
        m.CONF.write_text(warned)
        session.comment("it is another one")
        session.root(SCNPM, "reload")
        m.CONF.write_text(good)
        session.comment("it is right again")
        session.root(SCNPM, "reload", "--try", "60", input="y\n")
        session.root(SCNPM, "reload", "--try", "60", input="n\n")
        session.root(SCNPM, "reload", "--try=60", stdin=subprocess.DEVNULL)
        session.root(SCNPM, "status")
        session.root(SCNPM, "reload", "--confirm")
        session.root(SCNPM, "reload", "--confirm")
        reader, writer = os.pipe()
        session.root(SCNPM, "reload", "--try", "300ms", stdin=reader)
        os.close(reader)
        os.close(writer)
        session.root(SCNPM, "status", "t-shown")
        session.user(SCNPM, "reload")
        session.root(SCNPM, "reload", "--try", "soon")
        session.root(SCNPM, "reload", "--formt", "short")
        m.CONF.unlink()
        session.comment("it is gone")
        session.root(SCNPM, "reload")


@test
def output_of_status_if_something_is_wrong():
    sleepers()
    sleeper("t-second.service")
    m.reload_units()
    m.start_with(
        count(m.system_rule(UNIT)), m.selected(f"{m.OTHER}:app:mail"),
        f'# {UNIT} :: add element inet filter few {{ "{CGROUP}" }}\n',
        '# t-second.service :: add element inet filter few { "system.slice/t-second.service" }\n',
        "# t-bad.service :: add rule inet filter alowed tcp dport 7003 accept\n",
        "# t-warned.servise :: add rule inet filter allowed tcp dport 7003 accept\n",
        "# t-refused.service :: add rule inet filter allowed ip daddr != t-nosuch.invalid tcp dport 7003 accept\n",
        options=["--sources", "cgroup"],
        base=m.BASE.replace("chain allowed", "set few { type cgroupsv2; size 1; }\n    chain allowed"),
    )  # fmt: skip
    # So that there is something to say of how long a rule took.
    m.run("systemctl", "restart", UNIT)
    m.is_let_through(CGROUP)
    m.start("t-second.service")
    m.linted()
    m.CONF.write_text(m.CONF.read_text() + "\n")
    m.eventually(lambda: "refused" in m.run(SCNPM, "status", "t-second", ok=False).stdout, "the kernel does not refuse it")
    with golden("status-wrong", figures=OF_ONE) as session:
        session.root(SCNPM, "status")
        session.root(SCNPM, "status", "t-second")
        session.root(SCNPM, "status", UNIT)
        session.root(SCNPM, "status", "t-bad.service")
        session.root(SCNPM, "wait", "t-bad.service")
        session.root(SCNPM, "wait", "t-second.service", "--json")
        session.root(SCNPM, "explain", "t-second.service")
        session.user(SCNPM, "status", "t-refused")
        session.root(SCNPM, "status", UNIT, "--json")
        session.root(SCNPM, "status", "t-second", "--json")


@test
def output_of_explain():
    sleepers()
    m.service("t-web.service", "ExecStart=/usr/bin/python3 -m http.server 7012 --bind 127.0.0.1")
    m.reload_units()
    m.start("t-web.service")
    m.start_with(count(m.system_rule(UNIT)), m.selected(f"{m.USER}:{OWN}", port=7002), m.system_rule("t-idle.service"))
    m.is_let_through(CGROUP)
    m.eventually(lambda: m.run(m.CONNECT, "7012", "/dev/null", ok=False).returncode == 0, "t-web.service does not listen")
    pid = m.show(UNIT, "MainPID")
    with golden("explain") as session:
        session.root(SCNPM, "explain", UNIT)
        session.root(SCNPM, "explain", f"pid:{pid}")
        session.root(SCNPM, "explain", ":7012")
        session.root(SCNPM, "explain", OWN)
        session.root(SCNPM, "explain", UNIT, "--to", "127.0.0.1:7001")
        session.root(SCNPM, "explain", UNIT, "--to", "127.0.0.1:7002")
        session.root(SCNPM, "explain", UNIT, "--to", "127.0.0.1:7001", "--no-probe")
        session.user(SCNPM, "explain", UNIT, "--to", "127.0.0.1:7001")
        session.root(SCNPM, "explain", "t-idle.service")
        session.root(SCNPM, "explain", "t-nosuch.service")
        session.root(SCNPM, "explain", "pid:4000000")
        session.root(SCNPM, "explain", ":1")
        session.root(SCNPM, "explain", "127.0.0.1")
        session.root(SCNPM, "explain", UNIT, "--to", "127.0.0.1")
        session.root(SCNPM, "explain", UNIT, "--to", "127.0.0.1:7001", "--proto", "tpc")
        session.root(SCNPM, "explain", UNIT, "--too", "127.0.0.1:7001")
        session.root(SCNPM, "explain")
        session.root(SCNPM, "explain", UNIT, "--to", "127.0.0.1:7002", "--json")


@test
def output_of_units():
    sleepers()
    m.write_policy(m.system_rule(UNIT), m.selected(f"{m.USER}:{OWN}", port=7002))
    with golden("units") as session:
        session.root(SCNPM, "units", "t-")
        session.root(SCNPM, "units", f"{m.USER}:{OWN}")
        session.user(SCNPM, "units", "t-")
        session.root(SCNPM, "units", "--annotate", "t-")
        session.root(SCNPM, "units", "t-nosuch")
        session.root(SCNPM, "units", "t-", "--file", "/etc/nftable.conf")
        session.root(SCNPM, "units", "t-", "--chain", "inet filter allowed")
        session.root(SCNPM, "units", "--annotate", "t-", "--chain", "filter allowed")
        session.root(SCNPM, "units", "--annotat", "t-")
        session.root(SCNPM, "units", "--json", "t-")


@test
def outputs_are_all_looked_at():
    """A golden that no test has is a defect."""
    used = set(re.findall(r'golden\("([\w-]+)"', pathlib.Path(__file__).read_text()))
    m.equal({path.stem for path in GOLDEN.glob("*.txt")}, used, "files in outputs/")
