"""docs/vpn.md with the kernel's own WireGuard: the main tests of that recipe (vpn.py)."""

import pathlib
import shutil

import far
import machine as m
import vpn

# An emulated machine is slow.
vpn.STARTS = 6
ETC = pathlib.Path("/etc/systemd/system")
CHOSEN = [
    "vpn_is_set_up_as_the_page_says",
    "first_packets_of_what_waits_leave_through_the_tunnel",
    "first_packets_leave_through_the_tunnel",
    "nothing_leaves_while_the_tunnel_is_down",
    "nothing_leaves_beside_while_files_are_loaded_and_the_daemon_ends",
]
policy_before = m.CONF.read_text() if m.CONF.exists() else ""


def commands(text):
    """As far.commands, with the kernel's WireGuard on the far side."""
    for line in text.strip().splitlines():
        line = line.strip()
        if line == "ip netns exec far wireguard-go wgfar":
            line = "ip -n far link add wgfar type wireguard"
        m.run(*line.split())


def cable_is_unplugged():
    """The far side of the recipe takes its place."""
    m.run("loginctl", "enable-linger", m.USER)
    m.run("systemctl", "stop", "t-first.service", "t-cable.service", "t-far.service")
    m.run("ip", "netns", "delete", "far")
    m.eventually(lambda: m.run("ip", "link", "show", "eth0", ok=False).returncode, "the cable is still there")
    m.check(shutil.which("wireguard-go") is None, "there is wireguard-go, which wg-quick could use")


def tunnel_is_the_kernels():
    m.check("wireguard" in m.run("ip", "-details", "link", "show", "wg0").stdout, "wg0 is not the kernel's")


def example_policy_is_back():
    m.run("systemctl", "disable", "--now", "wg-quick@wg0.service", "vpn-table.service")
    shutil.rmtree(ETC / "scnpm.service.d")
    m.run("systemctl", "daemon-reload")
    m.CONF.write_text(policy_before)
    m.run("systemctl", "restart", "nftables.service", "scnpm.service")
    far.end()


far.commands = commands
[set_up, *others] = [test for test in vpn.TESTS if test.__name__ in CHOSEN]
clean_up = vpn.clean_up
TESTS = [cable_is_unplugged, set_up, tunnel_is_the_kernels, *others, example_policy_is_back]
