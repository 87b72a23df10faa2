//! Files in packaging/ that are made from the command line's definition: man pages. `SCNPM_BLESS=1` makes them anew.

use std::{collections::BTreeSet, env, fs, path::Path};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use scnpm::cli::Cli;

/// What each page refers to besides scnpm(8), which refers to all of them.
const SEE_ALSO: &[(&str, &[&str])] = &[
    ("scnpm", &["nft(8)", "systemd.unit(5)", "cgroups(7)", "systemd.resource-control(5)"]),
    ("check", &["nft(8)"]),
    ("units", &["nft(8)", "systemd-cgls(1)"]),
    ("status", &["scnpm-explain(8)", "nft(8)"]),
    ("top", &["scnpm-status(8)", "scnpm-explain(8)", "top(1)"]),
    ("denied", &["scnpm-allow(8)", "scnpm-top(8)", "nft(8)"]),
    ("allow", &["scnpm-denied(8)", "nft(8)"]),
    ("explain", &["scnpm-status(8)", "nft(8)", "ss(8)"]),
    ("wait", &["scnpm-run(8)", "systemd.service(5)", "systemd.generator(7)"]),
    ("run", &["scnpm-wait(8)", "systemd-run(1)", "systemd.scope(5)"]),
    ("launchers", &["scnpm-run(8)", "systemctl(1)"]),
    ("reload", &["scnpm-check(8)", "systemctl(1)"]),
    ("learn", &["scnpm-run(8)", "scnpm-check(8)", "nft(8)"]),
    ("replay", &[]),
    ("notify", &["scnpm-denied(8)", "scnpm-allow(8)", "systemctl(1)"]),
];

/// What begins a section in the text below the options, and what the section is called. All else is a note.
const SECTIONS: &[(&str, &str)] = &[
    ("Exit status: ", "EXIT STATUS"),
    ("Signals: ", "SIGNALS"),
    ("For example, ", "EXAMPLES"),
    ("Examples:", "EXAMPLES"),
];

#[test]
fn man_pages_are_those_of_the_command_line() {
    let command = Cli::command().disable_help_subcommand(true);
    let pages: Vec<String> = subcommands(&command).map(|name| format!("scnpm-{name}(8)")).collect();
    let mut main = rendered(&command, "scnpm", &pages);
    let at = main.find(".SH \"SEE ALSO\"").unwrap();
    main.insert_str(at, ".SH FILES\n.TP\n/etc/nftables.conf\nThe rules and their annotations\n");
    same("scnpm.8", &main);

    let mut built = command.clone();
    built.build();
    for name in subcommands(&command) {
        // clap takes no name that is made at run time but for the one that is shown.
        let page = format!("scnpm-{name}");
        let subcommand = built.find_subcommand(name).unwrap().clone().display_name(page.clone());
        same(&format!("{page}.8"), &rendered(&subcommand, name, &["scnpm(8)".to_owned()]));
    }
}

#[test]
fn every_man_page_belongs_to_a_command() {
    let command = Cli::command();
    let named: BTreeSet<&str> = SEE_ALSO.iter().map(|(name, _)| *name).collect();
    let known: BTreeSet<&str> = subcommands(&command).chain(["scnpm"]).collect();
    assert_eq!(named, known);
    let files =
        fs::read_dir(packaging()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages: BTreeSet<String> = files.filter(|name| name.ends_with(".8")).collect();
    let page = |name: &&str| if *name == "scnpm" { "scnpm.8".to_owned() } else { format!("scnpm-{name}.8") };
    assert_eq!(pages, known.iter().map(page).collect());
}

fn subcommands(command: &Command) -> impl Iterator<Item = &str> {
    command.get_subcommands().filter(|one| !one.is_hide_set()).map(Command::get_name)
}

/// A page, with these ones before all others that it refers to.
fn rendered(command: &Command, name: &str, pages: &[String]) -> String {
    let page = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let man = Man::new(command.clone()).title(page).section("8").date("").source("scnpm").manual("scnpm");
    let mut text = Vec::new();
    man.render_title(&mut text).unwrap();
    man.render_name_section(&mut text).unwrap();
    man.render_synopsis_section(&mut text).unwrap();
    man.render_description_section(&mut text).unwrap();
    man.render_options_section(&mut text).unwrap();
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text).unwrap();
    }
    let mut text = String::from_utf8(text).unwrap();
    text += &sections(&command.get_after_help().map(ToString::to_string).unwrap_or_default());
    let (_, others) = SEE_ALSO.iter().find(|(of, _)| *of == name).expect(name);
    let all: Vec<&str> = pages.iter().map(String::as_str).chain(others.iter().copied()).collect();
    text += &format!(".SH \"SEE ALSO\"\n{}\n", roff(&all.join(", ")));
    in_bold(&text)
}

