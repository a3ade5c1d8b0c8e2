//! Allocations and kept bytes, counted by an allocator of this program. The other test programs use
//! the system's allocator.

mod allocations;
mod kept_bytes;
