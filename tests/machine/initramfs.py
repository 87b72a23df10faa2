"""initramfs.py TREE INIT FILE: writes an initramfs that has the program INIT and the modules of TREE's kernel that a disk of
virtio with ext4 takes, in the order in which they are to be loaded."""

import lzma
import pathlib
import sys

WANTED = ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"]


def order(dependencies, wanted):
    """Paths of modules, each after those that it needs."""
    ordered = []
    for path, needed in dependencies.items():
        if pathlib.Path(path).name.split(".")[0] in wanted:
            ordered += [each for each in [*reversed(needed), path] if each not in ordered]
    return ordered


def archive(files):
    """A cpio archive in the format `newc`: name, mode and content of each file."""
    parts = []
    for number, (name, mode, content) in enumerate([*files, ("TRAILER!!!", 0, b"")]):
        name = name.encode() + b"\0"
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0]
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        for part in [header, content]:
            parts.append(part + bytes(-len(part) % 4))
    return b"".join(parts)


def main(tree, init, out):
    [kernel] = pathlib.Path(tree, "usr/lib/modules").iterdir()
    lines = (kernel / "modules.dep").read_text().splitlines()
    dependencies = {path: needed.split() for path, needed in (line.split(":") for line in lines)}
    files = [("init", 0o100755, pathlib.Path(init).read_bytes()), ("modules", 0o040755, b"")]
    for number, path in enumerate(order(dependencies, WANTED)):
        files.append((f"modules/{number:02}.ko", 0o100644, lzma.decompress((kernel / path).read_bytes())))
    pathlib.Path(out).write_bytes(archive(files))


main(*sys.argv[1:])
