//! Finds what matters in nft's own statements of a file: `define`, `include`, and where blocks begin and end.

use super::Step;
use crate::{
    gather::sort_by_key,
    text::{FileId, Outline, Token, TokenKind, token::is_identifier},
};

/// The statements of a file, in order, each with the byte that it begins at.
pub(super) fn find(file: FileId, text: &str) -> Vec<(usize, Step)> {
    let outline = Outline::of(file, text);
    let scope = |&(at, opens): &(usize, bool)| (at, if opens { Step::Open } else { Step::Close });
    let statements = outline.items.iter().filter_map(|item| {
        let step = statement(outline.tokens_of(item))?;
        Some((item.span.start, step))
    });
    let mut steps: Vec<(usize, Step)> = statements.chain(outline.scopes.iter().map(scope)).collect();
    sort_by_key(&mut steps, |step| step.0);
    steps
}

fn statement(tokens: &[Token]) -> Option<Step> {
    let (keyword, rest) = tokens.split_first()?;
    match rest {
        [path, ..] if keyword.is("include") && path.kind == TokenKind::Quoted => {
            Some(Step::Include(path.unquoted().to_owned(), keyword.span.to(path.span)))
        }
        [name, ..] if keyword.is("undefine") && is_name(name) => Some(Step::Undefine(name.text.to_string())),
        [name, equals, value @ ..]
            if keyword.is_any(&["define", "redefine"]) && is_name(name) && equals.is("=") =>
        {
            let span = keyword.span.to(value.last()?.span);
            (!spoils(value)).then(|| Step::Define(name.text.to_string(), value.to_vec(), span))
        }
        _ => None,
    }
}

fn is_name(token: &Token) -> bool {
    token.kind == TokenKind::Word && is_identifier(&token.text)
}

/// Whether a value would change what follows it, with a brace or a quote that nothing closes or a `\` that may join the
/// next line: nft refuses such a file.
fn spoils(value: &[Token]) -> bool {
    let count = |brace: &str| value.iter().filter(|token| token.is(brace)).count();
    let is_open =
        |token: &Token| token.is("\"") || (token.kind != TokenKind::Quoted && token.text.ends_with('\\'));
    count("{") != count("}") || value.iter().any(is_open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::token::text_of;

    fn found(text: &str) -> Vec<String> {
        find(FileId(0), text)
            .into_iter()
            .map(|(_, step)| match step {
                Step::Open => "scope".to_owned(),
                Step::Close => "}".to_owned(),
                Step::Define(name, value, _) => format!("{name} = {}", text_of(&value)),
                Step::Undefine(name) => format!("-{name}"),
                Step::Include(path, _) => format!("<{path}>"),
                step => format!("{step:?}"),
            })
            .collect()
    }

    #[test]
    fn defines_and_includes_are_found_at_any_depth() {
        assert_eq!(
            found(
                "define a = 1; redefine a = \"x\" # b\ninclude \"one\"\ntable inet f {\n define b = { 1,\n 2 }\n\
                 chain c { include \"two\"; }\n}\nundefine a"
            ),
            ["a = 1", "a = \"x\"", "<one>", "scope", "b = { 1, 2 }", "scope", "<two>", "}", "}", "-a"]
        );
    }

    #[test]
    fn blocks_of_a_table_that_includes_the_file_have_variables_too() {
        assert_eq!(found("chain c { define a = 1; }\n}"), ["scope", "a = 1", "}", "}"]);
        assert_eq!(found("set s { define a = 1; }"), ["a = 1"]);
    }

    #[test]
    fn values_go_on_after_a_backslash() {
        assert_eq!(found("define a = 1 - \\\n2\ndefine b = \\\r\n 3\r\n"), ["a = 1 - 2", "b = 3"]);
    }

    #[test]
    fn comments_strings_and_other_places_are_passed_over() {
        assert_eq!(
            found("# include \"a\"\nadd rule f c comment \"\ndefine a = 1\n\"\nset define include \"b\"\n"),
            [""; 0]
        );
    }

    #[test]
    fn broken_text_does_not_stop_the_search() {
        assert_eq!(
            found(
                "define\ndefine a\ndefine a =\ndefine 1 = 2\ninclude a\n}\n\"\ndefine b = 1\ndefine f = \\ # x\ndefine c = { 1"
            ),
            ["}", "b = 1"]
        );
    }
}
