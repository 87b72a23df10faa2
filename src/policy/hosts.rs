//! Host names in rules: found here, resolved elsewhere, put in place here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    annotation::{Annotation, Part, Policy},
    text::Span,
};

/// A host name and the family that its place asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName {
    /// The name as written.
    pub name: String,
    /// Whether IPv6 addresses are wanted, else IPv4.
    pub v6: bool,
}

/// What is known of host names; one that is absent is not resolved (yet).
pub type Hosts = BTreeMap<HostName, BTreeSet<IpAddr>>;

/// A host name without an address, and its place in the annotation (the variable's, if it is in one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// The name.
    pub host: HostName,
    /// Its place.
    pub span: Span,
}

/// The host names in an annotation, through variables too.
pub fn wanted(policy: &Policy, annotation: &Annotation) -> BTreeSet<HostName> {
    let _ = (policy, annotation);
    todo!()
}

/// A rule's body with addresses in the place of host names; what has none stays token for token.
///
/// # Errors
/// All names that have no address in `hosts`.
pub fn resolve(policy: &Policy, body: &[Part], hosts: &Hosts) -> Result<Vec<Part>, Vec<Unresolved>> {
    let _ = (policy, body, hosts);
    todo!()
}
