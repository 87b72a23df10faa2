"""life.py PART: one part of a machine's life with scnpm; drive.py calls them in order and reboots the machine in between.

Services of the test connect to a machine at the other end of a cable (network.sh), which is plugged in at boot as soon as
network-pre.target allows. A first try that is refused says so at once: the policy's last rule resets, so that no verdict of the
tests depends on how fast an emulated machine is."""

import os
import pathlib
import re
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import compared
import machine as m
import tunnel

CLIENT, PACKAGES = "/usr/local/lib/t-tests/client", pathlib.Path("/opt/tests/packages")
ETC = pathlib.Path("/etc/systemd/system")
EXAMPLE = pathlib.Path("/usr/share/doc/scnpm/examples/server.conf")
# Ordinary services, and two that need neither sysinit.target nor basic.target.
SERVICES = [f"t-boot-{number}.service" for number in range(1, 11)]
EARLY_SERVICES = ["t-boot-11.service", "t-boot-12.service"]
BOOT_PORT, LOGIN_PORT, STREAM_PORT, LONG_PORT, NOBODYS_PORT = 7001, 7002, 7003, 7004, 7302
WAITING = "t-boot-waiting.service"
STRANGER = "t-boot-stranger.service"
# As client.c counts them.
MET = ["ok", "refused", "unreachable", "other"]
ALLOWED = [*SERVICES, *EARLY_SERVICES, WAITING]

LONG = f"""
import pathlib, socket, time
with socket.create_connection(("192.0.2.10", {LONG_PORT})) as stream:
    for number in range(10**9):
        stream.sendall(b"x")
        if stream.recv(1) != b"x":
            raise SystemExit("closed")
        # Whoever reads it finds a whole number.
        pathlib.Path("/run/t-long.new").write_text(str(number))
        pathlib.Path("/run/t-long.new").rename("/run/t-long")
        time.sleep(0.02)
"""
NETWORK = {
    "t-far.service": """[Unit]
DefaultDependencies=no
After=local-fs.target
[Service]
Type=notify
NotifyAccess=all
ExecStart=/usr/local/lib/t-tests/network.sh
[Install]
WantedBy=sysinit.target
""",
    # As soon as a manager of networks may do it.
    "t-cable.service": """[Unit]
DefaultDependencies=no
Wants=network-pre.target
After=network-pre.target t-far.service
Requires=t-far.service
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip link set eth0 up
ExecStart=/usr/sbin/ip route add default via 192.0.2.10
[Install]
WantedBy=sysinit.target
""",
}


def annotation(unit, port, comment=""):
    cgroup = f'level 2 "system.slice/{unit}"' if ":" not in unit else "unit"
    return f"{comment}# {unit} :: add rule inet filter services socket cgroupv2 {cgroup} ip daddr $DATABASE tcp dport {port} accept\n"


def policy():
    """The example for servers, with the services of the test."""
    ours = [annotation(unit, BOOT_PORT) for unit in [*SERVICES, *EARLY_SERVICES]]
    ours += [annotation(WAITING, BOOT_PORT, "# scnpm: wait\n"), annotation(f"{m.USER}:t-login.service", LOGIN_PORT)]
    ours += [annotation(f"{m.USER}:t-run-*.service", LOGIN_PORT)]
    ours += [annotation("t-stream.service", STREAM_PORT), annotation("t-long.service", LONG_PORT)]
    return EXAMPLE.read_text() + "\nadd rule inet filter output meta l4proto tcp reject with tcp reset\n\n" + "".join(ours)


