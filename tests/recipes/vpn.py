"""docs/vpn.md: one application through the VPN, and all but one, with WireGuard (wireguard-go on a tun device)."""

import contextlib
import os
import pathlib
import re
import shlex
import signal
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import far
import machine as m
import recipe

PAGE = "vpn.md"
TESTS = []
STARTS = 100
ETC_UNITS = pathlib.Path("/etc/systemd/system")
WG0 = pathlib.Path("/etc/wireguard/wg0.conf")
CLIENT, BLASTER = far.STATE / "client", far.STATE / "blast.py"
# At once, by both families: a packet of UDP, and a connection.
CLIENT_TEXT = f"""#!/bin/bash
for far in {" ".join(far.FAR.values())}; do
    echo "$1" >/dev/udp/$far/{far.PORT}
    exec 3<>/dev/tcp/$far/{far.PORT} && echo "$1" >&3 && read -r <&3
done 2>/dev/null
exit 0
"""
BLAST = f"""
import contextlib, socket, time
while True:
    time.sleep(0.0005)
    for family, far in {[(int(family), address) for family, address in far.FAR.items()]}:
        with socket.socket(family, socket.SOCK_DGRAM) as each, contextlib.suppress(OSError):
            each.sendto(b"", (far, {far.CLOSED}))
        with socket.socket(family, socket.SOCK_STREAM) as each, contextlib.suppress(OSError):
            each.setblocking(False)
            each.connect((far, {far.CLOSED}))
"""
# Starts one in a scope, in place of `@`, as desktops and flatpak do.
IN_SCOPE = f"systemd-run --user --scope --quiet --unit=@ timeout 20 {CLIENT} @"
# All that a client sends at its start.
ALL = {(protocol, address) for protocol in ["tcp", "udp"] for address in far.IN_THE_TUNNEL}
ALL_BESIDE = {(protocol, address) for protocol in ["tcp", "udp"] for address in far.BESIDE_IT}


def test(function):
    TESTS.append(function)
    return function


def block(heading, beginning):
    """The block of a section that begins so."""
    found = [each for each in recipe.blocks(PAGE, heading) if each.startswith(beginning)]
    m.equal(len(found), 1, f"blocks of {heading!r} that begin with {beginning!r}")
    return found[0]


def do(heading, beginning=""):
    """Runs the commands of a section as root, in the directory that has the examples."""
    lines = [line for each in recipe.blocks(PAGE, heading) for line in each.splitlines()]
    commands = [line[2:] for line in lines if line.startswith("# ") and " :: " not in line]
    chosen = [command for command in commands if command.startswith(beginning)]
    m.check(chosen, f"no commands in {heading!r}")
    for command in chosen:
        m.run("bash", "-ec", command, cwd="/opt/tests")


def write_wg0():
    """What a provider gives, with what the page adds to it."""
    ours = block("With wg-quick", "[Interface]")
    interface = f"PrivateKey = {far.key('near.key')}\nAddress = 10.64.0.2/32, fd64::2/128"
    peer = f"PublicKey = {far.key('far.pub')}\nEndpoint = 192.0.2.1:51820"
    WG0.write_text(ours.replace("[Interface]", f"[Interface]\n{interface}").replace("[Peer]", f"[Peer]\n{peer}"))
    WG0.chmod(0o600)


def is_in_force():
    m.eventually(lambda: "active accept" in m.run("nft", "list", "chain", "inet", "vpn", "beside", ok=False).stdout, m.log)


def tunnel_is_up():
    """A packet gets through: the two ends have shaken hands."""

    def handshake():
        return m.run("wg", "show", "wg0", "latest-handshakes", ok=False).stdout.split()[1:] not in ([], ["0"])

    m.start("wg-quick@wg0.service")
    # The kernel's WireGuard has nothing to say before.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each, contextlib.suppress(OSError):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x51)
        each.sendto(b"", ("10.64.0.1", 9))
    m.eventually(handshake, lambda: m.run("wg").stdout)


