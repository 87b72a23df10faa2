"""Makes the tree ready to boot: users, and where scnpm is installed, a policy and units that need it at boot. Runs in a
chroot."""

import os
import pathlib
import sys

sys.path.insert(0, os.path.dirname(__file__))
import machine as m

PORT = 7001
WANTED = f"""
[Unit]
Requires=t-boot-listener.socket
After=t-boot-listener.socket
[Service]
Type=oneshot
ExecStart=-{m.CONNECT} {PORT} /run/%N
RemainAfterExit=yes
[Install]
WantedBy=multi-user.target
"""

# dbus-broker takes dbus-daemon's place where it is installed; a test that wants it switches it on.
for manager in ["system", "user"]:
    pathlib.Path(f"/etc/systemd/{manager}/dbus.service").unlink(missing_ok=True)
m.run("useradd", "--create-home", "--uid", str(m.UID), "--shell", "/bin/bash", m.USER)
lingering = pathlib.Path("/var/lib/systemd/linger")
lingering.mkdir(parents=True, exist_ok=True)
(lingering / m.USER).touch()
m.run("useradd", "--create-home", "--uid", str(m.OTHER_UID), "--shell", "/bin/bash", m.OTHER)

# Each `systemctl daemon-reload` would run them; a container has nothing for them, and the tests reload hundreds of times.
masked = pathlib.Path("/etc/systemd/system-generators")
masked.mkdir(exist_ok=True)
for generator in pathlib.Path("/usr/lib/systemd/system-generators").glob("systemd-*"):
    (masked / generator.name).symlink_to("/dev/null")

# All that is logged is kept.
m.unit("tests.conf", "[Journal]\nRateLimitIntervalSec=0\nStorage=persistent\n", pathlib.Path("/etc/systemd/journald.conf.d"))
if not pathlib.Path(m.SCNPM).exists():
    sys.exit()

# As a package does when it is installed.
m.run("systemd-sysusers", "scnpm.conf")
m.write_policy(
    m.system_rule("t-boot-client.service"), "# scnpm: wait\n", m.system_rule("t-boot-waiting.service")
)

etc = pathlib.Path("/etc/systemd/system")
m.unit("t-boot-client.service", WANTED, etc)
m.unit("t-boot-waiting.service", WANTED, etc)
m.unit("t-boot-stranger.service", WANTED, etc)
# PID 1 itself listens, so that a connection made before anything else runs is taken.
m.unit(
    "t-boot-listener.socket", f"[Socket]\nListenStream=127.0.0.1:{PORT}\n[Install]\nWantedBy=sockets.target\n", etc
)
m.unit("t-boot-listener.service", "[Service]\nExecStart=/bin/sleep infinity\n", etc)
m.run(
    "systemctl", "enable", "nftables.service", "scnpm.service",
    "t-boot-client.service", "t-boot-waiting.service", "t-boot-stranger.service", "t-boot-listener.socket",
)  # fmt: skip
