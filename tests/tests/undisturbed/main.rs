//! Tests that count the attempts or messages of calls. These counts depend on the time between two
//! answers of the server. On a busy machine the counts are higher, so the runner runs few of these
//! tests at a time (`tests/runner`).

mod contention;
mod requests;
