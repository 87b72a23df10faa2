"""Tests of applications that a real GNOME Shell starts, without a screen. Needs a tree with GNOME Shell:

    SCNPM_TREE=gnome tests/booted/run.sh trixie target/release/scnpm gnome.py [WORD]

The tree takes 1.2 GB and some minutes to make, so this is not run with every change.
"""

import contextlib
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import machine as m

TESTS = []
HOME = pathlib.Path(f"/home/{m.USER}")
EXTENSION = HOME / ".local/share/gnome-shell/extensions/launch@scnpm"
APPLICATIONS = pathlib.Path("/usr/share/applications")
COPIES = pathlib.Path(f"/run/user/{m.UID}/scnpm/applications")
SHELL = "gnome-shell.service"
SETTINGS = """[org/gnome/shell]
enabled-extensions=['launch@scnpm']
disable-user-extensions=false
welcome-dialog-last-shown-version='99'
"""

# Starts an application as a click on its icon does.
CODE = """
import Gio from 'gi://Gio';
import Shell from 'gi://Shell';

const INTERFACE = `<node><interface name="org.scnpm.Launch">
  <method name="Launch"><arg type="s" direction="in"/></method>
</interface></node>`;

export default class {
    enable() {
        this.object = Gio.DBusExportedObject.wrapJSObject(INTERFACE, this);
        this.object.export(Gio.DBus.session, '/org/scnpm/Launch');
        Gio.bus_own_name(Gio.BusType.SESSION, 'org.scnpm.Launch', 0, null, null, null);
    }
    disable() {
        this.object.unexport();
    }
    Launch(id) {
        Shell.AppSystem.get_default().lookup_app(id).launch(0, -1, Shell.AppLaunchGpu.APP_PREF);
    }
}
"""

# Ports 7001 to 7009 are refused unless a rule accepts, 7011 to 7019 pass unless a rule refuses.
BASE = m.BASE.replace("chain allowed { }", "chain allowed { }\n    chain games { }").replace(
    "tcp dport 7001-7009 jump", "tcp dport 7011-7019 jump games\n        tcp dport 7001-7009 jump"
)


def test(function):
    TESTS.append(function)
    return function


def own(path, text):
    """A file of the user's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    m.run("chown", "-R", f"{m.USER}:", str(HOME))


@contextlib.contextmanager
def shell():
    """GNOME Shell in a service of the user's, as in a session."""
    settings = ["GSETTINGS_BACKEND=keyfile", "XDG_SESSION_TYPE=wayland", "XDG_CURRENT_DESKTOP=GNOME", "NO_AT_BRIDGE=1"]
    environment = [word for setting in settings for word in ("-E", setting)]
    command = ["gnome-shell", "--headless", "--virtual-monitor", "800x600", "--no-x11"]
    m.as_user("systemd-run", "--user", "--quiet", f"--unit={SHELL}", *environment, *command)
    try:
        is_up = lambda: m.as_user("busctl", "--user", "status", "org.scnpm.Launch", ok=False).returncode == 0
        m.eventually(is_up, lambda: f"GNOME Shell does not come up\n{shell_log()}", 30)
        yield
    finally:
        m.as_user("systemctl", "--user", "stop", SHELL, ok=False)


def launch(application):
    call = ["org.scnpm.Launch", "/org/scnpm/Launch", "org.scnpm.Launch", "Launch", "s", f"{application}.desktop"]
    return m.as_user("busctl", "--user", "call", *call, ok=False).returncode == 0


@contextlib.contextmanager
def application(name, command, more=""):
    """An installed application."""
    entry = APPLICATIONS / f"{name}.desktop"
    entry.write_text(f"[Desktop Entry]\nType=Application\nName={name}\nExec={command}\n{more}")
    try:
        yield entry
    finally:
        entry.unlink()


