#!/usr/bin/env python3
"""sbom.py: prints what the program `cargo build --release --features top` is made of, as CycloneDX 1.5 in JSON.

Crates that only run during the build have the scope `excluded`. The time is SOURCE_DATE_EPOCH, or the last commit's, so that
one commit gives the same text.
"""

import datetime
import json
import os
import pathlib
import re
import subprocess
import uuid

TOP = pathlib.Path(__file__).resolve().parent.parent
FEATURES = ["--features", "top"]
# The system's, which are in the program by name only.
LIBRARIES = [("libnftables", "GPL-2.0-or-later"), ("libsystemd", "LGPL-2.1-or-later")]


def output(*command):
    return subprocess.run(command, cwd=TOP, check=True, capture_output=True, text=True).stdout


def tree(*arguments):
    """The (name, version) of the crates that `cargo tree` lists."""
    lines = output("cargo", "tree", "--locked", *FEATURES, "--prefix", "none", "--format", "{p}", *arguments)
    return {(name, version) for name, version in re.findall(r"^(\S+) v(\S+)", lines, re.MULTILINE)}


def checksums():
    """The SHA-256 of each crate's archive, by its name and version."""
    entry = re.compile(r'name = "(.+)"\nversion = "(.+)"\nsource = .+\nchecksum = "(.+)"')
    return {(name, version): checksum for name, version, checksum in entry.findall((TOP / "Cargo.lock").read_text())}


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version'].replace('+', '%2B')}"


def component(package, kind, scope=None, checksum=None):
    fields = {
        "type": kind,
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "description": (package["description"] or "").strip(),
        "scope": scope,
        "hashes": checksum and [{"alg": "SHA-256", "content": checksum}],
        # The form before SPDX's.
        "licenses": [{"expression": package["license"].replace("/", " OR ")}],
        "purl": purl(package),
        "externalReferences": package["repository"] and [{"type": "vcs", "url": package["repository"]}],
    }
    return {name: value for name, value in fields.items() if value}


def main():
    metadata = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1", *FEATURES))
    used = tree("--edges", "normal,build")
    linked = tree("--edges", "normal,no-proc-macro")
    sums = checksums()
    packages = {
        package["id"]: package
        for package in metadata["packages"]
        if (package["name"], package["version"]) in used
    }
    root = packages.pop(metadata["resolve"]["root"])
    components = [
        component(
            package,
            "library",
            "required" if key in linked else "excluded",
            sums[key],
        )
        for package in packages.values()
        for key in [(package["name"], package["version"])]
    ]
    components += [
        {"type": "library", "bom-ref": name, "name": name, "scope": "required", "licenses": [{"license": {"id": licence}}]}
        for name, licence in LIBRARIES
    ]
    of = {package_id: purl(package) for package_id, package in packages.items()}
    dependencies = [
        {"ref": of.get(node["id"], purl(root)), "dependsOn": sorted(
            of[dep["pkg"]]
            for dep in node["deps"]
            if dep["pkg"] in of and any(kind["kind"] != "dev" for kind in dep["dep_kinds"])
        )}
        for node in metadata["resolve"]["nodes"]
        if node["id"] in of or node["id"] == metadata["resolve"]["root"]
    ]
    time = int(os.environ.get("SOURCE_DATE_EPOCH") or output("git", "log", "-1", "--format=%ct"))
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(time, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": component(root, "application"),
        },
        "components": sorted(components, key=lambda found: found["bom-ref"]),
        "dependencies": sorted(dependencies, key=lambda found: found["ref"]),
    }
    bom["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom)).urn
    print(json.dumps(bom, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
