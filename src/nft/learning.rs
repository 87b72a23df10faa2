//! A table in which the kernel records for a while what units do.
//!
//! It belongs to the socket of our libnftables (nft(8), `flags owner`), so that the kernel removes it when this process ends, in
//! whatever way.

use std::io;

use super::{Kernel, Nftables, complaint, netlink::Netlink};
use crate::{
    dispatch::{Script, learning, recorder::Book},
    model::{Direction, Family, Recorded, TableRef},
};

/// Records until it is dropped.
#[derive(Debug)]
pub struct Learning<'a> {
    nftables: &'a mut Nftables,
    table: TableRef,
    netlink: Netlink,
}

impl<'a> Learning<'a> {
    /// Begins.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn begin(nftables: &'a mut Nftables, loopback: bool) -> Result<Self, String> {
        let netlink = Netlink::open().map_err(|error| error.to_string())?;
        let name = format!("scnpm.learn.{}", std::process::id());
        let table = TableRef { family: Family::Inet, name: name.into() };
        let script = learning::script(&table, loopback);
        nftables.run(&script, false).map_err(|complaints| complaint::words(&complaints))?;
        Ok(Self { nftables, table, netlink })
    }

    /// What has been recorded so far.
    ///
    /// # Errors
    /// The system's.
    pub fn recorded(&mut self) -> io::Result<Vec<(Direction, Recorded)>> {
        let mut all = Vec::new();
        for book in Book::ALL {
            let found = self.netlink.recorded(&learning::set(book, &self.table))?;
            all.extend(found.into_iter().map(|one| (book.direction, one)));
        }
        Ok(all)
    }
}

impl Drop for Learning<'_> {
    fn drop(&mut self) {
        let script = Script::of([&*format!("delete table {}", self.table)]);
        // If this fails, the kernel does it at the end of the process.
        let _ = self.nftables.run(&script, false);
    }
}
