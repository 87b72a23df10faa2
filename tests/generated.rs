//! Files in packaging/ that are made from the command line's definition: man page and completions. `SCNPM_BLESS=1` makes
//! them anew.

use std::{env, fs, path::Path};

use clap::CommandFactory;
use clap_complete::Shell;
use scnpm::cli::Cli;

#[test]
fn man_page_is_that_of_the_command_line() {
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(Cli::command()).section("8").date("").source("scnpm").manual("scnpm");
    man.render(&mut page).unwrap();
    page.extend_from_slice(
        b".SH FILES\n/etc/nftables.conf\n.SH \"SEE ALSO\"\nnft(8), systemd.unit(5), cgroups(7), systemd.resource\\-control(5)\n",
    );
    same("scnpm.8", &page);
}

#[test]
fn subcommands_have_man_pages_of_their_own() {
    let mut command = Cli::command();
    command.build();
    for (name, page_name, see_also) in [
        ("check", "scnpm-check", "scnpm(8), nft(8)"),
        ("replay", "scnpm-replay", "scnpm(8)"),
        ("units", "scnpm-units", "scnpm(8), nft(8), systemd\\-cgls(1)"),
    ] {
        let subcommand = command.find_subcommand(name).unwrap().clone();
        let subcommand = subcommand.name(page_name).display_name(format!("scnpm {name}"));
        let mut page = Vec::new();
        clap_mangen::Man::new(subcommand)
            .title(page_name)
            .section("8")
            .date("")
            .source("scnpm")
            .manual("scnpm")
            .render(&mut page)
            .unwrap();
        page.extend_from_slice(format!(".SH \"SEE ALSO\"\n{see_also}\n").as_bytes());
        same(&format!("{page_name}.8"), &page);
    }
}

#[test]
fn completions_are_those_of_the_command_line() {
    for (shell, file) in [(Shell::Bash, "scnpm.bash"), (Shell::Zsh, "_scnpm"), (Shell::Fish, "scnpm.fish")] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "scnpm", &mut script);
        same(file, &script);
    }
}

fn same(file: &str, made: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(file);
    if env::var_os("SCNPM_BLESS").is_some() {
        fs::write(&path, made).unwrap();
    }
    let kept = fs::read(&path).unwrap_or_default();
    assert!(kept == made, "{} is not up to date: SCNPM_BLESS=1 makes it anew", path.display());
}
