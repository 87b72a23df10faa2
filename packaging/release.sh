#!/bin/bash
# release.sh VERSION [--program PROGRAM] [--no-advisories]: makes the files of a release in target/release-files: the source
# with and without crates, packages, the SBOM and SHA256SUMS. Changes nothing in git and publishes nothing.
#
# PROGRAM goes into the packages (packaging/build.sh); without it, it is built. --no-advisories leaves out RustSec's database,
# for a machine that does not reach GitHub. docs/releasing.md has what comes before and after.
set -euo pipefail

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

cd "$(dirname "$0")/.."
version='' program='' checks=(advisories bans licenses sources)
while [ $# != 0 ]; do
    case $1 in
    --program)
        [ $# -ge 2 ] || usage
        program=$(realpath -- "$2") || exit
        shift
        ;;
    --no-advisories) checks=(bans licenses sources) ;;
    -* | '') usage ;;
    *)
        [ -z "$version" ] || usage
        version=$1
        ;;
    esac
    shift
done
[ -n "$version" ] || usage

problems=()
# unless PROBLEM COMMAND...
unless() {
    "${@:2}" >/dev/null 2>&1 || problems+=("$1")
}
is_version() { [[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]]; }
is_clean() { [ -z "$(git status --porcelain)" ]; }
has_line() { grep --quiet --line-regexp "$@"; }
has_no_tag() { ! git rev-parse --quiet --verify "refs/tags/v$version"; }
is_program() { [ -z "$program" ] || [ "$("$program" --version)" = "scnpm $version" ]; }

unless "$version is no version; it looks like 0.1.0, without a v" is_version
unless "Cargo.toml has another version than $version" has_line "version = \"$version\"" Cargo.toml
unless "Cargo.lock does not go with Cargo.toml: run cargo check" cargo tree --locked
unless "CHANGELOG.md has no line \"## [$version] - YEAR-MONTH-DAY\"" \
    has_line "## \[$version\] - [0-9]\{4\}-[0-9][0-9]-[0-9][0-9]" CHANGELOG.md
[ ! -e packaging/debian/changelog ] || unless "packaging/debian/changelog does not begin with $version" \
    grep --quiet "^scnpm ($version-" <(head -n 1 packaging/debian/changelog)
unless "there are changes that are not in a commit: git status" is_clean
unless "the tag v$version exists already: git show v$version" has_no_tag
unless "$program is not scnpm $version" is_program
if [ ${#problems[@]} != 0 ]; then
    printf 'release.sh: %s\n' "${problems[@]}" >&2
    exit 1
fi

tests/deny.sh "${checks[@]}"
out=$PWD/target/release-files
rm -rf "$out"
mkdir -p "$out"
packaging/tarball.sh "$out" >/dev/null
packaging/sbom.py >"$out/scnpm-$version.cdx.json"
if [ -x packaging/build.sh ]; then
    packaging/build.sh deb rpm ${program:+--program "$program"} | xargs -d '\n' cp --target-directory "$out"
else
    echo "release.sh: there is no packaging/build.sh, so there are no packages" >&2
fi
(cd "$out" && sha256sum -- * >SHA256SUMS.part && mv SHA256SUMS.part SHA256SUMS)

commit=$(git rev-parse HEAD)
echo "scnpm $version, commit $commit, in $out:"
(cd "$out" && stat --format '%12s  %n' -- *)
# tests/run.sh writes the commit there when all its steps have passed.
if [ "$(cat target/tested 2>/dev/null)" = "$commit" ]; then
    echo "All steps of tests/run.sh passed with this commit."
else
    echo "tests/run.sh has NOT passed with this commit on this machine."
fi
[ "${checks[0]}" = advisories ] || echo "The advisories of RustSec were NOT looked at."
