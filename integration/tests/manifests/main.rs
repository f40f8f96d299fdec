//! Tests of `manifests/`.
//!
//! The tests compare the manifests with the flags of the programs, with a real API server, with the
//! documents, and with a list of allowed privileges.
#![cfg(test)]

mod api_server;
mod documents;
mod flags;
mod images;
mod network_policy;
mod pods;
mod rendered;
mod settings;
