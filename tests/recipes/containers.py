"""The recipes of docs/containers.md, with podman and systemd-nspawn.

Arguments: words; only recipes with one of them in their names run."""

import os
import pathlib
import re
import shutil
import signal
import socket
import threading

import recipe
from recipe import m

PAGE = "containers.md"
# On this machine, and not 127.0.0.1, which in a container's own network is the container.
ADDRESS = "198.51.100.1"
PORT = 7080
MACHINES = pathlib.Path("/var/lib/machines")
QUADLETS = pathlib.Path("/etc/containers/systemd")
HOME = pathlib.Path(f"/home/{m.USER}")
# One connection as soon as it runs, then nothing until it is ended.
PROGRAM = f"#!/bin/sh\nnc -w 3 {ADDRESS} {PORT} </dev/null\ntrap 'exit 0' TERM INT\nsleep 1000 &\nwait\n"
HAS_QUADLETS = pathlib.Path("/usr/libexec/podman/quadlet").exists()

# What the machine of the tests lacks: keys and limits of containers, controllers, and of Debian 12's crun the right to raise
# RLIMIT_MEMLOCK, which it wants for rules about devices.
CONTAINERS_CONF = """[containers]
pids_limit = 0
keyring = false
[engine.runtimes]
crun = ["/usr/local/bin/crun-without-devices"]
"""
CRUN = """#!/usr/bin/python3
import json, os, sys
arguments = sys.argv[1:]
if "--bundle" in arguments:
    path = arguments[arguments.index("--bundle") + 1] + "/config.json"
    config = json.load(open(path))
    config["linux"].get("resources", {}).pop("devices", None)
    json.dump(config, open(path, "w"))
os.execv("/usr/bin/crun", ["crun", *arguments])
"""


class Listener:
    """Counts the connections that come to the port."""

    def __init__(self):
        self.count = 0
        self.socket = socket.create_server((ADDRESS, PORT), backlog=128)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            self.socket.accept()[0].close()
            self.count += 1


def refusals():
    """How many connections were refused since the file was loaded."""
    found = re.search(rf"tcp dport {PORT} counter packets (\d+)", m.ruleset())
    return int(found[1]) if found else 0


def attempt(start):
    """Whether the one connection that something makes passes."""
    passed, refused = listener.count, refusals()
    start()
    m.eventually(lambda: listener.count > passed or refusals() > refused, "no connection was tried")
    m.check(listener.count + refusals() == passed + refused + 1, "more than one connection was tried")
    return listener.count > passed


def passes(start, what):
    m.check(attempt(start), lambda: f"{what} is refused\n{m.ruleset()}\n{m.run(m.SCNPM, 'units').stdout}")


def is_refused(start, what):
    m.check(not attempt(start), f"{what} passes")


def blocks(heading):
    return [block.replace("alice:", f"{m.USER}:") for block in recipe.blocks(PAGE, heading)]


def policy(*annotations):
    m.write_policy(*annotations, base=recipe.blocks(PAGE, "The file")[0])


def begin(*annotations):
    policy(*annotations)
    m.load_base()
    m.start_daemon()
    m.says("elements in the kernel")


def podman(*arguments, run=m.run):
    return run("podman", *arguments)


def another():
    podman("run", "-d", "--rm", "--replace", "--network=host", "--name=other", "localhost/web")


def end_another():
    podman("rm", "-f", "-t", "0", "other")


def goes_with_its_policy(start, stop, annotation, restarts=3):
    """First connections pass at each start; no others do; and they don't without the annotation, or with it once more."""
    begin(annotation)
    passed = 0
    for _ in range(restarts):
        passed += attempt(start)
        stop()
    m.equal(passed, restarts, "first connections that passed")
    is_refused(another, "another container")
    end_another()
    policy()
    m.run("systemctl", "reload", "scnpm.service")
    is_refused(start, "a container without its annotation")
    stop()
    policy(annotation)
    m.run("systemctl", "reload", "scnpm.service")
    passes(start, "a container whose annotation is there again")
    stop()
    m.run("systemctl", "restart", "scnpm.service")
    m.says("elements in the kernel")
    passes(start, "a container after a restart of scnpm")
    stop()
    return f"{passed} of {restarts}"


