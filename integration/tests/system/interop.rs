//! Sessions with BIRD, FRR, GoBGP and exabgp.
