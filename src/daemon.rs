//! The only loop: event, engine, effect, event.