def system_unit(name):
    return lambda: m.start(name), lambda: m.stop(name)


def quadlet_is_selected_by_its_unit():
    file, annotation = blocks("A quadlet")
    QUADLETS.mkdir(parents=True, exist_ok=True)
    (QUADLETS / "web.container").write_text(file)
    m.reload_units()
    recipe.figure("quadlet, host's network", goes_with_its_policy(*system_unit("web.service"), annotation))
    m.equal(m.codes(m.checked()), [], "what check says")
    # Without Network= it has a bridge.
    (QUADLETS / "web.container").write_text(file.replace("Network=host\n", ""))
    m.reload_units()
    m.equal(m.codes(m.checked()), ["W041"], "what check says of a bridge")


def unit_is_selected_that_keeps_its_container():
    file, annotation = blocks("A unit")
    m.unit("web.service", file)
    m.reload_units()
    start, stop = system_unit("web.service")
    recipe.figure("unit, --cgroups=split", goes_with_its_policy(start, stop, annotation))
    m.equal(m.codes(m.checked()), [], "what check says")
    # What `podman generate systemd` writes.
    m.unit("web.service", file.replace("--cgroups=split", "--cgroups=no-conmon"))
    m.reload_units()
    m.equal(m.codes(m.checked()), ["W041"], "what check says of a container outside of its unit")
    is_refused(start, "a container outside of its unit")
    said = m.run(m.SCNPM, "explain", "web.service").stdout
    m.check("in a cgroup of its own, machine.slice/libpod-" in said, said)
    stop()


def slice_is_selected_that_was_chosen():
    command, annotation = blocks("A slice")
    words = command.removeprefix("# ").split()
    recipe.figure("--cgroup-parent, slice made anew", goes_with_its_policy(lambda: m.run(*words), end_web, annotation, 10))
    m.run(*words)
    offered = m.run(m.SCNPM, "units", "--annotate", "--chain", "inet filter containers", "libpod-")
    m.equal(offered.stdout, annotation, "what is offered for it")
    end_web()


def end_web():
    podman("rm", "-f", "-t", "0", "--ignore", "web")
    m.run("systemctl", "stop", "web.slice", ok=False)


def container_by_id_is_told():
    command, _ = blocks("A slice")
    m.run(*[word for word in command.removeprefix("# ").split() if not word.startswith("--cgroup-parent")])
    identity = podman("inspect", "--format={{.Id}}", "web").stdout.strip()
    begin(m.selected(f"system:libpod-{identity}.scope").replace("allowed", "containers"))
    m.equal(m.codes(m.checked()), ["W040"], "what check says")
    said = m.run(m.SCNPM, "units", "--annotate", "libpod-", ok=False)
    m.equal(said.stdout, "", "what is offered for it")
    m.check("which never comes back" in said.stderr, said.stderr)
    m.check("container web\n" in m.run(m.SCNPM, "explain", "web").stdout, "it is not found by its name")
    end_web()


def user_s_container_is_selected_by_its_unit():
    _, own_unit, annotation = blocks("A user's container")
    quadlet = blocks("A user's container")[0]
    if HAS_QUADLETS:
        place, text = HOME / ".config/containers/systemd/web.container", quadlet
    else:
        place, text = HOME / ".config/systemd/user/web.service", own_unit
        # podman 4.3 takes the hierarchies of cgroup v1 that this machine has beside v2 for somebody else's.
        os.chown("/sys/fs/cgroup", m.UID, m.UID)
    m.as_user("mkdir", "-p", str(place.parent))
    place.write_text(text)
    m.as_user("systemctl", "--user", "daemon-reload")

    def manage(verb):
        return lambda: m.as_user("systemctl", "--user", verb, "web.service")

    recipe.figure("user's unit, pasta or slirp4netns", goes_with_its_policy(manage("start"), manage("stop"), annotation))
    manage("start")()
    inside = int(podman("inspect", "--format={{.State.Pid}}", web_of_user(), run=m.as_user).stdout)
    said = m.run(m.SCNPM, "explain", str(inside)).stdout
    m.check("with a network of its own" in said, said)
    m.check("named by a container's ID" not in said, said)
    m.check(re.search(r"(pasta\S*|slirp4netns) \(process \d+\) in user.slice/.*/web.service", said), said)
    manage("stop")()
    place.unlink()
    os.chown("/sys/fs/cgroup", 0, 0)


