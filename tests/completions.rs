//! Completions in the shells themselves.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const SHELLS: [(&str, &[&str], &str); 3] =
    [("bash", &["--norc"], "bash.sh"), ("fish", &["--no-config"], "fish.fish"), ("zsh", &["-f"], "zsh.zsh")];

/// A directory with the applications of somebody, as their home.
struct Home(PathBuf);

impl Home {
    fn with(name: &str, apps: &[&str]) -> Self {
        let home = env::temp_dir().join(format!("scnpm-completions-{name}-{}", std::process::id()));
        let applications = home.join(".local/share/applications");
        fs::create_dir_all(&applications).unwrap();
        apps.iter().for_each(|app| fs::write(applications.join(format!("{app}.desktop")), "").unwrap());
        Self(home)
    }

    /// What a shell makes of a line, as lines.
    fn complete(&self, (shell, options, script): (&str, &[&str], &str), line: &str) -> Vec<String> {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = Path::new(env!("CARGO_BIN_EXE_scnpm")).parent().unwrap();
        let path = format!("{}:{}", program.display(), env::var("PATH").unwrap());
        let word = line.rsplit(' ').next().unwrap();
        let done = Command::new("timeout")
            .args(["60", shell])
            .args(options)
            .arg(top.join("tests/completions").join(script))
            .args([line, word])
            .env("PATH", path)
            .env("HOME", &self.0)
            .env("PACKAGING", top.join("packaging"))
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(done.status.success(), "{shell}: {done:?} (is it installed?)");
        String::from_utf8(done.stdout).unwrap().lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn words_of_the_machine_are_completed() {
    let home = Home::with("words", &["scnpmtest.Plain", "scnpmescaped\\x2dapp", "scnpm'$(touch done)"]);
    for shell in SHELLS {
        for (line, expected) in [
            ("scnpm che", "check"),
            ("scnpm check --explain W02", "W020"),
            ("scnpm run --app scnpmtest", "scnpmtest.Plain"),
            ("scnpm run --app=scnpmtest", "scnpmtest.Plain"),
            ("scnpm run --app scnpme", "scnpmescaped\\x5cx2dapp"),
        ] {
            let found = home.complete(shell, line);
            let is_expected = |found: &String| found.trim_start_matches("--app=") == expected;
            // zsh writes what all have in common.
            let is_common = shell.0 == "zsh" && expected.starts_with(&found[0]) && expected == "W020";
            assert!(is_common || found.iter().any(is_expected), "{}: {line}: {found:?}", shell.0);
        }
    }
}

#[test]
fn nothing_that_is_typed_or_found_is_run() {
    let home = Home::with("hostile", &["scnpm'$(touch done)", "scnpm`touch done`", "scnpm\ntouch done"]);
    for shell in SHELLS {
        for line in
            ["scnpm run --app scnpm", "scnpm run --app $(touch${IFS}done)", "scnpm status `touch${IFS}done`"]
        {
            home.complete(shell, line);
            assert!(!home.0.join("done").exists(), "{}: {line}", shell.0);
        }
    }
}
