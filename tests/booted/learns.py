"""Tests of `scnpm learn` with commands of its own, which inside.py runs among its others. tests/kernel_learn.rs has the rest."""

import machine as m

import denied

TESTS = []


def test(function):
    TESTS.append(function)
    return function


def learnt_list_refuses_nothing(who, *words):
    """Learns what a command does, which is refused meanwhile, and has it done again with the list in force."""
    m.start_with(base=denied.BASE)
    command = ["--", m.CONNECT, "7003", "/dev/null"]
    learnt = m.run(m.SCNPM, "learn", who, "--loopback", *words, *command, ok=False)
    lines = [line for line in learnt.stdout.splitlines() if " :: " in line]
    m.check(lines and all("tcp dport 7003" in line for line in lines), f"{learnt.stdout} {learnt.stderr}")
    m.check(learnt.returncode != 0, "exit status of a command that is refused")
    m.check("learn" not in m.run("nft", "list", "tables").stdout, "what is left of it")
    m.write_policy(*(line + "\n" for line in lines), base=denied.BASE)
    m.equal(m.run(m.SCNPM, "check", str(m.CONF), ok=False).returncode, 0, "exit status of check")
    m.run(m.SCNPM, "reload")

    def passes():
        return m.run(m.SCNPM, "learn", who, "--loopback", *words, *command, ok=False).returncode == 0

    # The number of a user whose name is new is looked up first.
    m.eventually(passes, "it is refused the second time")


@test
def learnt_list_of_a_service_refuses_nothing():
    learnt_list_refuses_nothing("system:t-learnt.service")


@test
def learnt_list_of_a_users_application_refuses_nothing():
    learnt_list_refuses_nothing(f"{m.USER}:app:learnt")
