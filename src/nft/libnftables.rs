//! libnftables, opened at run time.
