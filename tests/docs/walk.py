"""walk.py PAGE...: runs the commands of pages of docs as they are written there, and compares what they print with the page.
README.md beside this file says how pages are marked up."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(__file__))
import machine as m
import page as pages
import scenes

PAGES = pathlib.Path("/opt/tests/pages")
WORK = pathlib.Path("/home/alice/work")
# Where the last command has left each user.
DIRECTORY = pathlib.Path("/run/walk-directory")
PATIENCE = 60
USERS = {
    "user": {"HOME": "/home/alice", "USER": "alice", "LOGNAME": "alice", "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/games"},
    "root": {"HOME": "/root", "USER": "root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
}
SHELL = 'cd "$1"; trap "pwd >/run/walk-directory" EXIT; eval "$2"'


def rename(old, new, uid):
    """The tests' user gets the name that the pages use."""
    m.run("loginctl", "terminate-user", old, ok=False)
    m.run("systemctl", "stop", f"user@{uid}.service", f"user-{uid}.slice", ok=False)
    m.run("usermod", "--login", new, "--home", f"/home/{new}", "--move-home", old)
    m.run("groupmod", "--new-name", new, old)
    # systemd-logind goes on to look for the old name: without that, the user's manager ends with the next session.
    m.run("loginctl", "enable-linger", new)
    m.run("systemctl", "start", f"user@{uid}.service")


def prepare():
    units = list(pathlib.Path("/etc/systemd/system").glob("t-boot-*"))
    for command in [["stop"], ["disable", "--quiet"]]:
        m.run("systemctl", *command, *[path.name for path in units], ok=False)
    for path in units:
        path.unlink()
    rename(m.USER, "alice", m.UID)
    rename(m.OTHER, "bob", m.OTHER_UID)
    m.USER, m.OTHER = "alice", "bob"
    for words in [
        "link add uplink type vxlan id 1 local 127.0.0.1 dstport 4789", "addr add 192.0.2.2/24 dev uplink",
        "-6 addr add 2001:db8::2/64 dev uplink nodad", "link set uplink up arp off", "route add default via 192.0.2.1",
        "-6 route add default via 2001:db8::1",
    ]:  # fmt: skip
        m.run("ip", *words.split())
    # Nobody waits for an answer from a name server.
    resolver = pathlib.Path("/etc/resolv.conf")
    resolver.unlink(missing_ok=True)
    resolver.write_text("nameserver 127.0.0.1\n")
    scenes.empty()


def environment(who):
    common = {"LANG": "C.UTF-8", "TERM": "xterm", "SYSTEMD_PAGER": "", "PAGER": "cat"}
    return common | USERS[who] | ({"XDG_RUNTIME_DIR": f"/run/user/{m.UID}"} if who == "user" else {})


def execute(command, typed=None):
    """Runs a command as it stands on a page. What it printed and its exit status. With `typed` it has a terminal, in which that is
    typed once it has printed something."""
    as_whom = ["setpriv", f"--reuid={m.UID}", f"--regid={m.UID}", "--init-groups"] if command.who == "user" else []
    shown, interrupt = command.output, "^C" in command.output
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        def said():
            output.seek(0)
            return output.read()

        words = ["bash", "-c", SHELL, "bash", DIRECTORY.read_text().strip(), command.text]
        if typed is not None:
            words = ["script", "--quiet", "--return", "--command", f"stty rows 40 cols 120; {shlex.join(words)}", "/dev/null"]
        process = subprocess.Popen(
            [*as_whom, *words], env=environment(command.who), stdin=subprocess.DEVNULL if typed is None else subprocess.PIPE,
            stdout=output, stderr=output, text=True, start_new_session=True,
        )  # fmt: skip
        end = time.monotonic() + PATIENCE
        if typed is not None:
            while not said() and time.monotonic() < end:
                time.sleep(0.02)
            time.sleep(0.5)
            process.stdin.write(typed)
            process.stdin.flush()
        while process.poll() is None and time.monotonic() < end:
            # What is to be seen may take a moment.
            is_time = time.monotonic() > end - PATIENCE + 2
            if interrupt and is_time and pages.is_as_shown(shown[: shown.index("^C")], said(), numbers_differ=True):
                os.killpg(process.pid, signal.SIGINT)
                interrupt = False
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return said() + f"(still runs after {PATIENCE} s)\n", -1
        return said(), process.returncode


def differs(command, status, numbers_differ, output, found):
    """What is not as the page says, or nothing."""
    shown = [line for line in command.output if line != "^C"]
    words = []
    if found != status and "^C" not in command.output:
        words.append(f"exit status {found}, not {status}")
    if shown and not pages.is_as_shown(shown, output, numbers_differ):
        words.append("another output. The page has:\n" + indented("\n".join(shown)))
    return "; ".join(words) and f"{'; '.join(words)}\n  It prints:\n{indented(output)}"


def indented(text):
    lines = text.splitlines()
    return "\n".join(f"    | {line}" for line in lines[:60] + ["…"] * (len(lines) > 60))


