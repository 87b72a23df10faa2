//! Whatever bytes the files hold: no panic, and every place is a place in its file.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use scnpm::policy::parse;

#[path = "common/invariants.rs"]
mod invariants;

use invariants::{InMemory, check};

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
        check(&policy);
    }

    #[test]
    fn any_bytes_give_a_policy(one in proptest::collection::vec(any::<u8>(), 0..400)) {
        let files = InMemory([(PathBuf::from("/one"), one)].into());
        check(&parse::read(&files, &[Path::new("/one")]).unwrap());
    }
}
