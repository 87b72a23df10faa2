//! An nftables in memory, for tests of what is pure.