def web_of_user():
    return "systemd-web" if HAS_QUADLETS else "web"


def rows_of_the_matrix_hold():
    """Whether a unit's rule matches what its `podman run` sends, and check says so."""
    unit = "[Service]\nDelegate=yes\nKillMode=mixed\nTimeoutStopSec=2\nExecStart=podman run --rm --replace --name=web {} localhost/web\n"
    rows = [
        ("--cgroups=split --network=host", True),
        ("--cgroups=disabled --network=host", True),
        ("--cgroups=no-conmon --network=host", False),
        ("--network=host", False),
        ("--network=host --cgroup-parent=web.slice", False),
        ("--network=slirp4netns", True),
        ("--network=slirp4netns --cgroups=split", True),
        ("--network=slirp4netns --cgroup-parent=web.slice", True),
    ]
    begin(m.selected("system:web.service", PORT).replace("allowed", "containers"))
    for options, is_matched in rows:
        m.unit("web.service", unit.format(options))
        m.reload_units()
        m.equal(attempt(lambda: m.start("web.service")), is_matched, options)
        m.equal(m.codes(m.checked()), [] if is_matched else ["W041"], f"what check says of {options}")
        m.stop("web.service")
        podman("rm", "-f", "-t", "0", "--ignore", "web")
    recipe.figure("units of podman that match or not, and check says so", f"{len(rows)} of {len(rows)}")


def pod_is_in_the_slice_that_was_chosen():
    begin(*blocks("A slice")[1:])
    podman("pod", "create", "--name=pod", "--network=host", "--cgroup-parent=web.slice", "--infra-image=localhost/web",
           "--infra-command=/bin/sleep 1000")
    passes(lambda: podman("run", "-d", "--pod=pod", "--name=web", "localhost/web"), "a container in a pod")
    podman("pod", "rm", "-f", "-t", "0", "pod")


def machine_is_selected_by_its_unit():
    file, by_unit, command, by_scope = blocks("A machine of systemd-nspawn")
    place = pathlib.Path("/etc/systemd/nspawn/web.nspawn")
    place.parent.mkdir(exist_ok=True)
    place.write_text(file)
    begin(by_unit, by_scope)
    m.equal(m.codes(m.checked()), [], "what check says of the host's network")
    place.write_text("[Network]\nPrivate=yes\n" + file.removeprefix("[Network]\n"))
    m.equal(m.codes(m.checked()), ["W041"], "what check says of another network")
    place.write_text(file)
    for _ in range(2):
        passes(lambda: m.run("machinectl", "start", "web"), "a machine")
        end_machine("web")
    m.unit("t-machine.service", f"[Service]\nKillMode=mixed\nExecStart={command.removeprefix('# ')}")
    m.reload_units()
    passes(lambda: m.start("t-machine.service"), "a machine in a scope of its own")
    end_machine("db")
    policy()
    m.run("systemctl", "reload", "scnpm.service")
    is_refused(lambda: m.run("machinectl", "start", "web"), "a machine without its annotation")
    end_machine("web")
    place.unlink()
    recipe.figure("machine, unit and scope", "3 of 3")


def end_machine(name):
    # nspawn itself has to tidy up.
    os.kill(int(m.run("machinectl", "show", "--property=Leader", "--value", name).stdout), signal.SIGKILL)
    m.eventually(lambda: m.run("machinectl", "show", name, ok=False).returncode != 0, f"{name} does not end")
    m.run("systemctl", "stop", "t-machine.service", f"systemd-nspawn@{name}.service", ok=False)
    m.run("systemctl", "reset-failed", ok=False)