def service(name, command, *settings):
    m.service(name, "Type=oneshot", f"ExecStart={command}", *settings)
    m.reload_units()


def fetches(name="fetcher"):
    """What the far side sees of a service that is started now."""
    service(f"{name}.service", f"-/usr/bin/timeout 3 {CLIENT} {name}")
    far.forget()
    m.run("systemctl", "start", f"{name}.service", ok=False)
    return seen(name)


def launches(unit):
    """What the far side sees of an application that is started in a scope."""
    far.forget()
    m.in_scope(unit, f"timeout 3 {CLIENT} {shlex.quote(unit)}", ok=False)
    return seen(unit)


def seen(name):
    time.sleep(0.2)
    return {(protocol, address) for protocol, address, each in far.served() if each == name}


@contextlib.contextmanager
def blasting(name="fetcher.service"):
    """A service that opens connections all the while, more than a thousand a second, by TCP, UDP and both families."""
    m.service(name, f"ExecStart=/usr/bin/python3 {BLASTER}")
    m.reload_units()
    far.forget()
    m.start(name)
    time.sleep(0.5)
    yield
    m.check(m.active(name), f"{name} has ended")
    m.stop(name)


def none_beside(what):
    m.equal(far.beside(far.CLOSED, far.PORT), [], f"packets outside the tunnel, {what}")


# One application


@test
def vpn_is_set_up_as_the_page_says():
    far.make()
    # A packet from the port of an old connection belongs to it.
    m.run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=2", "net.netfilter.nf_conntrack_udp_timeout_stream=2")
    CLIENT.write_text(CLIENT_TEXT)
    CLIENT.chmod(0o755)
    BLASTER.write_text(BLAST)
    for path in [far.STATE, m.UNITS]:
        path.chmod(0o755)
    write_wg0()
    service("fetcher.service", "/bin/true")
    do("With wg-quick")
    m.equal(m.checked()["findings"], [], "findings of the example")
    is_in_force()
    tunnel_is_up()
    annotation = block("How it works", "# user:app:mail")
    m.check(annotation in m.CONF.read_text(), "the annotation of the page is not in the example")


@test
def first_packets_of_what_waits_leave_through_the_tunnel():
    """However busy the machine is."""
    with fetchers("# scnpm: wait\n"):
        packets_of("services that wait", services(), start_services, rounds=1)
    start = f"{m.SCNPM} run --wait --app mail -- timeout 20 {CLIENT} @"
    packets_of("applications that wait", [f"mail-{number}" for number in range(STARTS)], start_scopes(start), rounds=1)


@test
def first_packets_leave_through_the_tunnel():
    """Without anything that waits, which a machine that is taken away for some ms makes late: one round of three has to be without
    a miss."""
    with fetchers():
        packets_of("services", services(), start_services)
    for what in ["gnome", "flatpak"]:
        packets_of(f"applications ({what})", [f"app-{what}-mail-{number}.scope" for number in range(STARTS)], start_scopes(IN_SCOPE))


def services():
    return [f"t-fetch@{number}.service" for number in range(STARTS)]


@contextlib.contextmanager
def fetchers(directive=""):
    more = f"{directive}# system:t-fetch@*.service :: add rule inet vpn apps socket cgroupv2 unit meta mark set 0x51\n"
    with policy(m.CONF.read_text() + more):
        m.service("t-fetch@.service", "Type=oneshot", f"ExecStart=-/usr/bin/timeout 20 {CLIENT} %p@%i.service")
        m.reload_units()
        yield


def start_services(units):
    for at in range(0, len(units), 10):
        m.start(*units[at : at + 10])


def start_scopes(command):
    return lambda units: m.as_user("xargs", "-P4", "-I@", "sh", "-c", command, input="\n".join(units), ok=False)


