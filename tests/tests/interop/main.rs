//! Tests with other programs: `etcdctl`, the examples, and the READMEs of other clients.

mod interop;
mod layers;
mod quickstart;
mod seeds;
