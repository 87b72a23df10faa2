//! Which of the known names somebody may have meant.

/// The known name that differs least from a written one, if that is little enough to be a slip; of several, one that
/// begins most like it.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(name.len()) <= 3)
        .map(|candidate| (distance(candidate, name), usize::MAX - in_common(candidate, name), candidate))
        .filter(|&(distance, ..)| distance < name.len() && distance <= 1.max(name.len() / 3))
        .min()
        .map(|(.., candidate)| candidate)
}

/// The number of letters with which both begin.
fn in_common(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count()
}

/// The number of letters to change, add or remove, or of neighbours to swap (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let [a, b]: [Vec<char>; 2] = [a, b].map(|text| text.to_lowercase().chars().collect());
    let (mut before, mut row): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    for i in 0..a.len() {
        let mut next = vec![i + 1];
        for j in 0..b.len() {
            let change = row[j] + usize::from(a[i] != b[j]);
            let is_swap = i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j];
            let swap = if is_swap { before[j - 1] + 1 } else { change };
            next.push(change.min(swap).min(next[j] + 1).min(row[j + 1] + 1));
        }
        before = std::mem::replace(&mut row, next);
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
        assert_eq!(nearest("shsd", known), Some("sshd"));
        assert_eq!(nearest("ssdh", ["sqdh", "ssxh"]), Some("ssxh"));
        assert_eq!(nearest("sshdx", known), Some("sshd"));
        assert_eq!(nearest("nginx", known), None);
        assert_eq!(nearest("x", known), None);
    }
}
