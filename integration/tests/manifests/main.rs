//! Keeps `manifests/` true: what they say is what the programs take, what a real API server
//! accepts, and no more privilege than is written down.
#![cfg(test)]

mod api_server;
mod documents;
mod flags;
mod images;
mod network_policy;
mod pods;
mod rendered;
mod settings;