def plain_cgroups_and_pods_have_their_rules():
    docker, kubernetes = blocks("Docker")[0], blocks("Kubernetes")[0]
    begin(docker, kubernetes)
    identity = "0" * 64
    pod = "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod3e7c7b9a_0f53_4d6f_8f0c_5f2a1c6b7d8e.slice"
    for cgroup in [f"web/{identity}", f"{pod}/cri-containerd-{identity}.scope"]:
        path = m.CGROUPS / cgroup
        path.mkdir(parents=True)
        m.eventually(lambda: gets_through(cgroup), lambda: f"{cgroup} is refused\n{m.ruleset()}")
        while path != m.CGROUPS:
            path.rmdir()
            path = path.parent
    (m.CGROUPS / "other").mkdir()
    m.check(not gets_through("other"), "another cgroup passes")
    (m.CGROUPS / "other").rmdir()


def gets_through(cgroup):
    def move():
        (m.CGROUPS / cgroup / "cgroup.procs").write_text("0")

    done = m.run("busybox", "nc", "-w", "3", ADDRESS, str(PORT), ok=False, stdin=-3, preexec_fn=move)
    return done.returncode == 0


def example_is_clean():
    done = m.run(m.SCNPM, "check", "--json", str(m.EXAMPLES / "containers.conf"), ok=False)
    m.check('"findings":[]' in done.stdout.replace(" ", "").replace("\n", ""), done.stdout)


def prepare():
    """The image, the machine, the address, and what this machine lacks."""
    for each in ["link add br0 type bridge", "address add 192.0.2.1/24 dev br0", "link set br0 up",
                 "route add default via 192.0.2.254 dev br0", f"address add {ADDRESS}/32 dev lo"]:
        m.run("ip", *each.split())
    crun = pathlib.Path("/usr/local/bin/crun-without-devices")
    crun.write_text(CRUN)
    crun.chmod(0o755)
    pathlib.Path("/etc/containers/containers.conf").write_text(CONTAINERS_CONF)
    root = MACHINES / "web"
    for directory in ["bin", "sbin", "etc", "usr", "proc", "sys", "dev", "run", "tmp", "var", "root"]:
        (root / directory).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    for name in ["sh", "nc", "sleep"]:
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/os-release").write_text("ID=web\n")
    (root / "bin/web").write_text(PROGRAM)
    (root / "bin/web").chmod(0o755)
    (root / "sbin/init").symlink_to("../bin/web")
    image = "/run/web.tar"
    m.run("tar", "--directory", str(root), "--create", "--file", image, ".")
    os.chmod(image, 0o644)
    for run in [m.run, m.as_user]:
        podman("import", "--change", 'CMD ["/bin/web"]', image, "web", run=run)


def clean_up():
    for unit in [QUADLETS / "web.container", m.UNITS / "web.service"]:
        unit.unlink(missing_ok=True)
    m.run("podman", "rm", "-f", "-a", "-t", "0", ok=False)
    m.run("systemctl", "stop", "web.service", "web.slice", ok=False)
    m.reset()


m.run("loginctl", "enable-linger", m.USER)
m.eventually(lambda: m.active(f"user@{m.UID}.service"), "the user's manager does not run")
prepare()
listener = Listener()
recipe.main(
    [
        *([quadlet_is_selected_by_its_unit] if HAS_QUADLETS else []),
        unit_is_selected_that_keeps_its_container,
        slice_is_selected_that_was_chosen,
        container_by_id_is_told,
        rows_of_the_matrix_hold,
        pod_is_in_the_slice_that_was_chosen,
        user_s_container_is_selected_by_its_unit,
        machine_is_selected_by_its_unit,
        plain_cgroups_and_pods_have_their_rules,
        example_is_clean,
    ],
    clean_up,
)
