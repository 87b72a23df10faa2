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

/// The number of letters to change, add, remove or swap with the next one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let [a, b]: [Vec<char>; 2] = [a, b].map(|text| text.to_lowercase().chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let change = rows[i][j] + usize::from(a[i] != b[j]);
            let mut least = change.min(row[j] + 1).min(rows[i][j + 1] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
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
        assert_eq!(nearest("nginx", known), None);
        assert_eq!(nearest("x", known), None);
    }
}
