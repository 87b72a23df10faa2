"""What a page of the documentation consists of: headings, blocks and the comments for the tests. Nothing is run here."""

import dataclasses
import re

FENCE = re.compile(r"( *)(`{3,}|~{3,})\s*([\w-]*)\s*$")
HEADING = re.compile(r"(#{1,6}) (.*?)\s*$")
ITEM = re.compile(r" *(?:[-*+]|\d+[.)]) +")
COMMENT = re.compile(r"<!--\s*(?:([a-z][a-z ]*):)?(.*?)\s*-->", re.DOTALL)


@dataclasses.dataclass
class Comment:
    """`<!-- key: words -->`; without a key it is for readers of the source."""

    line: int
    headings: tuple
    key: str | None
    words: str


@dataclasses.dataclass
class Block:
    """`language` is what stands behind the fence, and None of a block that is only indented. `comments` stand directly above it."""

    page: str
    line: int
    headings: tuple
    language: str | None
    text: str
    comments: list

    def said(self, key):
        """The words of the comment with this key above the block, or None."""
        return next((comment.words for comment in self.comments if comment.key == key), None)

    def where(self):
        return f"{self.page}:{self.line}"


def parse(page, text):
    """The blocks and comments of a page, in order."""
    lines = text.splitlines()
    items, headings, above = [], [], []
    offset = number = 0
    is_after_blank = True
    while number < len(lines):
        line, begin = lines[number], number
        number += 1
        indent = len(line) - len(line.lstrip(" "))
        fence = FENCE.match(line)
        if not line.strip():
            is_after_blank = True
            continue
        if fence:
            number = end_of_fence(lines, number, fence[2])
            content = [each.removeprefix(fence[1]) for each in lines[begin + 1 : number - 1]]
            items.append(Block(page, begin + 1, under(headings), fence[3], joined(content), above))
            above = []
        elif line.lstrip().startswith("<!--"):
            while "-->" not in lines[number - 1] and number < len(lines):
                number += 1
            for key, words in COMMENT.findall("\n".join(lines[begin:number])):
                comment = Comment(begin + 1, under(headings), key or None, "\n".join(each.strip() for each in words.strip().splitlines()))
                above = [*above, comment]
                items.append(comment)
        elif is_after_blank and indent >= offset + 4:
            while number < len(lines) and (not lines[number].strip() or lines[number].startswith(" " * (offset + 4))):
                number += 1
            content = [each[offset + 4 :] for each in lines[begin:number]]
            items.append(Block(page, begin + 1, under(headings), None, joined(content), above))
            above = []
        else:
            above = []
            heading, item = HEADING.match(line), ITEM.match(line)
            if heading:
                headings = [each for each in headings if each[0] < len(heading[1])] + [(len(heading[1]), heading[2])]
            if item:
                offset = len(item[0])
            elif is_after_blank and indent < offset or heading:
                offset = 0
        is_after_blank = bool(fence) or not lines[number - 1].strip()
    return items


def under(headings):
    return tuple(title for _, title in headings)


def end_of_fence(lines, number, fence):
    """The number of the line behind the fence that closes this one."""
    while number < len(lines):
        number += 1
        if lines[number - 1].strip().startswith(fence) and not lines[number - 1].strip().strip(fence[0]):
            return number
    raise ValueError(f"a fence is not closed: {lines[-1]!r}")


def joined(lines):
    return "\n".join(lines).strip("\n") + "\n"


def blocks(page, text, heading=None):
    """The blocks of a page, or of its section with this heading and those below."""
    found = [item for item in parse(page, text) if isinstance(item, Block)]
    return [block for block in found if heading is None or heading in block.headings]


@dataclasses.dataclass
class Command:
    """A line of a console block, with those that continue it, and the lines of its output as the page shows them."""

    who: str
    text: str
    output: list


PROMPTS = {"$": "user", "#": "root"}
ANNOTATION = re.compile(r"# (?:scnpm:|[^\s,]+(?:, ?[^\s,]+)* ::)")


def commands(block):
    """The commands of a console block. ValueError if it does not begin with one."""
    found, lines = [], block.text.splitlines()
    for number, line in enumerate(lines):
        is_more = found and block.said("commands") == "one"
        if found and not found[-1].output and found[-1].text.endswith("\\"):
            found[-1].text += "\n" + line
        elif line[:1] in PROMPTS and line[1:2] == " " and not ANNOTATION.match(line) and not is_more:
            found.append(Command(PROMPTS[line[0]], line[2:], []))
        elif found:
            found[-1].output.append(line)
        else:
            raise ValueError("a block of commands begins with `$ ` or `# `")
    return found


def statuses(block, count):
    """The exit statuses of its commands."""
    said = [int(word) for word in (block.said("exit") or "").split()]
    if len(said) > count:
        raise ValueError(f"{len(said)} exit statuses of {count} commands")
    return [0] * (count - len(said)) + said


def checks(block):
    """The codes that `scnpm check` finds, what stands around the block, and whether that is all: `CODES`, `none`, `CODES alone` or
    `CODES in table … { … }`."""
    codes, _, frame = block.said("checks").partition(" in ")
    words = set(codes.split())
    return words - {"none", "alone"}, frame or "…", "alone" in words


NUMBERS = r"\d[\d.,:]*(?: ?(?:ns|µs|ms|s|min|h|days?)\b)?"


def pattern(lines, numbers_differ=False):
    """What the output that a page shows is compared with: `…` is anything, on a line of its own any lines."""

    def words(text):
        if not numbers_differ:
            return re.escape(text)
        parts = re.split(rf"({NUMBERS}|  +)", text)
        return "".join((" +" if each.isspace() else NUMBERS) if n % 2 else re.escape(each) for n, each in enumerate(parts))

    def line(text):
        return r"(?:.*\n)*?" if text.strip() == "…" else ".*?".join(words(each) for each in text.rstrip().split("…")) + r"[ \t]*\n"

    return re.compile("".join(line(each) for each in lines))


def is_as_shown(lines, output, numbers_differ=False):
    """Whether a command's output is what the page shows. Blanks at ends of lines do not count."""
    output = "".join(line.rstrip() + "\n" for line in output.splitlines())
    return pattern(lines, numbers_differ).fullmatch(output) is not None
