//! How many attempts and messages a call takes where that depends on the time between two answers of the server. On a busy
//! machine there are more, so that few of these tests run at once (`tests/runner`).

mod contention;
mod requests;
