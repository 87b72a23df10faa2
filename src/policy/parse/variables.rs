//! nft's variables: which define a `$NAME` means at its place.

use litemap::LiteMap;

use crate::{
    policy::{WRITE_A_DEFINE, annotation::Define},
    text::{
        Code, Span, Token, TokenKind,
        diagnostic::{Diagnostic, quoted},
        nearest::nearest,
    },
};

/// All variables so far, and those in force.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// From the outermost block to the innermost: the user's names and where in `defines` they are.
    scopes: Vec<LiteMap<String, usize>>,
    /// In the order in which nft reads them.
    pub(super) defines: Vec<Define>,
    /// The last number that made a name unique.
    numbers: LiteMap<String, usize>,
    /// Unique names, and where in `defines` they are.
    index: LiteMap<String, usize>,
}

impl Variables {
    pub(super) fn new() -> Self {
        Self { scopes: vec![LiteMap::new()], ..Self::default() }
    }

    /// A block with variables of its own opens.
    pub(super) fn open(&mut self) {
        self.scopes.push(LiteMap::new());
    }

    /// It closes.
    pub(super) fn close(&mut self) {
        self.scopes.truncate((self.scopes.len() - 1).max(1));
    }

    /// A file of the command line ends, and with it the blocks that it left open.
    pub(super) fn close_all(&mut self) {
        self.scopes.truncate(1);
    }

    /// Keeps a variable, and names what its value refers to uniquely.
    ///
    /// # Errors
    /// The variables of the value that are not defined. The new one is kept all the same.
    pub(super) fn define(
        &mut self,
        name: &str,
        mut value: Vec<Token>,
        span: Span,
    ) -> Result<(), Vec<Diagnostic>> {
        let result = self.rename(&mut value);
        let unique = self.unique(name);
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_owned(), self.defines.len());
        }
        self.defines.push(Define { name: unique, value, span });
        result
    }

    /// Forgets the innermost variable of a name.
    pub(super) fn undefine(&mut self, name: &str) {
        self.scopes.iter_mut().rev().find_map(|scope| scope.remove(name));
    }

    /// Gives references to variables the unique names of those in force.
    ///
    /// # Errors
    /// The variables that are not defined, one by one.
    pub(super) fn rename(&self, tokens: &mut [Token]) -> Result<(), Vec<Diagnostic>> {
        let mut diagnostics = Vec::new();
        let mut in_prefix = false;
        for token in tokens {
            match token.kind {
                TokenKind::Variable => match self.lookup(&token.text[1..]) {
                    Some(define) => token.text = format!("${}", define.name).into(),
                    None => diagnostics.push(self.unknown(token)),
                },
                TokenKind::Quoted if in_prefix => token.text = self.renamed_in_quotes(&token.text).into(),
                _ => {}
            }
            in_prefix = token.is("prefix");
        }
        if diagnostics.is_empty() { Ok(()) } else { Err(diagnostics) }
    }

    /// A variable by its unique name.
    pub(super) fn get(&self, unique: &str) -> Option<&Define> {
        self.index.get(unique).map(|&at| &self.defines[at])
    }

    fn lookup(&self, name: &str) -> Option<&Define> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name)).map(|&at| &self.defines[at])
    }

    fn unique(&mut self, name: &str) -> String {
        let mut unique = name.to_owned();
        let number = self.numbers.entry(name.to_owned()).or_insert(1);
        while self.index.contains_key(&unique) {
            *number += 1;
            unique = format!("{name}__{number}");
        }
        self.index.insert(unique.clone(), self.defines.len());
        unique
    }

    fn unknown(&self, token: &Token) -> Diagnostic {
        let message = format!("{} is not defined above", quoted(&token.text));
        let diagnostic = Diagnostic::new(Code::Variable, token.span, message);
        let known = self.scopes.iter().flat_map(LiteMap::keys).map(String::as_str);
        match nearest(&token.text[1..], known) {
            Some(name) => diagnostic.help(format!("did you mean {}?", quoted(&format!("${name}")))),
            None => diagnostic.help(format!("{WRITE_A_DEFINE} outside the comments, above this line")),
        }
    }

    /// nft expands variables in the quotes of `log prefix` too.
    fn renamed_in_quotes(&self, text: &str) -> String {
        let mut pieces = text.split('$');
        let mut renamed = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let end = piece.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(piece.len());
            let name = self.lookup(&piece[..end]).map_or(&piece[..end], |define| &define.name);
            renamed.push('$');
            renamed.push_str(name);
            renamed.push_str(&piece[end..]);
        }
        renamed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{
        FileId,
        token::{Joined, text_of, tokenize},
    };

    const NOWHERE: Span = Span { file: FileId(0), start: 0, end: 0 };

    fn tokens(text: &str) -> Vec<Token> {
        let mut joined = Joined::new(FileId(0));
        joined.push(text, 0);
        tokenize(&joined).tokens
    }

    fn renamed(variables: &Variables, text: &str) -> String {
        let mut tokens = tokens(text);
        variables.rename(&mut tokens).unwrap();
        text_of(&tokens)
    }

    #[test]
    fn reference_means_the_define_in_force() {
        let mut variables = Variables::new();
        variables.define("A", tokens("1"), NOWHERE).unwrap();
        assert_eq!(renamed(&variables, "x $A"), "x $A");
        variables.define("A", tokens("{ $A, 2 }"), NOWHERE).unwrap();
        assert_eq!(renamed(&variables, "x $A log prefix \"$A-$Ab\""), "x $A__2 log prefix \"$A__2-$Ab\"");
        assert_eq!(text_of(&variables.get("A__2").unwrap().value), "{ $A, 2 }");
        variables.define("A__2", tokens("3"), NOWHERE).unwrap();
        assert_eq!(renamed(&variables, "$A__2"), "$A__2__2");
    }

    #[test]
    fn variables_end_with_their_block() {
        let mut variables = Variables::new();
        variables.open();
        variables.define("A", tokens("1"), NOWHERE).unwrap();
        variables.rename(&mut tokens("$A")).unwrap();
        variables.close();
        assert!(variables.rename(&mut tokens("$A")).is_err());
        variables.close();
        variables.define("A", tokens("1"), NOWHERE).unwrap();
        variables.undefine("A");
        assert!(variables.rename(&mut tokens("$A")).is_err());
    }

    #[test]
    fn unknown_variable_gets_the_nearest_name() {
        let mut variables = Variables::new();
        variables.define("mail_hosts", tokens("1"), NOWHERE).unwrap();
        let diagnostics = variables.rename(&mut tokens("$mail_host $x")).unwrap_err();
        assert_eq!(diagnostics[0].message, "`$mail_host` is not defined above");
        assert_eq!(diagnostics[0].help.as_deref(), Some("did you mean `$mail_hosts`?"));
        assert!(diagnostics[1].help.as_deref().unwrap().starts_with("write"));
    }
}
