//! Elements to libnftables' JSON and back to nothing else.
