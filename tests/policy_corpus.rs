//! The fuzz target's corpus through its checks, as it is in the tree.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[path = "common/invariants.rs"]
mod invariants;

const CORPUS: &str = "tests/corpus/policy";

#[test]
fn every_input_gives_a_policy_with_places_inside_its_files() {
    for file in inputs() {
        println!("{}", file.display());
        invariants::check(&invariants::read(&fs::read(&file).unwrap()));
    }
}

#[test]
fn corpus_has_annotations_includes_and_diagnostics_and_stays_small() {
    let inputs: Vec<Vec<u8>> = inputs().iter().map(|file| fs::read(file).unwrap()).collect();
    assert!((20..=60).contains(&inputs.len()), "{} files", inputs.len());
    assert!(inputs.iter().map(Vec::len).sum::<usize>() < 100_000);
    let policies: Vec<_> = inputs.iter().map(|input| invariants::read(input)).collect();
    assert!(policies.iter().filter(|policy| !policy.annotations.is_empty()).count() >= 20);
    assert!(policies.iter().any(|policy| policy.sources.files.len() == invariants::FILES.len()));
    assert!(policies.iter().any(|policy| !policy.diagnostics.is_empty()));
}

fn inputs() -> Vec<PathBuf> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join(CORPUS);
    let mut inputs: Vec<PathBuf> = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    inputs
}