def packets_of(what, names, start, expected=ALL, rounds=3):
    """All of each one's first packets, by both families and protocols, take the expected way in one of so many rounds, and none
    another, whether or not it arrives."""
    said = []
    while len(said) < rounds:
        far.forget()
        start(names)
        time.sleep(0.5)
        came = {each: set() for each in names}
        for protocol, address, name in far.served():
            came.setdefault(name, set()).add((protocol, address))
        late = {each: came[each] for each in names if came[each] != expected}
        stray = far.beside(far.PORT) if expected == ALL else []
        said.append(len(names) - len(late))
        if not late and not stray:
            break
    recipe.figure(f"first packets of {what}", f"{said[-1]} of {len(names)} as expected", f"rounds: {said}")
    m.equal(stray, [], f"packets of {what} outside the tunnel, in rounds of which so many were right: {said}")
    m.equal(late, {}, f"{what} whose packets took another way, in rounds of which so many were right: {said}")


@contextlib.contextmanager
def policy(text):
    """Another text of nftables.conf for a while, which the daemon takes up by itself."""
    before = m.CONF.read_text()
    try:
        m.CONF.write_text(text)
        m.run(m.SCNPM, "reload")
        yield
    finally:
        m.CONF.write_text(before)
        m.run(m.SCNPM, "reload")


@test
def other_applications_are_untouched():
    # Until none of the hundreds of connections before has a port that may be chosen again.
    time.sleep(3)
    m.equal(fetches("t-other"), ALL_BESIDE, "a service that is not in the policy")
    m.equal(launches("app-gnome-letters-1.scope"), ALL_BESIDE, "an application that is not in the policy")


@test
def answers_of_the_kernel_stay_in_the_tunnel():
    """To what comes in by it, and with strict filters of source addresses."""
    ask = f"import socket; socket.create_connection(('10.64.0.2', {far.CLOSED}), 5)"
    far.forget()
    done = m.run("ip", "netns", "exec", "far", "python3", "-c", ask, ok=False)
    m.check("refused" in done.stderr, f"no answer to the tunnel: {done.stderr}")
    none_beside("answers of the kernel")
    m.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    m.equal(fetches(), ALL, "with rp_filter=1")
    m.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")


@test
def check_looks_for_the_routing_rules():
    m.equal(m.checked()["findings"], [], "findings")
    rule = ["rule", "delete", "fwmark", "0x51", "lookup", "51", "priority", "5100"]
    for family, word in [("-6", "of IPv6"), ("-4", "on this machine")]:
        m.run("ip", family, *rule)
        report = m.checked()
        m.equal(m.codes(report), ["W035"], "codes")
        m.check(word in report["findings"][0]["message"], report["findings"])
    m.run("systemctl", "restart", "vpn-table.service")
    m.equal(m.checked()["findings"], [], "findings with the rules again")


@test
def nothing_leaves_while_the_tunnel_is_down():
    with blasting():
        m.stop("wg-quick@wg0.service")
        m.equal(m.run("ip", "route", "show", "table", "51").stdout.count("default"), 1, "default routes of table 51")
        time.sleep(1)
        m.start("wg-quick@wg0.service")
        time.sleep(0.5)
        m.run("ip", "link", "set", "wg0", "down")
        time.sleep(0.5)
        m.run("systemctl", "restart", "wg-quick@wg0.service")
        m.run("systemctl", "stop", "wg-quick@wg0.service", "vpn-table.service")
        time.sleep(0.5)
        m.start("vpn-table.service")
        tunnel_is_up()
    recipe.figure("tunnel stopped, set down, restarted, routing rules gone", "", f"{len(far.beside(far.CLOSED))} beside")
    none_beside("while the tunnel went and came")
    m.stop("wg-quick@wg0.service")
    m.equal(fetches() | launches("app-gnome-mail-1.scope"), set(), "what came by without a tunnel")
    none_beside("of what was started without a tunnel")
    tunnel_is_up()
    m.equal(fetches(), ALL, "with the tunnel again")


