//! The text of a command line of bash's: into words, and words into it.

/// A command line up to the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Its words without quotes. The last one, which the cursor is at, may be empty.
    pub(super) words: Vec<String>,
    /// Where each begins, in characters.
    pub(super) starts: Vec<usize>,
    /// The last word as it is typed.
    raw: String,
    /// The quote that it is in.
    quote: Option<char>,
}

impl Line {
    /// Reads it as bash(1) does, "QUOTING". What bash would put in for `$` and backticks stays as it is.
    pub(super) fn read(text: &str) -> Self {
        let mut line = Self { words: vec![], starts: vec![], raw: String::new(), quote: None };
        let mut word = String::new();
        let mut is_open = false;
        let mut letters = text.chars().enumerate().peekable();
        while let Some((at, letter)) = letters.next() {
            if line.quote.is_none() && letter.is_ascii_whitespace() {
                if is_open {
                    line.words.push(std::mem::take(&mut word));
                    is_open = false;
                }
                continue;
            }
            if !is_open {
                is_open = true;
                line.starts.push(at);
                line.raw.clear();
            }
            line.raw.push(letter);
            match (line.quote, letter) {
                (Some(quote), _) if quote == letter => line.quote = None,
                (None, '\'' | '"') => line.quote = Some(letter),
                (None | Some('"'), '\\') => {
                    let next = letters.next_if(|(_, next)| line.quote.is_none() || "\"\\$`".contains(*next));
                    word.push(next.map_or('\\', |(_, next)| next));
                    line.raw.extend(next.map(|(_, next)| next));
                }
                _ => word.push(letter),
            }
        }
        if !is_open {
            line.starts.push(text.chars().count());
            line.raw.clear();
        }
        line.words.push(word);
        line
    }

    /// A word that begins like the last one as it is to be typed in place of `typed`, the end of what is typed of that; none
    /// if that cannot be done.
    pub(super) fn completed(&self, word: &str, typed: &str) -> Option<String> {
        let before = self.raw.strip_suffix(typed)?;
        let quote = self.raw.chars().next().filter(|first| Some(*first) == self.quote);
        let quoted = match quote {
            Some(quote) => {
                format!("{quote}{}", word.chars().map(|c| in_quotes(c, quote)).collect::<String>())
            }
            None => word.chars().map(unquoted).collect(),
        };
        quoted.strip_prefix(before).map(str::to_owned)
    }
}

fn in_quotes(letter: char, quote: char) -> String {
    match letter {
        '\'' if quote == '\'' => "'\\''".to_owned(),
        '"' | '\\' | '$' | '`' if quote == '"' => format!("\\{letter}"),
        _ => letter.to_string(),
    }
}

fn unquoted(letter: char) -> String {
    let is_plain = letter.is_alphanumeric() || "_-./:=@%+,".contains(letter);
    if is_plain { letter.to_string() } else { format!("\\{letter}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Line::read(text).words
    }

    #[test]
    fn words_are_those_of_bash() {
        assert_eq!(words("scnpm st"), ["scnpm", "st"]);
        assert_eq!(words(" scnpm \t status "), ["scnpm", "status", ""]);
        assert_eq!(words("scnpm status 'a b\\"), ["scnpm", "status", "a b\\"]);
        assert_eq!(words("s \"a\\\"\\$\\x\" b\\ c\\'"), ["s", "a\"$\\x", "b c'"]);
        assert_eq!(words("s a'b'\"c\"d ''"), ["s", "abcd", ""]);
        assert_eq!(words("s $(reboot) é\\"), ["s", "$(reboot)", "é\\"]);
        assert_eq!(words(""), [""]);
        assert_eq!(Line::read("s é 'x' -").starts, [0, 2, 4, 8]);
    }

    #[test]
    fn completion_replaces_what_bash_says() {
        let completed = |text: &str, word: &str, typed: &str| Line::read(text).completed(word, typed);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(completed("s po", "postfix.service", "po"), some("postfix.service"));
        assert_eq!(completed("s ", "postfix.service", ""), some("postfix.service"));
        assert_eq!(completed("s alice:app:f", "alice:app:firefox", "f"), some("firefox"));
        assert_eq!(completed("s --root=/et", "--root=/etc", "/et"), some("/etc"));
        assert_eq!(completed("s a", "app:$(x);'\"", "a"), some("app:\\$\\(x\\)\\;\\'\\\""));
        assert_eq!(completed("s 'a", "app:$(x)'\\", "a"), some("app:$(x)'\\''\\"));
        assert_eq!(completed("s \"a", "app:$(x)'\"\\", "a"), some("app:\\$(x)'\\\"\\\\"));
        assert_eq!(completed("s x\\\\x2", "x\\x2d", "x\\\\x2"), some("x\\\\x2d"));
        assert_eq!(completed("s al'ice:f", "alice:foo", "ice:f"), None);
        assert_eq!(completed("s a", "ab", "other"), None);
    }
}
