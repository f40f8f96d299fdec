//! Tests of BGP sessions between portlb and BIRD, FRR, GoBGP and exabgp.

mod announcer;
mod clients;
pub(crate) mod network;
mod other_as;
mod policy;
mod routers;
mod sessions;
mod signed;