@test
def nothing_leaves_beside_while_files_are_loaded_and_the_daemon_ends():
    text = m.CONF.read_text()
    with blasting():
        change_all()
    recipe.figure("nft -f, reload, edit, restart, kill -9 of scnpm", "", f"{len(far.beside(far.CLOSED))} beside")
    none_beside("while files were loaded and the daemon ended")
    with policy(re.sub(r"\n# (scnpm: wait|system:fetcher.service).*", "", text)):
        m.equal(fetches(), ALL_BESIDE, "without its annotation")
    m.equal(fetches(), ALL, "with its annotation again")
    # That the look would have seen it.
    with policy(text.replace("        jump beside\n", "        accept\n").replace("# scnpm.service ::", "# ")):
        m.load_base()
        with blasting():
            for _ in range(5):
                m.load_base()
                time.sleep(0.2)
        m.check(far.beside(far.CLOSED), "nothing leaves outside the tunnel without the chain `beside` either")
        recipe.figure("nft -f without the chain `beside`", "", f"{len(far.beside(far.CLOSED))} beside")
    m.load_base()
    is_in_force()


def change_all():
    for _ in range(5):
        m.load_base()
        time.sleep(0.1)
    m.run("systemctl", "restart", "nftables.service")
    is_in_force()
    with policy(m.CONF.read_text() + "# t-x.service :: add rule inet vpn apps socket cgroupv2 level 2 \"system.slice/t-x.service\" accept\n"):
        time.sleep(0.2)
    m.run("systemctl", "restart", "scnpm.service")
    is_in_force()
    os.kill(m.daemon_pid(), signal.SIGKILL)
    time.sleep(0.5)
    m.load_base()
    time.sleep(0.3)
    m.eventually(lambda: m.active("scnpm.service"), "the daemon is not started again")
    is_in_force()


@test
def nothing_that_starts_while_the_daemon_is_dead_leaves_beside():
    m.drop_in("scnpm.service", "[Service]\nRestart=no\n")
    began = time.monotonic()
    os.kill(m.daemon_pid(), signal.SIGKILL)
    m.eventually(lambda: "active accept" not in m.run("nft", "list", "chain", "inet", "vpn", "beside").stdout, "it stays open")
    recipe.figure("scnpm is killed: the machine is closed after", f"{1000 * (time.monotonic() - began):.0f} ms")
    try:
        m.equal(fetches(), set(), "what came of a service that waits")
        m.equal(m.show("fetcher.service", "Result"), "exit-code", "how its start ended")
        none_beside("of a service that waits")
        for unit in ["app-gnome-mail-9.scope", "app-flatpak-mail-9.scope"]:
            m.equal(launches(unit), set(), f"what came of {unit}")
            none_beside(f"of {unit}")
        done = m.as_user(m.SCNPM, "run", "--wait", "--app", "mail", "--", "true", ok=False)
        m.equal(done.returncode, 125, f"exit status of scnpm run --wait ({done.stderr})")
    finally:
        m.drop_in("scnpm.service", "")
        m.run("systemctl", "reset-failed", ok=False)
        m.start("scnpm.service")
    is_in_force()
    m.equal(launches("app-flatpak-mail-9.scope"), ALL, "a flatpak with the daemon again")
    m.equal(fetches("t-other"), ALL_BESIDE, "another service with the daemon again")


@test
def what_the_page_says_of_users_and_of_ipv6():
    """A user of its own needs no scnpm; a machine without IPv6 gives applications none in the tunnel."""
    text = m.CONF.read_text()
    rule = re.search(r"`(meta skuid) \"fetcher\" (reject)`", (recipe.DOCS / PAGE).read_text())
    below = "        ct state established,related accept\n"
    more = f'{below}        {rule[1]} "{m.USER}" {rule[2]}\n'
    with policy(re.sub(r"\n# user:app:mail.*", "", text.replace(below, more))):
        m.load_base()
        is_in_force()
        m.equal(launches("app-gnome-mail-1.scope"), set(), "an application of a user who is refused, without its annotation")
    m.load_base()
    is_in_force()
    m.run("ip", "-6", "route", "delete", "default")
    m.equal(fetches(), {(protocol, "10.64.0.2") for protocol in ["tcp", "udp"]}, "without a route of IPv6")
    m.run("ip", "-6", "route", "add", "default", "via", "2001:db8:2::1")
    none_beside("without a route of IPv6")


