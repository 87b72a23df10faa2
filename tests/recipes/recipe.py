"""What the tests of recipes share. Each recipe is a file beside this one; its tests take the commands, files and units from the
page of docs that it belongs to, so that what is written there is what is run."""

import os
import pathlib
import re
import sys

sys.path.insert(0, os.path.dirname(__file__))
import machine as m

DOCS = pathlib.Path("/opt/tests")


def blocks(page, heading=None):
    """The indented blocks of a page, or of its section with this heading, each as text without the indentation."""
    text = (DOCS / page).read_text()
    if heading is not None:
        level, rest = re.search(rf"^(#+) {re.escape(heading)}\n(.*)", text, re.MULTILINE | re.DOTALL).groups()
        text = re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    found, block = [], []
    for line in [*text.splitlines(), "end"]:
        if line.startswith("    ") or (block and not line):
            block.append(line[4:])
        elif block:
            found.append("\n".join(block).rstrip("\n") + "\n")
            block = []
    return found


def figure(what, *columns):
    """A row of the table that run.sh prints at the end."""
    print("figure:", " | ".join([what, *map(str, columns)]))


def main(tests, clean_up=m.reset):
    """Runs the tests, or those with one of the command line's words in their names; ends the program."""
    m.stop("t-boot-listener.socket", "t-boot-listener.service")
    m.reset()
    passed, failed = m.run_tests(tests, sys.argv[1:], clean_up=clean_up)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)
