//! Golden cases of the dispatch: `tests/dispatch/NN-topic/in.conf` compiles to `plan.nft`, followed by the elements and
//! when each is due. `SCNPM_BLESS=1` writes what is missing or different; a person reviews it as nft text.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, io,
    path::{Path, PathBuf},
};

use scnpm::{
    dispatch::{self, Dispatch},
    policy::{
        files::{Disk, Files},
        hosts::{HostName, Hosts},
        parse,
    },
};

#[test]
fn policies_compile_as_reviewed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dispatch");
    let mut cases: Vec<PathBuf> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 10, "only {} cases in {}", cases.len(), root.display());
    let different: Vec<String> = cases.iter().filter_map(|case| difference(case)).collect();
    assert!(different.is_empty(), "{}\nSCNPM_BLESS=1 takes them over", different.join("\n"));
}

/// The kernel goes through all sets of a table for each that is made or used.
#[test]
fn any_number_of_annotations_of_one_form_has_as_few_maps_as_one() {
    for form in [
        "system:a%.service",
        "user:a%.service",
        "user:app:a%",
        "alice:app:org.example.a%",
        "user:app-a%-*.scope",
    ] {
        let text = |number: usize| {
            let line = |n: usize| {
                let selector = form.replace('%', &n.to_string());
                format!("# {selector} :: add rule inet f c socket cgroupv2 unit tcp dport {} accept\n", n + 1)
            };
            (0..number).map(line).collect::<String>()
        };
        let maps = |number: usize| {
            let policy = parse::read(&Text(text(number)), &["f"]).unwrap();
            assert_eq!(policy.annotations.len(), number, "{form}");
            let dispatch = dispatch::compile(&policy, &BTreeSet::new(), &Hosts::new(), &BTreeMap::new());
            dispatch.objects.iter().filter(|object| object.starts_with("map ")).count()
        };
        assert_eq!(maps(1_000), maps(1), "{form}");
    }
}

struct Text(String);

impl Files for Text {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.clone().into_bytes())
    }

    fn glob(&self, _: &str) -> Vec<PathBuf> {
        vec![]
    }
}

fn difference(case: &Path) -> Option<String> {
    let input = case.join("in.conf");
    let policy = parse::read(&Disk, &[input.as_path()]).unwrap();
    assert!(policy.diagnostics.is_empty(), "{}", policy.diagnostics[0].render(&policy.sources, false));
    let dispatch = dispatch::compile(&policy, &BTreeSet::new(), &hosts(), &BTreeMap::new());
    let plan = plan(&dispatch);
    let golden = case.join("plan.nft");
    let old = fs::read_to_string(&golden).unwrap_or_default();
    if old == plan {
        return None;
    }
    if env::var_os("SCNPM_BLESS").is_some() {
        fs::write(&golden, &plan).unwrap();
        return None;
    }
    Some(format!("--- {}\n{old}--- now\n{plan}", golden.display()))
}

/// The addresses that tests know.
fn hosts() -> Hosts {
    let host = |name: &str, v6| HostName { name: name.into(), v6 };
    BTreeMap::from([
        (host("mail.intranet.local", false), vec!["192.0.2.25".parse().unwrap()]),
        (
            host("web.intranet.local", false),
            vec!["192.0.2.80".parse().unwrap(), "192.0.2.81".parse().unwrap()],
        ),
    ])
}

fn plan(dispatch: &Dispatch) -> String {
    let unresolved = dispatch.unresolved.iter();
    let without: String = unresolved.map(|id| format!("# left out: annotation {}\n", id.0 + 1)).collect();
    format!("{dispatch}{without}")
}
