//! What systemd and user managers write to the journal about units.
