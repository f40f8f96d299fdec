//! What a catalog puts out.

use std::{net::IpAddr, sync::Arc};

use virtual_server::{DesiredChange, Protocol};

use super::super::{
    finding::Finding,
    left_out::LeftOutCounts,
    model::{ObjectKey, WrittenStatus},
};

/// What follows from the inputs since the last time it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Removals first. Applied to the desired set they make a valid one of it.
    pub changes: Vec<DesiredChange>,
    /// The Services of ours whose view differs, by their key; `None`: gone, or ours no longer.
    pub services: Vec<(ObjectKey, Option<ServiceView>)>,
    /// What to know of the pods that are served without a Service, if it differs.
    pub pod_findings: Option<Vec<Finding>>,
}

/// What the writer of a Service's status and Events needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// The Service's uid.
    pub uid: Arc<str>,
    /// Its generation, for conditions.
    pub generation: i64,
    /// Its type is `LoadBalancer`; the API server takes `.status.loadBalancer` of no other type.
    pub is_load_balancer: bool,
    /// Service addresses that it is served at, in order.
    pub addresses: Vec<IpAddr>,
    /// It was understood once. Of one that never was, what stands in its status is not known to
    /// be wrong: others may serve it still.
    pub is_understood: bool,
    /// Its ports, but for ranges of ports.
    pub ports: Vec<(Protocol, u16)>,
    /// What the condition `portlb.io/Address` records; empty: there is none.
    pub allocation: Vec<IpAddr>,
    /// What the condition `portlb.io/WeightLevels` records; `None`: there is none.
    pub weight_levels: Option<u16>,
    /// Its addresses come from an address pool.
    pub is_of_pool: bool,
    /// All that is to be known of it, in order.
    pub findings: Vec<Finding>,
    /// What stands in its status.
    pub written: WrittenStatus,
}

/// How much there is of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services of ours.
    pub services: usize,
    /// Those of them with a finding that is an error.
    pub bad_services: usize,
    /// Slices, of other Services too.
    pub endpoint_slices: usize,
    /// Endpoints in them.
    pub endpoints: usize,
    /// Pods that matter: annotated, or served without a Service.
    pub pods: usize,
    /// Endpoints of Services of ours that are not served, by reason.
    pub left_out: LeftOutCounts,
}

impl Output {
    /// Nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.services.is_empty() && self.pod_findings.is_none()
    }
}
