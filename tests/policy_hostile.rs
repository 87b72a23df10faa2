//! Whatever bytes the files hold: no panic, and every place is a place in its file.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use scnpm::policy::{
    Part, Policy, Span, Statement,
    files::Files,
    hosts::{self, Hosts},
    parse,
};

struct InMemory(BTreeMap<PathBuf, Vec<u8>>);

impl Files for InMemory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn glob(&self, _: &str) -> Vec<PathBuf> {
        self.0.keys().cloned().collect()
    }
}

/// Pieces of what the parser looks for, so that random text gets past its first checks.
const PIECES: &[&str] = &[
    "# a.service :: ",
    "## b@x\\x2d.scope :: ",
    "\n",
    "\r\n",
    "\\",
    "\\\n",
    "\\ \n# ",
    " ",
    "\t",
    "\"",
    "#",
    "::",
    "add rule ",
    "insert rule ",
    "add element ",
    "delete rule ",
    "inet ",
    "ip6 ",
    "t ",
    "c ",
    "index 1 ",
    "socket cgroupv2 level 2 ",
    "socket cgroupv2 level ",
    "\"system.slice/a.service\" ",
    "\"\" ",
    "\"..\" ",
    "{ ",
    "} ",
    ", ",
    ". ",
    ": ",
    "; ",
    "!= ",
    "== ",
    "$A ",
    "$B ",
    "$",
    "@s ",
    "accept ",
    "jump x ",
    "define A = ",
    "define B = { $A, $A }\n",
    "redefine A = ",
    "undefine A\n",
    "include \"/one\"\n",
    "include \"./two\"\n",
    "include \"*\"\n",
    "table inet t {\n",
    "}\n",
    "ip daddr ",
    "ip6 saddr ",
    "mail.local ",
    "dnat ip to ",
    "map ",
    "tcp dport 25 ",
    "fe80::1",
    "ä",
    "\u{feff}",
    "\u{2028}",
    "\0",
];

fn file() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        9 => proptest::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_files_give_a_policy_with_places_inside_them(one in file(), two in file()) {
        let files = InMemory([(PathBuf::from("/one"), one), (PathBuf::from("./two"), two)].into());
        let policy = parse::read(&files, &[Path::new("/one"), Path::new("./two")]).unwrap();
        check(&policy)?;
    }

    #[test]
    fn any_bytes_give_a_policy(one in proptest::collection::vec(any::<u8>(), 0..400)) {
        let files = InMemory([(PathBuf::from("/one"), one)].into());
        check(&parse::read(&files, &[Path::new("/one")]).unwrap())?;
    }
}

fn check(policy: &Policy) -> Result<(), TestCaseError> {
    for mistake in &policy.mistakes {
        inside(policy, mistake.span)?;
        prop_assert!(!mistake.message.contains('\n'));
        prop_assert!(mistake.render(&policy.sources, false).contains(&mistake.message));
        mistake.render(&policy.sources, true);
        mistake.short(&policy.sources);
    }
    prop_assert!(policy.mistakes.is_sorted_by_key(|mistake| mistake.span));
    for define in &policy.defines {
        inside(policy, define.span)?;
    }
    for annotation in &policy.annotations {
        inside(policy, annotation.span)?;
        inside(policy, annotation.unit_span)?;
        let wanted = hosts::wanted(policy, annotation);
        match &annotation.statement {
            Statement::Rule(rule) => {
                inside(policy, rule.chain_span)?;
                for part in &rule.body {
                    match part {
                        Part::Verbatim(token) => inside(policy, token.span)?,
                        Part::Cgroup(cgroup) => {
                            inside(policy, cgroup.span)?;
                            prop_assert!(!cgroup.paths.is_empty());
                            cgroup.paths.iter().try_for_each(|(_, span)| inside(policy, *span))?;
                        }
                    }
                }
                let address = |v6| if v6 { "::1" } else { "127.0.0.1" };
                let hosts: Hosts = wanted
                    .iter()
                    .map(|host| (host.clone(), [address(host.v6).parse().unwrap()].into()))
                    .collect();
                let resolved = hosts::resolve(policy, &rule.body, &hosts);
                prop_assert!(resolved.is_ok());
                let unresolved = hosts::resolve(policy, &rule.body, &Hosts::new());
                prop_assert_eq!(unresolved.is_err(), !wanted.is_empty());
            }
            Statement::Element(element) => {
                inside(policy, element.set_span)?;
                prop_assert!(!element.elements.is_empty());
                element.elements.iter().try_for_each(|(_, span, _)| inside(policy, *span))?;
            }
        }
    }
    Ok(())
}

fn inside(policy: &Policy, span: Span) -> Result<(), TestCaseError> {
    let text = &policy.sources.file(span.file).text;
    prop_assert!(text.get(span.start..span.end).is_some(), "{} to {} of {:?}", span.start, span.end, text);
    Ok(())
}