def outcomes(name, count):
    """How the first packets of so many starts went."""
    m.eventually(lambda: launch(name), f"GNOME Shell does not know {name}")
    m.eventually(lambda: m.tries(name), f"{name} was not started")
    (m.TRIES / name).unlink()
    for _ in range(count):
        launch(name)
        time.sleep(0.03)
    m.eventually(lambda: len(m.tries(name)) >= count, lambda: f"{len(m.tries(name))} of {count} starts\n{shell_log()}", 60)
    tries = m.tries(name)
    return {outcome: tries.count(outcome) for outcome in sorted(set(tries))}


def shell_log():
    return m.run("journalctl", "-b", "--no-pager", "-n", "30", "-o", "cat", f"_UID={m.UID}", ok=False).stdout


def figure(what, *columns):
    print("figure:", " | ".join([what, *map(str, columns)]))


def rules(name):
    """What lets an application through to a port, and what refuses it another one."""
    refusal = f"# {m.USER}:app:{name}-game :: add rule inet filter games socket cgroupv2 unit tcp dport 7011 reject with tcp reset\n"
    return [m.selected(f"{m.USER}:app:{name}"), refusal]


@test
def shell_moves_an_application_after_its_first_packet():
    """What the documentation says of GNOME. That it is so every time is not asked for."""
    m.start_with(*rules("t-plain"), base=BASE)
    with application("t-plain", m.connects("t-plain")), application("t-plain-game", m.connects("t-plain-game", 7011)), shell():
        accepted, refused = outcomes("t-plain", 100), outcomes("t-plain-game", 100)
    figure("GNOME Shell, a rule that accepts", "passed", f"{accepted.get('ok', 0)} of 100")
    figure("GNOME Shell, a rule that refuses", "passed", f"{refused.get('ok', 0)} of 100")
    m.check(accepted.get("ok", 0) < 100 and refused.get("ok", 0) > 0, f"GNOME Shell has become better: {accepted}, {refused}")


@test
def launchers_of_the_service_hold_for_every_start():
    m.start_with(*rules("t-wrapped"), base=BASE)
    m.as_user("systemctl", "--user", "daemon-reload")
    m.as_user("systemctl", "--user", "start", "scnpm-launchers.service")
    try:
        with (
            application("t-wrapped", m.connects("t-wrapped"), "DBusActivatable=true\n"),
            application("t-wrapped-game", m.connects("t-wrapped-game", 7011)),
            shell(),
        ):
            m.eventually(lambda: (COPIES / "t-wrapped-game.desktop").exists(), "no copy of a new application")
            accepted, refused = outcomes("t-wrapped", 300), outcomes("t-wrapped-game", 300)
            figure("with scnpm-launchers.service, a rule that accepts", "passed", f"{accepted.get('ok', 0)} of 300")
            figure("with scnpm-launchers.service, a rule that refuses", "passed", f"{refused.get('ok', 0)} of 300")
            m.equal([accepted, refused], [{"ok": 300}, {"refused": 300}], "first packets")
            copy = (COPIES / "t-wrapped.desktop").read_text()
            m.check("DBusActivatable=false" in copy and "scnpm run --app t-wrapped -- " in copy, copy)
            (APPLICATIONS / "t-wrapped.desktop").write_text(copy.replace("Name=", "Name[de]=x\nName="))
            m.eventually(lambda: not (COPIES / "t-wrapped.desktop").exists(), "what has the prefix itself is copied")
    finally:
        m.as_user("systemctl", "--user", "stop", "scnpm-launchers.service")
    m.check(not COPIES.exists(), "the copies outlive the service")


if __name__ == "__main__":
    m.stop("t-boot-listener.socket", "t-boot-listener.service")
    m.reset()
    listeners = m.Listeners([7001, 7011])
    manifest = {"uuid": EXTENSION.name, "name": "launch", "description": "launch", "shell-version": ["48", "49", "50"]}
    own(EXTENSION / "metadata.json", json.dumps(manifest))
    own(EXTENSION / "extension.js", CODE)
    own(HOME / ".config/glib-2.0/settings/keyfile", SETTINGS)
    passed, failed = m.run_tests(TESTS, sys.argv[1:])
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)
