#!/usr/bin/python3
"""links.py: checks the links in README.md and docs, as a forge shows them, and in the book that docs/book.sh made of them: files,
pages and anchors must be there; of links to other places only the form is looked at. With --pages the book is left alone."""

import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BOOK = os.path.join(TOP, "target/book/html")
# Debian's mdbook leaves these out of what it makes.
NOT_IN_DEBIAN = ("book.js", "fonts/fonts.css")
URL = re.compile(r"https?://[a-z0-9.-]+\.[a-z]{2,}(:\d+)?(/[^\s<>\"]*)?$", re.IGNORECASE)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def without_blocks(text):
    """A page without its fenced and indented blocks."""
    text = re.sub(r"^( *)(```+|~~~+).*?^\1\2 *$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$", "", text, flags=re.MULTILINE)


def anchors(text):
    """The anchors that a forge makes of a page's headings."""
    found = set()
    for title in re.findall(r"^#{1,6} +(.+?)\s*#*$", without_blocks(text), re.MULTILINE):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").lower()
        base = re.sub(r"[^\w\- ]", "", title).replace(" ", "-")
        name, number = base, 0
        while name in found:
            number += 1
            name = f"{base}-{number}"
        found.add(name)
    return found


def links(text):
    """Where a page's links and pictures lead."""
    text = without_blocks(text)
    inline = re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", text)
    return inline + re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, re.MULTILINE)


def wrong(target, of, directory, names_of):
    """Why a link that is in the file `of` is wrong, or None."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return None if URL.match(target) or target.startswith("mailto:") else "no such form of address"
    path, _, name = target.partition("#")
    path = os.path.normpath(os.path.join(directory, path)) if path else of
    if not os.path.exists(path):
        return "no such file"
    if name and name not in names_of(path):
        return "no such heading"
    return None


def pages():
    """All pages, and what is wrong with their links."""
    names = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
    names += sorted(f"docs/{name}" for name in os.listdir(os.path.join(TOP, "docs")) if name.endswith(".md"))
    for name in names:
        path = os.path.join(TOP, name)
        for target in links(read(path)):
            why = wrong(target, path, os.path.dirname(path), lambda page: anchors(read(page)))
            yield name, target, why
    listed = {target for target in links(read(os.path.join(TOP, "docs/SUMMARY.md")))}
    for name in names:
        relative = os.path.relpath(name, "docs")
        if relative != "SUMMARY.md":
            yield "docs/SUMMARY.md", relative, None if relative in listed else "the page is not in the list"


def book():
    """The links of the book's pages, and what is wrong with each."""
    ids = {}

    def names_of(page):
        if page not in ids:
            ids[page] = set(re.findall(r"\b(?:id|name)=\"([^\"]+)\"", read(page)))
        return ids[page]

    for directory, _, files in os.walk(BOOK):
        for file in sorted(files):
            # The print page has all pages in one, with links as they are in each; a 404 page can be anywhere.
            if not file.endswith(".html") or file in ("print.html", "404.html", "toc.html"):
                continue
            path = os.path.join(directory, file)
            for target in re.findall(r"\b(?:href|src)=\"([^\"]+)\"", read(path)):
                target = target.replace("&amp;", "&")
                if target.endswith(NOT_IN_DEBIAN):
                    continue
                yield os.path.relpath(path, BOOK), target, wrong(target, path, directory, names_of)


def main():
    found = list(pages())
    if "--pages" not in sys.argv[1:]:
        found += book()
    bad = [f"{where}: {target}: {why}" for where, target, why in found if why]
    print("\n".join(bad), end="\n" if bad else "")
    print(f"{len(found)} links, {len(bad)} wrong")
    if bad or len(found) < 100:
        sys.exit(1)


if __name__ == "__main__":
    main()