class Walk:
    """How far the tests have come in a page."""

    def __init__(self, page):
        self.page, self.ran, self.skipped, self.failed = page, 0, [], 0
        DIRECTORY.write_text(str(WORK))
        DIRECTORY.chmod(0o666)
        shutil.rmtree(WORK, ignore_errors=True)
        WORK.mkdir()
        os.chown(WORK, m.UID, m.UID)
        for package in pathlib.Path("/opt/tests/packages").glob("*"):
            shutil.copy(package, WORK)

    def fail(self, item, words):
        self.failed += 1
        print(f"FAIL {self.page}:{item.line}: {words}")

    def item(self, item):
        try:
            if isinstance(item, pages.Comment):
                self.comment(item)
                return
            if item.said("not run"):
                self.skipped.append(f"{self.page}:{item.line}: {' '.join(item.said('not run').split())}")
            elif item.language == "console":
                self.commands(item)
            elif item.said("file") or item.said("add to"):
                path = os.path.join(WORK, item.said("file") or item.said("add to"))
                scenes.write(path, item.text, append=item.said("file") is None)
            if item.said("checks"):
                self.check(item)
        except m.Failure as error:
            self.fail(item, error)
        except Exception as error:
            self.fail(item, f"{type(error).__name__}: {error}")

    def comment(self, comment):
        if comment.key == "write":
            path, _, text = comment.words.partition("\n")
            scenes.write(os.path.join(WORK, path), text + "\n")
        for line in comment.words.splitlines() if comment.key == "setup" else []:
            self.setup(line)

    def setup(self, line):
        name, *words = line.split() if line.split()[0] in ["sh", "wait"] else shlex.split(line)
        getattr(scenes, name)(*words)

    def check(self, block):
        """What `scnpm check` finds in the block behind the page's nftables.conf."""
        expected, frame, is_alone = pages.checks(block)
        is_there = block.said("add to") or block.said("file")
        path = WORK / "checked.conf"
        path.write_text(("" if is_alone else m.CONF.read_text()) + ("" if is_there else "\n" + frame.replace("…", "\n" + block.text)))
        done = m.run(m.SCNPM, "check", "--json", str(path), ok=False, cwd=WORK)
        found = [each["code"] for each in json.loads(done.stdout)["findings"]]
        self.ran += 1
        # Of units that a page makes up.
        found = {code for code in found if code != "W003" or code in expected}
        if found != expected:
            said = m.run(m.SCNPM, "check", "--format", "short", str(path), ok=False, cwd=WORK).stdout
            self.fail(block, f"scnpm check finds {sorted(found)}, not {sorted(expected)}:\n{indented(said)}")
        path.unlink()

    def commands(self, block):
        needs = block.said("needs")
        if needs and not shutil.which(needs) and not os.path.exists(needs):
            self.skipped.append(f"{self.page}:{block.line}: {needs} is missing")
            return
        commands = pages.commands(block)
        for command, status in zip(commands, pages.statuses(block, len(commands))):
            output, found = execute(command, block.said("types") and block.said("types").replace("Enter", "\n").replace(" ", ""))
            self.ran += 1
            if words := differs(command, status, block.said("differ") == "numbers", output, found):
                self.fail(block, f"`{command.text}`: {words}")


def walk(page, heading=None):
    """Runs a page, or its section with this heading."""
    began = time.monotonic()
    state = Walk(page)
    items = pages.parse(page, (PAGES / page).read_text())
    for item in items:
        if heading is None or heading in item.headings:
            state.item(item)
    verdict = "FAIL" if state.failed else "ok"
    print(f"{verdict} {page}: {state.ran} commands ({time.monotonic() - began:.1f} s)")
    return state


def recipes():
    """The pages that a recipe runs."""
    found = {}
    for path in pathlib.Path("/opt/tests").glob("*.py"):
        for name in re.findall(r'(?m)^PAGE = "(.*)"', path.read_text()):
            found[f"docs/{name}"] = path.stem
    return found


def main(chosen):
    left = recipes()
    places = [str(path.relative_to(PAGES)) for path in [*sorted(PAGES.glob("*.md")), *sorted(PAGES.glob("docs/*.md"))]]
    # The README begins with the package, and the other pages where scnpm is installed.
    if m.pathlib.Path("/opt/tests/packages").exists():
        places = ["README.md"]
    else:
        places.remove("README.md")
    chosen = [each.removesuffix(".md") + ".md" for each in chosen] or [place for place in places if place not in left]
    prepare()
    states = []
    for page in chosen:
        states.append(walk(page))
        scenes.empty()
    for words in [words for state in states for words in state.skipped]:
        print(f"not run: {words}")
    ran, skipped, failed = (sum(counts) for counts in zip(*[(each.ran, len(each.skipped), each.failed) for each in states]))
    print(f"{ran} commands of {len(states)} pages run, {skipped} blocks not run, {failed} failed")
    return 1 if failed or not ran else 0


if __name__ == "__main__":
    # What a shell starts in the background ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
