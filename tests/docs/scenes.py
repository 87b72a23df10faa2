"""What a page of docs takes for granted: the functions that `<!-- setup: NAME WORDS -->` calls, with words as in a shell."""

import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import threading

import machine as m

FILES = {}
UNITS = set()
LISTENERS = []
APPLICATIONS = set()
DEFAULT = "#!/usr/sbin/nft -f\n\nflush ruleset\n"


def write(path, text, append=False):
    """A file of a page. What it was before comes back at the end of the page."""
    path = pathlib.Path(path)
    before = path.read_bytes() if path.exists() else None
    FILES.setdefault(path, before)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((before or b"").decode() + "\n" + text if append else text)
    path.chmod(0o755 if text.startswith("#!") else 0o644)
    if path.parts[1] == "home":
        shutil.chown(path, path.parts[2], path.parts[2])
    if path.suffix in [".service", ".socket", ".timer", ".target", ".slice", ".conf"] and "systemd" in path.parts:
        m.reload_units()


def start():
    m.load_base()
    m.run("systemctl", "reset-failed", ok=False)
    m.run("systemctl", "restart", "scnpm.service")
    m.eventually(lambda: status().returncode != 3, lambda: f"the daemon does not answer: {m.log()}")


def policy():
    start()
    is_in_force()


def reload():
    m.run("systemctl", "reload", "scnpm.service")
    is_in_force()


def is_in_force():
    m.eventually(lambda: status().returncode == 0, lambda: f"not all is in force: {status().stdout}{m.log()}", patience=10)


def status():
    return m.run(m.SCNPM, "status", ok=False)


def unit(name, *command):
    if not (pathlib.Path("/etc/systemd/system") / name).exists():
        command = shlex.join(command) if command else "/bin/sleep infinity"
        write(f"/run/systemd/system/{name}", f"[Service]\nExecStart={command}\n")
    UNITS.add(name)


def service(name, *command):
    unit(name, *command)
    m.start(name)


def app(user, name):
    """As desktops name the units of applications."""
    uid = pathlib.Path(f"/home/{user}").stat().st_uid
    number = len(APPLICATIONS) + 1
    command = ["systemd-run", "--user", "--quiet", "--collect", f"--unit=app-{name}-{number}.service", "--slice=app.slice"]
    m.as_user(*command, "/bin/sleep", "infinity", uid=uid)
    APPLICATIONS.add((uid, f"app-{name}-{number}.service"))


def scope(user, name):
    """An application of the user that is a scope."""
    uid = pathlib.Path(f"/home/{user}").stat().st_uid
    words = ["systemd-run", "--user", "--quiet", "--scope", f"--unit={name}", "--slice=app.slice", "sleep", "infinity"]
    environment = {"XDG_RUNTIME_DIR": f"/run/user/{uid}", "PATH": os.environ["PATH"]}
    subprocess.Popen(["setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups", *words], env=environment)
    m.eventually(lambda: list(m.CGROUPS.glob(f"user.slice/user-{uid}.slice/**/{name}")), f"{name} does not start")
    APPLICATIONS.add((uid, name))


def host(name, address):
    write("/etc/hosts", f"{address} {name}\n", append=True)


def listen(*ports):
    for port in ports:
        listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
        LISTENERS.append(listener)
        threading.Thread(target=accept, args=(listener,), daemon=True).start()


def accept(listener):
    try:
        while True:
            listener.accept()[0].close()
    except OSError:
        pass


CONNECT = """
import socket, sys
host, port, how = sys.argv[1:]
for _ in range(1 if how == "udp" else int(how)):
    try:
        if how == "udp":
            info = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            socket.socket(*info[:3]).sendto(b"x", info[4])
        else:
            socket.create_connection((host, port), timeout=0.3)
    except OSError:
        pass
"""


def connect(name, address, port, how="1"):
    [cgroup] = m.CGROUPS.glob(f"**/{name}")

    def move():
        (cgroup / "cgroup.procs").write_text("0")

    m.run("python3", "-c", CONNECT, address, port, how, preexec_fn=move)


def wait(*words):
    command = " ".join(words)
    m.eventually(lambda: m.run("bash", "-c", command, ok=False).returncode == 0, f"`{command}` fails", patience=10)


def sh(*words):
    m.run("bash", "-ec", " ".join(words))


def empty():
    """Nothing of a page is left."""
    while LISTENERS:
        listener = LISTENERS.pop()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for uid, name in APPLICATIONS:
        m.as_user("systemctl", "--user", "stop", name, uid=uid, ok=False)
    APPLICATIONS.clear()
    m.run("systemctl", "stop", *UNITS, "scnpm.service", "scnpm-names.service", "nftables.service", ok=False)
    UNITS.clear()
    for path, before in FILES.items():
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)
    FILES.clear()
    m.CONF.write_text(DEFAULT)
    m.CONF.chmod(0o755)
    m.run("systemctl", "disable", "--quiet", "scnpm.service", "nftables.service", ok=False)
    m.reset()
