//! Which of the known names somebody may have meant.

/// The known name that differs least from a written one, if that is little enough to be a slip.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(name.len()) <= 3)
        .map(|candidate| (distance(candidate, name), candidate))
        .filter(|&(distance, _)| distance < name.len() && distance <= 1.max(name.len() / 3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// The number of letters to change, add or remove (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_other_words_find_none() {
        let known = ["postfix", "dovecot", "sshd"];
        assert_eq!(nearest("posftix", known), Some("postfix"));
        assert_eq!(nearest("ssh", known), Some("sshd"));
        assert_eq!(nearest("nginx", known), None);
        assert_eq!(nearest("x", known), None);
    }
}