def dpkg(*words):
    """What the package's own scripts print."""
    done = m.run("dpkg", *words, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LANG": "C.UTF-8"})
    own = r"\(Reading database|Selecting|Preparing|Unpacking|Setting up|Removing|Purging|Processing triggers"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return [line for line in lines if not re.match(own, line.split("\r")[-1])]


def outcomes(*units, where=pathlib.Path("/run")):
    """How the first connection of each went; None if it made none."""
    files = {unit: where / unit.removesuffix(".service") for unit in units}
    return {unit: file.read_text().strip() if file.exists() else None for unit, file in files.items()}


def stream(unit):
    """What a client that connects over and over has met so far."""
    file = pathlib.Path(f"/run/{unit.removesuffix('.service')}")
    counts = map(int, file.read_text().split()) if file.exists() else []
    return dict.fromkeys(MET, 0) | dict(zip(MET, counts))


# install


def package_is_installed():
    print("printed: " + " | ".join(dpkg("--install", str(PACKAGES / "old.deb"))))
    for word, unit in [("disabled", "scnpm.service"), ("disabled", "nftables.service")]:
        m.equal(m.run("systemctl", "is-enabled", unit, ok=False).stdout.strip(), word, f"{unit} after the installation")
    m.check(not m.active("scnpm.service"), "the daemon was started by the installation")


def example_policy_is_put_in_place():
    for name, uid in [(m.USER, m.UID), (m.OTHER, m.OTHER_UID)]:
        m.run("useradd", "--create-home", "--uid", str(uid), "--shell", "/bin/bash", name)
    hosts = pathlib.Path("/etc/hosts")
    hosts.write_text(hosts.read_text() + "192.0.2.30 payments.example.com\n")
    m.CONF.write_text(policy())
    report = m.checked()
    m.check(not report["errors"], lambda: report["findings"])
    m.run("systemctl", "enable", "nftables.service", "scnpm.service")


def services_of_the_test_are_enabled():
    for name, text in NETWORK.items():
        m.unit(name, text, ETC)
    for unit in [*SERVICES, WAITING, STRANGER]:
        m.unit(unit, oneshot("After=network.target t-cable.service", "multi-user.target"), ETC)
    for unit in EARLY_SERVICES:
        m.unit(unit, oneshot("DefaultDependencies=no\nAfter=t-cable.service", "sysinit.target"), ETC)
    # From the first moment on, before there is a policy: whatever it tries must fail.
    tries = f"{CLIENT} --stream /run/%N {BOOT_PORT} {LOGIN_PORT} {STREAM_PORT} {NOBODYS_PORT}"
    m.unit("t-first.service", f"[Unit]\nDefaultDependencies=no\n[Service]\nExecStart={tries}\n[Install]\nWantedBy=sysinit.target\n", ETC)
    login = f"[Service]\nType=oneshot\nExecStart={CLIENT} %t/%N {LOGIN_PORT}\nRemainAfterExit=yes\n[Install]\nWantedBy=default.target\n"
    m.unit("t-login.service", login, pathlib.Path("/etc/systemd/user"))
    m.unit("t-stream.service", f"[Service]\nExecStart={CLIENT} --stream /run/%N {STREAM_PORT}\n", ETC)
    m.unit("t-stranger.service", f"[Service]\nExecStart={CLIENT} --stream /run/%N {STREAM_PORT} {BOOT_PORT}\n", ETC)
    pathlib.Path("/var/lib/t-long.py").write_text(LONG)
    m.unit("t-long.service", "[Service]\nExecStart=/usr/bin/python3 /var/lib/t-long.py\n", ETC)
    # What is in /opt/tests comes from the second disk after the services have started.
    for name in ["client", "network.sh", "server.py"]:
        m.run("install", "-D", "-m", "755", f"/opt/tests/{name}", f"/usr/local/lib/t-tests/{name}")
    m.run("systemctl", "daemon-reload")
    m.run("systemctl", "enable", *NETWORK, *ALLOWED, STRANGER, "t-first.service")
    m.run("systemctl", "--global", "enable", "t-login.service")
    m.run("sync")


def oneshot(unit, wanted_by):
    service = f"Type=oneshot\nExecStart={CLIENT} /run/%N {BOOT_PORT}\nRemainAfterExit=yes"
    return f"[Unit]\n{unit}\n[Service]\n{service}\n[Install]\nWantedBy={wanted_by}\n"


# boot, and after the power was cut


def policy_is_in_force_when_the_network_comes_up():
    began = int(m.show("scnpm.service", "ActiveEnterTimestampMonotonic"))
    m.check(began, lambda: f"the daemon did not start: {m.log()}")
    cable = int(m.show("t-cable.service", "ActiveEnterTimestampMonotonic"))
    m.check(cable, "the cable was not plugged in")
    m.check(began < cable, "the network came before the policy")
    before = cable - int(m.show("t-first.service", "ExecMainStartTimestampMonotonic"))
    m.eventually(lambda: stream("t-first")["refused"] > 100, lambda: stream("t-first"))
    met = stream("t-first")
    m.check(met["unreachable"], f"it was not early enough to find no network: {met}")
    m.equal((met["ok"], met["other"]), (0, 0), f"connections that passed, or were lost, from boot on, of {met}")
    seen = m.run("ip", "netns", "exec", "far", "nft", "list", "counter", "ip", "seen", "nobodys").stdout
    m.check("packets 0 " in seen, f"the other end saw packets: {seen}")
    print(f"figure: a service without a rule, from {before / 1e6:.1f} s before the network on | 0 passed | {met['refused']} refused")
    print(f"figure: from the policy in force to the network up | {(cable - began) / 1e6:.2f} s")


def services_are_allowed_at_their_first_packet():
    m.eventually(lambda: None not in outcomes(*ALLOWED, STRANGER).values(), lambda: outcomes(*ALLOWED, STRANGER))
    found = outcomes(*ALLOWED)
    through = sum(each == "ok" for each in found.values())
    print(f"figure: services whose first connection at boot passed | {through} of {len(ALLOWED)}")
    m.equal(found, dict.fromkeys(ALLOWED, "ok"), "first connections at boot")
    m.equal(outcomes(STRANGER), {STRANGER: "refused"}, "that of a service without a rule")


def daemon_is_confined():
    """By AppArmor, which this kernel has."""
    m.equal(pathlib.Path("/sys/module/apparmor/parameters/enabled").read_text(), "Y\n", "AppArmor")
    profiles = pathlib.Path("/sys/kernel/security/apparmor/profiles").read_text()
    profile = pathlib.Path(f"/proc/{m.daemon_pid()}/attr/current").read_text().strip()
    m.check("scnpm (enforce)" in profiles, f"the profile is not loaded: {profiles}")
    m.equal(profile, "scnpm (enforce)", "the daemon's profile")
    print(f"figure: AppArmor | {profile}")


def denied_by_apparmor():
    """What the kernel has logged of that since the installation."""
    m.run("journalctl", "--sync")
    logged = m.run("journalctl", "--no-pager", "-q", "-o", "cat", "_TRANSPORT=kernel", "+", "_TRANSPORT=audit", ok=False).stdout
    return [line for line in logged.splitlines() if 'apparmor="DENIED"' in line and "scnpm" in line]


def nothing_was_denied_by_apparmor():
    m.equal(denied_by_apparmor()[:20], [], "what AppArmor has denied")


def profile_denies_what_is_not_in_it():
    """And the test above would see it."""
    home = pathlib.Path("/root/t-denied.conf")
    home.write_text("")
    m.equal(m.run(m.SCNPM, "check", str(home), ok=False).returncode, 0, "exit status of a check without the profile")
    m.check(m.run("aa-exec", "-p", "scnpm", "--", m.SCNPM, "check", str(home), ok=False).returncode, "the file can be read")
    m.eventually(lambda: any(str(home) in line for line in denied_by_apparmor()), denied_by_apparmor)


def watch_from_boot_on_ends():
    """It takes a good part of the machine's time."""
    m.stop("t-first.service")


def daemon_is_content():
    complaints = m.run("journalctl", "--no-pager", "-q", "-b", "-u", "scnpm.service", "-p", "err", "-o", "cat").stdout
    m.equal(complaints.strip(), "", "what the daemon complains of")


# login


def users_rules_apply_at_login():
    m.run("sh", "-c", "test -e /root/.ssh/id_ed25519 || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
    start = f"systemd-run --user --quiet --wait --unit t-run-1 {CLIENT} $XDG_RUNTIME_DIR/t-run-1 7002"
    show = "cat $XDG_RUNTIME_DIR/t-login; cat $XDG_RUNTIME_DIR/t-run-1; cut -d: -f3 /proc/self/cgroup"
    for name, uid, expected in [(m.USER, m.UID, "ok"), (m.OTHER, m.OTHER_UID, "refused")]:
        m.run("install", "-d", "-m", "700", "-o", name, "-g", name, f"/home/{name}/.ssh")
        m.run("install", "-m", "600", "-o", name, "-g", name, "/root/.ssh/id_ed25519.pub", f"/home/{name}/.ssh/authorized_keys")
        m.check(not m.active(f"user@{uid}.service"), f"{name} is logged in already")
        ssh = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR", f"{name}@127.0.0.1"]
        wait = "for try in $(seq 100); do ! test -s $XDG_RUNTIME_DIR/t-login || break; sleep 0.5; done"
        printed = m.run(*ssh, f"{wait}; {start}; {show}").stdout.split()
        m.equal(printed[:2], [expected, expected], f"first connections of {name}'s units, at login and then")
        m.check(printed[2].startswith(f"/user.slice/user-{uid}.slice/session-"), f"no login: {printed}")
    print("figure: a login by ssh: first connections of the user's units | 2 of 2 | another user: 0 of 2")


# upgrade


def upgrade_under_traffic_drops_nothing():
    m.start("t-stream.service", "t-stranger.service", "t-long.service")
    counter = pathlib.Path("/run/t-long")
    m.eventually(lambda: stream("t-stream")["ok"] > 20 and counter.exists(), lambda: stream("t-stream"))
    before, long_before = stream("t-stream"), int(counter.read_text())
    first_refused = stream("t-stranger")["refused"]
    pid = m.daemon_pid()
    began = time.monotonic()
    said = dpkg("--install", str(PACKAGES / "new.deb"))
    took = time.monotonic() - began
    time.sleep(2)
    after, strangers = stream("t-stream"), stream("t-stranger")
    m.eventually(lambda: int(counter.read_text()) > long_before, "the long connection stands still")
    m.check(m.active("t-long.service"), m.log("t-long.service"))
    m.equal(said, [], "what an upgrade prints")
    m.check("+next" in m.run("dpkg-query", "-W", "-f", "${Version}", "scnpm").stdout, "the version")
    m.check(m.daemon_pid() not in (0, pid), "the daemon is still the old one")
    tried = after["ok"] - before["ok"]
    m.equal({key: after[key] for key in after if key != "ok"}, {"refused": 0, "unreachable": 0, "other": 0}, "new connections")
    m.check(tried > 10, f"too few connections to tell: {tried}")
    m.equal((strangers["ok"], strangers["other"]), (0, 0), "connections of a service without a rule")
    exchanged = int(counter.read_text()) - long_before
    print(f"figure: upgrade ({took:.0f} s): new connections refused | 0 of {tried} | a long one: {exchanged} round trips")
    print(f"figure: … of a service without a rule, passed | 0 of {strangers['refused'] - first_refused}")
    m.stop("t-stranger.service", "t-long.service")


# power-cut, at the end


def tests_see_what_passes_without_scnpm():
    """Or else the tests above would not see it."""
    m.run("nft", "add", "rule", "inet", "filter", "services", "accept")
    m.eventually(lambda: stream("t-first")["ok"], lambda: stream("t-first"))
    m.run("systemctl", "restart", "nftables.service")


# removal


def removal_and_purge_leave_nothing():
    m.eventually(lambda: "scnpm." in m.ruleset(), m.log)
    print("printed: " + " | ".join(dpkg("--remove", "scnpm")))
    m.check(not m.active("scnpm.service"), "the daemon runs")
    print("printed: " + " | ".join(dpkg("--purge", "scnpm")))
    left = m.ruleset()
    m.check("scnpm" not in left and "t-boot" not in left, left)
    m.check("hook output" in left, "the administrator's own rules are gone")
    places = ["/etc", "/usr", "/var", "/run", "/opt", "/home"]
    found = m.run("find", *places, "-xdev", "-iname", "*scnpm*", ok=False).stdout.splitlines()
    ours = ("/opt/tests/", "/var/log/journal/", "/run/log/", "/var/lib/dpkg/")
    m.equal([path for path in found if not path.startswith(ours)], [], "files")
    for kind in ["passwd", "group"]:
        m.equal(m.run("getent", kind, "scnpm", ok=False).stdout, "", f"{kind} of scnpm")
    m.equal(m.run("systemctl", "list-unit-files", "--no-legend", "scnpm*", ok=False).stdout, "", "units")
    profiles = pathlib.Path("/sys/kernel/security/apparmor/profiles").read_text()
    m.check("scnpm" not in profiles, f"a profile of AppArmor is loaded: {profiles}")


BOOT = [
    policy_is_in_force_when_the_network_comes_up,
    services_are_allowed_at_their_first_packet,
    daemon_is_confined,
    nothing_was_denied_by_apparmor,
    daemon_is_content,
]
PARTS = {
    "install": [package_is_installed, example_policy_is_put_in_place, services_of_the_test_are_enabled],
    "boot": [*BOOT, watch_from_boot_on_ends],
    "login": [users_rules_apply_at_login],
    "nftset": [compared.scnpm_and_nftset_side_by_side],
    "upgrade": [upgrade_under_traffic_drops_nothing, daemon_is_confined],
    "power-cut": [*BOOT, tests_see_what_passes_without_scnpm, watch_from_boot_on_ends],
    "vpn": tunnel.TESTS,
    "removal": [nothing_was_denied_by_apparmor, profile_denies_what_is_not_in_it, removal_and_purge_leave_nothing],
}


def main():
    part = sys.argv[1]
    passed, failed = m.run_tests(PARTS[part], [], clean_up=tunnel.clean_up if part == "vpn" else lambda: None)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
