//! systemd's signals on the system bus.
