"""check.py DIRECTORY [WORD...]: checks the packages in the directory with the distributions' own tools; only tests with one of
the words in their names run. Runs in a tree of kind `packages`, in the project's directory. DIRECTORY/program/scnpm is the
program that is in the packages."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

TESTS = []
OUT = pathlib.Path(sys.argv[1])
TOP = pathlib.Path.cwd()
# Where a distribution has what the Debian package has elsewhere, or not at all.
ELSEWHERE = {
    "/usr/share/zsh/site-functions/_scnpm": "/usr/share/zsh/vendor-completions/_scnpm",
    "/usr/share/scnpm/apparmor/scnpm": "/etc/apparmor.d/scnpm",
}
OWN = re.compile(r"/usr/share/(doc/scnpm/(changelog|CHANGELOG|copyright)|licenses|lintian)")


def test(function):
    TESTS.append(function)
    return function


def run(*command, ok=True, **options):
    done = subprocess.run(command, text=True, capture_output=True, **options)
    said = done.stdout + done.stderr
    assert done.returncode == 0 or not ok, f"{' '.join(map(str, command))}: {done.returncode}\n{said}"
    return said


def only(pattern):
    found = sorted(OUT.glob(pattern))
    assert len(found) == 1, f"{pattern}: {found}"
    return str(found[0])


def files(listed):
    """Files, as the Debian package has them."""
    paths = {"/" + path.strip().lstrip("./") for path in listed if path.strip() and not path.strip().endswith("/")}
    paths = {ELSEWHERE.get(path, path.removesuffix(".gz")) for path in paths}
    return {path for path in paths if not OWN.match(path)}


def debian_files():
    listed = run("dpkg-deb", "--contents", only("scnpm_*.deb")).splitlines()
    return files(line.split(maxsplit=5)[5] for line in listed)


@test
def lintian_has_nothing_to_say():
    """Overrides have their reasons in packaging/debian/lintian-overrides."""
    said = run("lintian", "--allow-root", "--fail-on", "error,warning", only("scnpm_*.deb"))
    assert not said, said


@test
def package_for_debian_needs_what_it_opens_at_run_time():
    needs = run("dpkg-deb", "--field", only("scnpm_*.deb"), "Depends")
    for need in ["libc6 (>= 2.36)", "libsystemd0", "libnftables1"]:
        assert need in needs, f"{need}: {needs}"


@test
def every_file_of_packaging_is_in_the_package():
    """What is new in packaging is forgotten in Cargo.toml otherwise."""
    names = {pathlib.Path(path).name for path in debian_files()}
    for path in [*TOP.glob("packaging/*"), *TOP.glob("packaging/user/*"), *TOP.glob("docs/*"), *TOP.glob("examples/*")]:
        name = {"scnpm.bash": "scnpm", "scnpm.sysusers": "scnpm.conf"}.get(path.name, path.name)
        if path.is_file() and path.suffix not in [".py", ".sh", ".rs", ".ld"] and path.name != "README.md":
            assert name in names, f"{path.relative_to(TOP)} is not in the package"


@test
def scripts_of_all_packages_are_scripts():
    for script in ["debian/postinst", "debian/prerm", "debian/postrm", "rpm/post.sh", "rpm/preun.sh", "rpm/postun.sh", "restart"]:
        run("sh", "-n", f"packaging/{script}")
    for script in ["build.sh", "install.sh", "arch/PKGBUILD", "arch/scnpm.install"]:
        run("bash", "-n", f"packaging/{script}")


@test
def rpmlint_has_nothing_to_say():
    """What it is told to pass over has its reasons in packaging/rpm/rpmlint.toml."""
    said = run("rpmlint", "--config", "packaging/rpm/rpmlint.toml", only("scnpm-*.rpm"))
    assert re.search(r"\b0 errors, 0 warnings", said), said


@test
def package_in_rpm_has_the_same_files_and_needs():
    package = only("scnpm-*.rpm")
    listed = run("rpm", "--query", "--list", "--package", package).splitlines()
    assert files(listed) == debian_files(), sorted(files(listed) ^ debian_files())
    needs = run("rpm", "--query", "--requires", "--package", package)
    for need in ["libnftables.so.1()(64bit)", "libsystemd.so.0()(64bit)", "libc.so.6(GLIBC_2.34)(64bit)"]:
        assert need in needs, f"{need}: {needs}"
    run("rpm", "--checksig", "--nosignature", package)


@test
def package_in_rpm_can_be_unpacked_and_removed():
    root = OUT / "rpm-root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    rpm = ["rpm", f"--root={root}", "--nodeps", "--noscripts"]
    run(*rpm, "--install", only("scnpm-*.rpm"))
    assert (root / "usr/bin/scnpm").stat().st_mode & 0o777 == 0o755
    run(*rpm, "--erase", "scnpm")
    assert not (root / "usr/bin/scnpm").exists()
    shutil.rmtree(root)


@test
def makepkg_takes_the_pkgbuild():
    """With the program that is there in place of a build. namcap is not in Debian: that it has nothing to say was not tried."""
    work = OUT / "arch"
    shutil.rmtree(work, ignore_errors=True)
    source = work / "src/scnpm-0.1.0"
    source.mkdir(parents=True)
    for file in ["PKGBUILD", "scnpm.install"]:
        shutil.copy(f"packaging/arch/{file}", work)
    for part in ["packaging", "docs", "examples", "README.md", "CHANGELOG.md", "LICENSE"]:
        (shutil.copytree if pathlib.Path(part).is_dir() else shutil.copy)(part, source / part)
    (source / "target/release").mkdir(parents=True)
    shutil.copy(OUT / "program/scnpm", source / "target/release")
    run("tar", "-C", work / "src", "-czf", work / "scnpm-0.1.0.tar.gz", "scnpm-0.1.0/LICENSE")
    run("chown", "-R", "nobody:nogroup", work)
    # The tree's own makepkg.conf names a compression and the architecture.
    makepkg = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", f"HOME={work}", "PKGEXT=.pkg.tar", "makepkg"]
    info = run(*makepkg, "--printsrcinfo", cwd=work)
    version = re.search(r'^version = "(.*)"', (TOP / "Cargo.toml").read_text(), re.MULTILINE).group(1)
    assert f"pkgver = {version}" in info, info
    run(*makepkg, "--repackage", "--nodeps", "--noextract", "--nocheck", cwd=work)
    package = next(work.glob("*.pkg.tar*"))
    listed = [path for path in run("bsdtar", "-tf", package).splitlines() if not path.startswith(".")]
    assert files(listed) == debian_files(), sorted(files(listed) ^ debian_files())


@test
def nix_evaluates_package_and_module():
    """With a stand-in for nixpkgs, which cannot be had here: that the package builds there was not tried."""
    said = subprocess.run(
        ["nix-instantiate", "--eval", "--strict", "--json", "tests/packages/evaluate.nix"], text=True, capture_output=True
    )
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["off"] == {}, found["off"]
    on = found["on"]
    assert on["environment"]["etc"]["nftables.conf"]["source"] == on["networking"]["nftables"]["rulesetFile"], on
    assert on["systemd"]["services"]["scnpm"]["wantedBy"] == ["sysinit.target"], on
    assert on["users"]["users"]["scnpm"]["extraGroups"] == ["systemd-journal"], on
    # Which programs the units name besides scnpm; the package puts Nix's in their places.
    units = [path for path in TOP.glob("packaging/**/*") if path.suffix in (".service", ".socket") or path.name == "restart"]
    named = {word for unit in units for word in re.findall(r"(?<![\w%}])/(?:usr/)?(?:bin|lib)/[\w/-]+", unit.read_text())}
    for program in named - {"/usr/lib/scnpm"}:
        assert f"|{program}|" in found["package"]["installPhase"] or program + r"\b" in found["package"]["installPhase"], program


@test
def apparmor_parses_the_profiles():
    for profile in ["scnpm", "scnpm-commands"]:
        run("apparmor_parser", "--skip-kernel-load", "--skip-cache", "--skip-read-cache", f"packaging/apparmor/{profile}")


def main():
    os.environ["LC_ALL"] = "C.UTF-8"
    failed = 0
    for each in [each for each in TESTS if not sys.argv[2:] or any(word in each.__name__ for word in sys.argv[2:])]:
        try:
            each()
            print(f"ok {each.__name__}", flush=True)
        except Exception as error:  # whatever it is, the other tests still run
            failed += 1
            print(f"FAIL {each.__name__}: {type(error).__name__}: {error}", flush=True)
    return bool(failed)


sys.exit(main())
