//! Allocations and kept bytes, counted by an allocator of their own. The other tests have the system's allocator.

mod allocations;
mod kept_bytes;
