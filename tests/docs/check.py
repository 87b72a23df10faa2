#!/usr/bin/env python3
"""check.py [PAGE...]: whether the pages of the documentation, or those named, have the form that walk.py can run. No root."""

import ast
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import page as pages

TOP = pathlib.Path(__file__).resolve().parents[2]
SCENES = {each.name for each in ast.parse((TOP / "tests/docs/scenes.py").read_text()).body if isinstance(each, ast.FunctionDef)}
KEYS = {"file", "add to", "exit", "differ", "commands", "needs", "not run", "setup", "write", "checks", "types"}


def names(chosen):
    """Paths of pages from the top directory: `README` is README.md."""
    found = [path for folder in [TOP, TOP / "docs"] for path in sorted(folder.glob("*.md")) if path.name != "CHANGELOG.md"]
    return [path for path in found if not chosen or str(path.relative_to(TOP).with_suffix("")) in [each.removesuffix(".md") for each in chosen]]


def of_comment(comment):
    if comment.key is not None and comment.key not in KEYS:
        yield f"unknown comment `{comment.key}:`; there are {', '.join(sorted(KEYS))}"
    if comment.key is not None and not comment.words:
        yield f"`{comment.key}:` says nothing"
    if comment.key == "setup":
        unknown = [line.split()[0] for line in comment.words.splitlines() if line.split()[0] not in SCENES]
        yield from (f"unknown setup `{each}`: the functions of tests/docs/scenes.py are {', '.join(sorted(SCENES))}" for each in unknown)


def of_block(block):
    if block.language is None:
        yield "an indented block: fence it (```console, ```nft, ```ini, ```sh, ```text)"
    elif block.language == "":
        yield "a fence without a language"
    elif block.language == "console":
        try:
            pages.statuses(block, len(pages.commands(block)))
        except ValueError as error:
            yield str(error)
        if block.said("file") or block.said("add to"):
            yield "a file is not in a block of commands"
    else:
        if block.language in ["sh", "bash", "shell"] and not any(map(block.said, ["file", "add to", "not run"])):
            yield "a script that no test writes into a file: commands are in ```console"
        if block.language == "text" and any(line.startswith("$ ") for line in block.text.splitlines()):
            yield "commands are in ```console"


def main(chosen):
    found = names(chosen)
    wrong = [f"unknown page {each}" for each in chosen if not names([each])]
    for path in found:
        place = path.relative_to(TOP)
        try:
            items = pages.parse(str(place), path.read_text())
        except ValueError as error:
            wrong.append(f"{place}: {error}")
            continue
        for item in items:
            of = of_block if isinstance(item, pages.Block) else of_comment
            wrong += [f"{place}:{item.line}: {each}" for each in of(item)]
    print(*wrong, f"{len(found)} pages, {len(wrong)} errors", sep="\n")
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
