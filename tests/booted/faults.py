"""faults.py [CALL...]: makes system calls of the daemon's loop fail for a while, one kind of call and one error after the other, while
units start and stop and the policy is loaded. When the fault is over, the kernel must come to what the policy says by itself, and
the daemon must not have ended."""

import os
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import machine as m

ERRORS = {
    "sendto": ["ENOMEM", "ENOBUFS", "EINTR", "EAGAIN"],
    "sendmsg": ["ENOMEM", "ENOBUFS", "EINTR"],
    "recvfrom": ["ENOMEM", "ENOBUFS", "EINTR"],
    "recvmsg": ["ENOMEM", "ENOBUFS", "EINTR"],
    "openat": ["EMFILE", "ENFILE", "ENOMEM", "EINTR"],
    "statx": ["ENOMEM", "EINTR", "EACCES"],
    "newfstatat": ["ENOMEM", "EINTR"],
    "getdents64": ["ENOMEM", "EIO"],
    "read": ["EINTR", "ENOMEM", "EIO", "EAGAIN"],
    # Of an eventfd(2), for which the runtime knows no other error.
    "write": ["EAGAIN"],
    "inotify_add_watch": ["ENOSPC", "ENOMEM"],
    "memfd_create": ["ENOMEM", "EMFILE"],
    "socket": ["EMFILE", "ENOBUFS", "ENOMEM"],
    "fcntl": ["EMFILE", "EINTR"],
    # Not epoll_wait(2): where strace makes one fail that was under way, the events that it had are lost, which the kernel
    # never does.
    "epoll_ctl": ["ENOMEM", "ENOSPC"],
    "mmap": ["ENOMEM"],
    "readlink": ["ENOMEM"],
}
UNITS = [f"t-{name}.service" for name in ["kept", "restarted", "stopped", "started"]]
GATE = "t-gate.service"
SECONDS = 0.6
PATIENCE = 15


def meanwhile():
    m.run("systemctl", "restart", UNITS[1])
    m.run("systemctl", "stop", UNITS[2])
    m.run("systemctl", "start", UNITS[3])
    m.run("systemctl", "stop", GATE)
    m.load_base()
    m.run("systemctl", "--no-block", "reload", "scnpm.service", ok=False)
    time.sleep(SECONDS)


def one(call, error):
    """What is wrong after this fault, if anything."""
    m.run("systemctl", "start", *UNITS[:3], GATE)
    m.run("systemctl", "stop", UNITS[3])
    m.run("systemctl", "reset-failed", "scnpm.service", ok=False)
    m.start_daemon()
    pid = m.daemon_pid()
    with m.failing(call, error) as told:
        meanwhile()
        hits = told.read_text().count("INJECTED")
    wrong = []
    expected = sorted(f"system.slice/{UNITS[number]}" for number in [0, 1, 3])

    def is_right():
        return m.elements() == expected and not m.gets_through(f"system.slice/{UNITS[0]}", 7003)

    try:
        m.eventually(is_right, lambda: f"elements {m.elements()}, gate {m.gets_through(f'system.slice/{UNITS[0]}', 7003)}", PATIENCE)
    except m.Failure as failure:
        wrong.append(f"wrong state: {failure}")
    if m.daemon_pid() != pid:
        said = m.run("journalctl", "-o", "cat", "-n", "20", "-u", "scnpm.service").stdout
        wrong.append(f"the daemon ended: {said}")
    print(f"{'ok   ' if not wrong else 'WRONG'} {call} {error} ({hits} times)", *wrong, sep="\n      " if wrong else " ")
    return not wrong


def main(chosen):
    m.stop("t-boot-listener.socket", "t-boot-listener.service")
    m.reset()
    m.Listeners(range(7001, 7004))
    for name in UNITS:
        m.service(name, "ExecStart=/bin/sleep infinity")
    m.service(GATE, "Type=oneshot", "RemainAfterExit=yes", "ExecStart=/bin/true")
    m.reload_units()
    m.write_policy(*[m.system_rule(name) for name in UNITS], m.rule(GATE, port=7003))
    m.load_base()
    cases = [(call, error) for call, errors in ERRORS.items() for error in errors if not chosen or call in chosen]
    right = [one(*case) for case in cases]
    print(f"{right.count(True)} passed, {right.count(False)} failed")
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
