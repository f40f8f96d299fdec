//! Tests of hostile input, and of queries with grpcurl.

mod attributes;
mod grpcurl;
mod half_sent;
mod hostile;