# Names


@test
def machine_asks_in_the_tunnel():
    m.run("resolvectl", "dns", "eth0", far.RESOLVER_BESIDE)
    section = "The whole machine asks in the tunnel"
    do(section)
    with policy(m.CONF.read_text() + block(section, "# system:systemd-resolved")):
        m.equal(resolvers("up.example.com"), {far.RESOLVER_IN_THE_TUNNEL}, "resolvers that were asked")
        m.run("ip", "link", "set", "wg0", "down")
        far.forget()
        m.equal(resolvers("down.example.com"), set(), "resolvers that were asked without the tunnel")
        m.equal(far.beside(53), [], "questions outside the tunnel")
    before = WG0.read_text()
    commands = re.findall(r"PostUp = [^`]*", (recipe.DOCS / PAGE).read_text())
    m.equal(len(commands), 2, "commands for wg0.conf in the page")
    WG0.write_text(before.replace("[Interface]", "\n".join(["[Interface]", *commands])))
    m.run("systemctl", "restart", "wg-quick@wg0.service")
    tunnel_is_up()
    m.equal(resolvers("again.example.com"), {far.RESOLVER_IN_THE_TUNNEL}, "resolvers that were asked with the tunnel's own commands")
    WG0.write_text(before)
    m.run("systemctl", "restart", "wg-quick@wg0.service")
    tunnel_is_up()


def resolvers(name):
    m.run("timeout", "3", "resolvectl", "query", "-4", name, ok=False)
    return {resolver for resolver, each in far.asked() if each == name}


@test
def application_asks_by_itself():
    section = "The application asks by itself"
    pathlib.Path("/etc/vpn-resolv.conf").write_text(block(section, "nameserver"))
    settings = block(section, "[Service]").splitlines()[1:]
    service("fetcher.service", "/usr/bin/getent ahostsv4 service.example.com", *settings)
    command = block(section, "$ scnpm run").removeprefix("$ ").replace("-- thunderbird", "-- getent ahostsv4 application.example.com")
    far.forget()
    m.start("fetcher.service")
    m.as_user("bash", "-c", command)
    expected = {(far.RESOLVER_IN_THE_TUNNEL, f"{who}.example.com") for who in ["service", "application"]}
    m.equal(set(far.asked()), expected, "the questions")
    m.equal(far.beside(53), [], "questions outside the tunnel")


# Other ways to the routes


def userspace_tunnel():
    """The link as whoever manages the network would make it if the kernel had WireGuard."""
    m.run("wireguard-go", "wg0")
    m.run("bash", "-c", "wg setconf wg0 <(wg-quick strip wg0)")


@test
def networkd_makes_the_routes():
    m.run("systemctl", "stop", "wg-quick@wg0.service", "vpn-table.service")
    try:
        m.start("systemd-networkd.service")
        do("With systemd-networkd")
        m.eventually(lambda: "0x51" in m.run("ip", "-6", "rule").stdout, "networkd has made no rule")
        userspace_tunnel()
        m.eventually(lambda: "dev wg0" in m.run("ip", "-6", "route", "show", "table", "51").stdout, "no route to the tunnel")
        m.eventually(lambda: "10.64.0.2" in m.run("ip", "address", "show", "wg0").stdout, "no address of the tunnel")
        m.eventually(lambda: fetches() == ALL, "it does not use networkd's tunnel", patience=10)
        m.run("ip", "link", "delete", "wg0")
        m.equal(fetches(), set(), "what came without networkd's tunnel")
        none_beside("without networkd's tunnel")
        m.check("0x51" in m.run("ip", "rule").stdout, "the rule is gone with the tunnel")
    finally:
        for file in pathlib.Path("/etc/systemd/network").glob("*"):
            file.unlink()
        m.run("networkctl", "reload")
        m.run("systemctl", "stop", "systemd-networkd.socket", "systemd-networkd.service", ok=False)
        for family in ["-4", "-6"]:
            m.run("ip", family, "rule", "delete", "priority", "5100", ok=False)
            m.run("ip", family, "route", "flush", "table", "51", ok=False)
    m.start("vpn-table.service")
    tunnel_is_up()


