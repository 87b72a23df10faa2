"""scnpm and systemd's own NFTSet= side by side: how many first connections pass, by what happens to the rules and units."""

import pathlib

import machine as m

TABLE = pathlib.Path("/opt/tests/nftset.txt")
CLIENT = "/usr/local/lib/t-tests/client"
N = 5
# Who allows it, and the port on which one sees it.
SCNPM, NFTSET = ("scnpm", 7030), ("nftset", 7031)
USERS = f"user.slice/user-{m.UID}.slice/user@{m.UID}.service/app.slice"
POLICY = f"""#!/usr/sbin/nft -f
flush ruleset
table inet filter {{
    set nftset {{ type cgroupsv2; }}
    set users {{ type cgroupsv2; }}
    chain allowed {{ }}
    chain output {{
        type filter hook output priority filter; policy accept;
        ct state established,related accept
        tcp dport 7030 jump allowed
        tcp dport 7031 socket cgroupv2 level 2 @nftset accept
        tcp dport 7031 socket cgroupv2 level 5 @users accept
        tcp dport {{ 7030, 7031 }} reject with tcp reset
    }}
}}

# system:t-scnpm-*.service :: add rule inet filter allowed socket cgroupv2 unit tcp dport 7030 accept
# {m.USER}:t-scnpm-*.service :: add rule inet filter allowed socket cgroupv2 unit tcp dport 7030 accept
"""


def units(who):
    return [f"t-{who}-{number}.service" for number in range(N)]


def write_units():
    for (who, port), of_system, of_user in [
        (SCNPM, "", ""),
        (NFTSET, "NFTSet=cgroup:inet:filter:nftset\n", "NFTSet=cgroup:inet:filter:users\n"),
    ]:
        for unit in units(who):
            service = "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
            m.unit(unit, f"{service}{of_system}ExecStart={CLIENT} /run/%N {port}\n")
            m.unit(unit, f"{service}{of_user}ExecStart={CLIENT} %t/%N {port}\n", m.USER_UNITS)
    m.reload_units()


def firsts(who, verb, where=pathlib.Path("/run"), systemctl=lambda *words: m.run("systemctl", *words)):
    """How many first connections pass when the units are started, or restarted."""
    files = [where / unit.removesuffix(".service") for unit in units(who)]
    for file in files:
        file.unlink(missing_ok=True)
    systemctl(verb, *units(who))
    return sum(file.read_text() == "ok\n" for file in files)


def running(who, port):
    """How many of the units that run get through."""

    def passes(unit):
        out = pathlib.Path("/run/t-compared")
        out.unlink(missing_ok=True)

        def move():
            (m.CGROUPS / "system.slice" / unit / "cgroup.procs").write_text("0")

        m.run(CLIENT, str(out), str(port), preexec_fn=move)
        return out.read_text() == "ok\n"

    return sum(passes(unit) for unit in units(who))


def keep_cgroups():
    """The cgroup of a unit whose process has ended goes: these stay for as long as the units are active."""
    for who, port in [SCNPM, NFTSET]:
        for unit in units(who):
            text = (m.UNITS / unit).read_text().replace("Type=oneshot\nRemainAfterExit=yes\n", "")
            m.unit(unit, text.replace("ExecStart=", "Type=exec\nExecStartPre=").rstrip("\n") + "\nExecStart=/bin/sleep infinity\n")
    m.reload_units()


def rows():
    """What happens, and how many of N pass with each."""
    keep_cgroups()
    yield "a service starts: first connection", [firsts(who, "restart") for who, _ in (SCNPM, NFTSET)]
    yield "it is restarted: first connection", [firsts(who, "restart") for who, _ in (SCNPM, NFTSET)]
    # The rules of scnpm come back by themselves; how long that takes is not the test's business.
    m.run("nft", "flush", "ruleset")
    m.load_base()
    m.eventually(lambda: running(*SCNPM) == N, m.log)
    yield "services that run, after `nft flush ruleset` and a load", [running(*SCNPM), running(*NFTSET)]
    m.run("systemctl", "restart", "nftables.service")
    m.eventually(lambda: running(*SCNPM) == N, m.log)
    yield "services that run, after `systemctl restart nftables`", [running(*SCNPM), running(*NFTSET)]
    yield "restarted after that: first connection", [firsts(who, "restart") for who, _ in (SCNPM, NFTSET)]
    of_user = {"where": pathlib.Path(f"/run/user/{m.UID}"), "systemctl": lambda *words: m.as_user("systemctl", "--user", *words)}
    yield "a user's service starts: first connection", [firsts(who, "restart", **of_user) for who, _ in (SCNPM, NFTSET)]


def table(found):
    """In Markdown."""
    lines = [("", "scnpm", "`NFTSet=`"), ("---", "---", "---")]
    lines += [(what, *(f"{passed} of {N}" for passed in counts)) for what, counts in found]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def scnpm_and_nftset_side_by_side():
    before = m.CONF.read_text()
    m.run("loginctl", "enable-linger", m.USER)
    m.eventually(lambda: m.as_user("systemctl", "--user", "is-active", "basic.target", ok=False).returncode == 0, "no user manager")
    m.CONF.write_text(POLICY)
    m.load_base()
    m.run(m.SCNPM, "reload")
    write_units()
    try:
        printed = table(rows())
        print(printed, end="")
        m.equal(printed, TABLE.read_text(), "the table, and the one that is written down")
    finally:
        m.run("systemctl", "stop", *units("scnpm"), *units("nftset"), ok=False)
        for path in [*m.UNITS.glob("t-*"), *m.USER_UNITS.glob("t-*")]:
            path.unlink()
        m.reload_units()
        m.CONF.write_text(before)
        m.load_base()
        m.run(m.SCNPM, "reload")
