//! Sessions of our speakers with BIRD, FRR, GoBGP and exabgp, in place of each other.

mod announcer;
mod clients;
pub(crate) mod network;
mod other_as;
mod policy;
mod routers;
mod sessions;
mod signed;
