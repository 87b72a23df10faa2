"""What the tests of recipes share. Each recipe is a file beside this one; its tests take the commands, files and units from the
page of docs that it belongs to, so that what is written there is what is run."""

import os
import pathlib
import sys

sys.path.insert(0, os.path.dirname(__file__))
import machine as m
import page as pages

DOCS = pathlib.Path("/opt/tests")


def blocks(page, heading=None):
    """The blocks of a page, or of its section with this heading and those below, each as text: fenced ones without the fence,
    indented ones without the indentation. What is taken from the list counts as run by the recipe (main)."""
    found = pages.blocks(page, (DOCS / page).read_text(), heading)
    SEEN.update({block.where(): block for block in pages.blocks(page, (DOCS / page).read_text())})
    return Taken(found)


def file(page, path, heading=None):
    """What a page puts into the file at this path, under `<!-- file: PATH -->`; of several, the first."""
    block = next(block for block in pages.blocks(page, (DOCS / page).read_text(), heading) if block.said("file") == path)
    return block.text


class Taken(list):
    """Texts of blocks; it is noted which of them somebody looked at."""

    def __init__(self, blocks):
        super().__init__(block.text for block in blocks)
        self.places = [block.where() for block in blocks]

    def __getitem__(self, which):
        TAKEN.update(self.places[which] if isinstance(which, slice) else [self.places[which]])
        return super().__getitem__(which)

    def __iter__(self):
        for place, text in zip(self.places, super().__iter__()):
            TAKEN.add(place)
            yield text


# The blocks of the pages that a recipe has asked for, by place; and the places of those that it has looked at.
SEEN, TAKEN = {}, set()


def left_over():
    """The commands of the pages that no test took, but for those that the page says are not run."""
    commands = [place for place, block in SEEN.items() if block.language == "console" and block.said("not run") is None]
    return [place for place in commands if place not in TAKEN]


def figure(what, *columns):
    """A row of the table that run.sh prints at the end."""
    print("figure:", " | ".join([what, *map(str, columns)]))


def main(tests, clean_up=m.reset):
    """Runs the tests, or those with one of the command line's words in their names; ends the program."""
    m.stop("t-boot-listener.socket", "t-boot-listener.service")
    m.reset()
    passed, failed = m.run_tests(tests, sys.argv[1:], clean_up=clean_up)
    if not sys.argv[1:] and not failed:
        for place in left_over():
            failed += 1
            print(f"FAIL {place}: no test of the recipe takes this block")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)
