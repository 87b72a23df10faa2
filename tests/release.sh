#!/bin/bash
# release.sh [PART...]: what a release needs, tried on the last commit: cargo-deny, cargo package, also with the lowest versions
# of crates that Cargo.toml allows, the source, made twice and compared, with all crates in it, and the SBOM.
#
# Parts: deny package source sbom
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
parts=("$@")
[ ${#parts[@]} != 0 ] || parts=(deny package source sbom)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
# The crates that other steps have built need not be built again.
shared=$PWD/target

deny() {
    tests/deny.sh
}

# Without a warning; and what is in it is enough, also with the lowest versions of crates that Cargo.toml allows. An unstable
# option of cargo chooses those; what is built with them is a stable compiler's business.
package() {
    local said dirty=()
    [ -z "$(git status --porcelain)" ] || dirty=(--allow-dirty)
    said=$(cargo package --no-verify --locked --target-dir "$work/package" "${dirty[@]}" 2>&1)
    local status=$?
    echo "$said"
    [ "$status" = 0 ] && ! grep -q '^warning' <<<"$said" || return 1
    tar --extract --directory "$work" --file "$work"/package/package/scnpm-*.crate &&
        cd "$work"/scnpm-* && RUSTC_BOOTSTRAP=1 cargo update --quiet -Z direct-minimal-versions &&
        cargo check --quiet --locked --target-dir "$shared"
}

# Elsewhere, for another user's habits.
source_code() {
    git clone --quiet . "$work/elsewhere" || return
    packaging/tarball.sh --tar "$work/one" >/dev/null || return
    (
        umask 077
        TZ=Asia/Tokyo LANG=de_DE.UTF-8 "$work/elsewhere/packaging/tarball.sh" --tar "$work/two" >/dev/null
    ) || return
    (cd "$work/one" && sha256sum -- *) | tee "$work/sums" || return
    (cd "$work/two" && sha256sum --check "$work/sums") || return
    # Nothing but the source, no registry and no network: all crates are there, whole. Cargo would compare their files when it
    # compiles them, which takes minutes.
    mkdir "$work/built" && tar --extract --directory "$work/built" --file "$work"/one/scnpm-*-vendored.tar || return
    cd "$work"/built/scnpm-* && CARGO_HOME=$work/home cargo metadata --format-version 1 --frozen >"$work/metadata.json" || return
    python3 - "$work/metadata.json" <<'END'
import hashlib, json, pathlib, sys

crates = [pathlib.Path(each["manifest_path"]).parent for each in json.load(open(sys.argv[1]))["packages"] if each["source"]]
assert len(crates) > 100, crates
files = 0
for crate in crates:
    assert crate.parent == pathlib.Path.cwd() / "vendor", crate
    for name, checksum in json.loads((crate / ".cargo-checksum.json").read_text())["files"].items():
        assert hashlib.sha256((crate / name).read_bytes()).hexdigest() == checksum, crate / name
        files += 1
print(f"{len(crates)} crates, {files} files as they were published")
END
}

sbom() {
    packaging/sbom.py >"$work/sbom.json" && packaging/sbom.py | cmp - "$work/sbom.json" || return
    python3 - "$work/sbom.json" <<'END'
import json, sys

bom = json.load(open(sys.argv[1]))
components = bom["components"]
without = [found["name"] for found in components if not found.get("licenses")]
assert not without, f"no licence: {without}"
names = {found["name"]: found["scope"] for found in components}
assert names["serde"] == names["libnftables"] == "required", names
assert names["serde_derive"] == "excluded", names
crates = [found for found in components if found["bom-ref"].startswith("pkg:cargo/")]
assert all(found["hashes"] for found in crates)
references = {found["bom-ref"] for found in components} | {bom["metadata"]["component"]["bom-ref"]}
assert {name for entry in bom["dependencies"] for name in entry["dependsOn"]} <= references
print(f"{len(components)} components, {sum(scope == 'required' for scope in names.values())} of them in the program")
END
}

status=0
for part in "${parts[@]}"; do
    case $part in
    deny | package | sbom) run=$part ;;
    source) run=source_code ;;
    *)
        echo "release.sh: unknown part: $part" >&2
        exit 2
        ;;
    esac
    began=$SECONDS
    if (trap - EXIT && "$run"); then
        echo "--- $part: ok ($((SECONDS - began)) s)"
    else
        echo "--- $part: FAILED ($((SECONDS - began)) s)"
        status=1
    fi
done
exit "$status"
