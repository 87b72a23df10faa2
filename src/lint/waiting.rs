//! W024: `# scnpm: wait` above what cannot be made to wait.

use crate::{
    policy::Policy,
    text::{Code, Diagnostic, diagnostic::quoted},
    units::{
        Selector, Units,
        selector::{Which, Whose},
        waiting::{self, CannotWait},
    },
};

/// Judges the units of each annotation that are to wait.
pub(super) fn lint(policy: &Policy, units: &Units) -> Vec<Diagnostic> {
    let waiting = policy.annotations.iter().filter(|annotation| annotation.is_waited_for);
    let selectors = waiting.flat_map(|annotation| annotation.selectors_with_spans());
    let judged = selectors.filter_map(|(selector, span)| {
        let why = judge(selector, units).err()?;
        let message = format!("{} cannot be made to wait: {why}", quoted(&selector.to_string()));
        Some(Diagnostic::new(Code::Directive, span, message).help(why.help()))
    });
    judged.collect()
}

fn judge(selector: &Selector, units: &Units) -> Result<(), CannotWait> {
    waiting::drop_in(&selector.which)?;
    let is_systems = matches!(selector.whose, Whose::Anybody | Whose::System);
    match &selector.which {
        Which::Unit(unit)
            if is_systems && units.files_of(unit).any(|file| file.is_early && !file.is_users) =>
        {
            Err(CannotWait::Early)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Facts,
            testing::{messages, units},
        },
        *,
    };
    use crate::units::UnitFile;

    fn found(unit: &str, directive: &str, units: &Units) -> Vec<String> {
        let text = format!("{directive}\n# {unit} :: add rule inet f c socket cgroupv2 unit accept\n");
        messages(Code::Directive, &text, Facts { units: Some(units), ..Facts::default() })
    }

    #[test]
    fn what_cannot_wait_is_told() {
        let early = UnitFile { is_early: true, ..UnitFile::default() };
        let units = units(&[("early.service", early), ("a.service", UnitFile::default())], &[]);
        for (selectors, expected) in [
            ("system:a.service", &[][..]),
            ("system:a-*.service,alice:b@*.service", &[]),
            ("user:early.service", &[]),
            ("system:early.service", &["`system:early.service` cannot be made to wait: it has"]),
            (
                "system:a.service, alice:app:firefox, alice:x.scope",
                &["`alice:app:firefox` cannot be", "`alice:x.scope` cannot be made to wait: only services"],
            ),
        ] {
            let found = |directive| found(selectors, directive, &units);
            let told = found("# scnpm: wait");
            assert_eq!(told.len(), expected.len(), "{selectors}: {told:?}");
            for (told, expected) in told.iter().zip(expected) {
                assert!(told.starts_with(expected), "{selectors}: {told}");
            }
            assert_eq!(found("# scnpm: count"), [""; 0], "{selectors}");
        }
    }
}