@test
def networkmanager_makes_the_routes():
    m.start("NetworkManager.service")
    m.stop("wg-quick@wg0.service")
    try:
        do("With NetworkManager")
        told = m.run("nmcli", "-g", "ipv4.route-table,ipv6.route-table", "connection", "show", "wg0").stdout.split()
        m.equal(told, ["51", "51"], "tables of the connection that was imported")
        m.run("nmcli", "connection", "delete", "wg0")
        m.run(
            *"nmcli connection add type tun mode tun ifname wg0 con-name t-tunnel autoconnect no ipv4.method manual".split(),
            *"ipv4.addresses 10.64.0.2/32 ipv6.method manual ipv6.addresses fd64::2/128".split(),
            *"ipv4.never-default yes ipv6.never-default yes".split(),
        )
        m.run("nmcli", "connection", "up", "t-tunnel")
        for family in ["-4", "-6"]:
            table = ["ip", family, "route", "show", "table", "51"]
            m.eventually(lambda: "default dev wg0" in m.run(*table).stdout, f"no route to the tunnel by {family}")
        m.run("nmcli", "connection", "down", "t-tunnel")
        m.eventually(lambda: "wg0" not in m.run("ip", "route", "show", "table", "51").stdout, "the route stays")
    finally:
        m.run("nmcli", "connection", "delete", "t-tunnel", ok=False)
        m.stop("NetworkManager.service")
    tunnel_is_up()


# All but one


@test
def all_but_one_use_the_tunnel():
    do("All but one application")
    m.equal(m.checked()["findings"], [], "findings of the example")
    m.eventually(lambda: "scnpm.apps" in m.ruleset(), m.log)
    tunnel_is_up()
    m.equal(fetches("t-other"), ALL, "a service that is not in the policy")
    m.equal(launches("app-gnome-letters-1.scope"), ALL, "an application that is not in the policy")
    m.equal(fetches(), ALL_BESIDE, "the service in the policy")
    packets_of("all but one: the one", [f"app-gnome-game-{number}.scope" for number in range(50)], start_scopes(IN_SCOPE), ALL_BESIDE)
    with blasting(name="t-other.service"):
        for _ in range(3):
            m.load_base()
            time.sleep(0.1)
        os.kill(m.daemon_pid(), signal.SIGKILL)
        time.sleep(0.3)
        m.stop("wg-quick@wg0.service")
        time.sleep(0.5)
        m.start("wg-quick@wg0.service")
    recipe.figure("all but one: the others, meanwhile nft -f, kill -9, tunnel down", "", f"{len(far.beside(far.CLOSED))} beside")
    none_beside("of all but one")
    m.stop("wg-quick@wg0.service")
    m.eventually(lambda: m.active("scnpm.service"), "the daemon is not started again")
    m.equal(fetches(), ALL_BESIDE, "the service in the policy without a tunnel")
    m.equal(fetches("t-other"), set(), "another one without a tunnel")


def clean_up():
    """Units of a test; the tunnel and the policy stay."""
    m.run("systemctl", "stop", "fetcher.service", "t-other.service", ok=False)
    m.run("systemctl", "reset-failed", ok=False)


if __name__ == "__main__":
    recipe.main(TESTS, clean_up=clean_up)
