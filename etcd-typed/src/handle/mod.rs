//! The typed surface.