/// The text below the options as sections, and what is indented as it is.
fn sections(text: &str) -> String {
    let mut found: Vec<(&str, String)> = Vec::new();
    for line in text.lines() {
        let section =
            SECTIONS.iter().find_map(|(start, title)| Some((*title, line.strip_prefix(start)?, *start)));
        let is_indented = line.starts_with(' ');
        let line = match section {
            Some((title, rest, start)) => {
                found.push((title, String::new()));
                // What is a sentence stays one.
                if start.starts_with("For") { line } else { rest }
            }
            None if is_indented || line.is_empty() => line,
            None if matches!(found.last(), Some(("EXAMPLES", _))) => line,
            None => {
                found.push(("NOTES", String::new()));
                line
            }
        };
        let Some((_, body)) = found.last_mut() else { continue };
        match line {
            "" => {}
            _ if matches!(section, Some(("EXIT STATUS", ..))) => *body += &codes(line),
            _ if is_indented => *body += &format!(".nf\n{}\n.fi\n", roff(line)),
            _ => *body += &format!("{}\n", roff(line)),
        }
    }
    let titles: BTreeSet<&str> = found.iter().map(|(title, _)| *title).collect();
    let order = ["EXIT STATUS", "SIGNALS", "NOTES", "EXAMPLES"];
    let body = |title: &str| -> String {
        let bodies: Vec<&str> =
            found.iter().filter(|(of, _)| *of == title).map(|(_, body)| body.as_str()).collect();
        bodies.join(".PP\n")
    };
    let titles = order.into_iter().filter(|title| titles.contains(title));
    titles.map(|title| format!(".SH \"{title}\"\n{}", body(title))).collect()
}

/// `0 done, 1 failed. More.` with each code on a line of its own.
fn codes(text: &str) -> String {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return format!("{}\n", roff(text));
    }
    let (list, more) = text.split_once(". ").unwrap_or((text, ""));
    let mut items: Vec<(&str, String)> = Vec::new();
    for piece in list.split_inclusive([',', ';']) {
        let piece = piece.trim_start();
        match piece.split_once(' ').filter(|(code, _)| code.bytes().all(|byte| byte.is_ascii_digit())) {
            Some((code, rest)) => items.push((code, rest.to_owned())),
            None => items.last_mut().unwrap().1 += &format!(" {piece}"),
        }
    }
    let item = |(code, words): &(&str, String)| {
        format!(".TP\n\\fB{code}\\fR\n{}\n", roff(words.trim_end_matches([',', ';', '.'])))
    };
    let more = if more.is_empty() { String::new() } else { format!(".PP\n{}\n", roff(more)) };
    items.iter().map(item).collect::<String>() + &more
}

/// As roff(7) has it.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\*(Aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

/// What stands between backticks in bold.
fn in_bold(page: &str) -> String {
    let line = |line: &str| {
        let mut parts = line.split('`');
        let mut text = parts.next().unwrap_or_default().to_owned();
        while let Some(part) = parts.next() {
            match parts.next() {
                Some(after) => text += &format!("\\fB{part}\\fR{after}"),
                None => text += &format!("`{part}"),
            }
        }
        text + "\n"
    };
    page.lines().map(line).collect()
}

fn packaging() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging"))
}

fn same(file: &str, made: &str) {
    let path = packaging().join(file);
    if env::var_os("SCNPM_BLESS").is_some() {
        fs::write(&path, made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "{} is not up to date: SCNPM_BLESS=1 makes it anew", path.display());
}
