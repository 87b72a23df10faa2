"""Users who make and remove cgroups as fast as they can, to see who suffers from it.

    floods.py below TOP    3,000 cgroups in 30 slices below TOP, made and removed again and again
    floods.py above TOP    1,100 slices of 6 scopes below TOP, of which two scopes and a slice come and go about 1,000 times a second
"""

import contextlib
import itertools
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import machine as m

FLOOD_UID = 1002
FLOOD = "flood"


def below(top):
    slices = [top / f"app-flood{number}.slice" for number in range(30)]
    for each in slices:
        each.mkdir(exist_ok=True)
    print("flooding", flush=True)
    while True:
        for make in [os.mkdir, os.rmdir]:
            for each, number in itertools.product(slices, range(100)):
                make(each / f"app-flood-{number}.scope")


def above(top):
    for number in range(1100):
        for scope in range(6):
            (top / f"app-flood{number}.slice" / f"app-flood-{scope}.scope").mkdir(parents=True, exist_ok=True)
    print("flooding", flush=True)
    two = [top / "app-flood1.slice/app-flood-1.scope", top / "app-flood1099.slice/app-flood-1.scope"]
    extra = top / "app-extra.slice"
    while True:
        for each in two:
            each.rmdir()
        extra.mkdir()
        for each in two:
            each.mkdir()
        extra.rmdir()
        time.sleep(0.001)


def top_of(uid):
    return m.CGROUPS / m.USER_SLICE.replace(str(m.UID), str(uid))


def managers():
    """The managers of both users who flood; the third user's lingers."""
    m.run("useradd", "--create-home", "--uid", str(FLOOD_UID), FLOOD, ok=False)
    for uid in [m.OTHER_UID, FLOOD_UID]:
        m.start(f"user@{uid}.service")
        # So that there is an app.slice.
        m.as_user("systemd-run", "--user", "--unit=t-keep", "--slice=app.slice", "sleep", "infinity", uid=uid, ok=False)


@contextlib.contextmanager
def of_two_users():
    """One floods below the bounds of what is followed, one above them, each as fast as two processes can."""
    both = []
    try:
        for uid, kind in [(m.OTHER_UID, "below"), (FLOOD_UID, "above")]:
            command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable, __file__, kind]
            both.append(subprocess.Popen([*command, str(top_of(uid))], stdout=subprocess.PIPE, text=True))
        for flood in both:
            m.equal(flood.stdout.readline(), "flooding\n", "a flood")
        yield both
        for flood in both:
            m.equal(flood.poll(), None, "exit status of a flood that should go on")
    finally:
        for flood in both:
            flood.kill()
            flood.wait()
        for uid in [m.OTHER_UID, FLOOD_UID]:
            left = [*top_of(uid).glob("app-*.slice/*.scope"), *top_of(uid).glob("app-*.slice")]
            for directory in left:
                with contextlib.suppress(OSError):
                    directory.rmdir()


if __name__ == "__main__":
    {"below": below, "above": above}[sys.argv[1]](pathlib.Path(sys.argv[2]))
