//! Output of the catalog.

use std::{net::IpAddr, sync::Arc};

use virtual_server::{DesiredChange, Protocol};

use super::super::{
    finding::Finding,
    left_out::LeftOutCounts,
    model::{ObjectKey, WrittenStatus},
};

/// The changes that follow from the inputs since the last output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogOutput {
    /// Removals come first. If the desired set is valid before the changes are applied, it is valid
    /// after all changes.
    pub changes: Vec<DesiredChange>,
    /// The Services whose view changed, with the new view. `None` means that the Service was
    /// deleted or that portlb no longer serves it.
    pub services: Vec<(ObjectKey, Option<ServiceView>)>,
    /// The findings about pods that are served without a Service. `None` if the view of these pods
    /// has not changed since the last output.
    pub pod_findings: Option<Vec<Finding>>,
}

/// The state of a Service for the writer of its status and Events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    pub uid: Arc<str>,
    /// The Service's `metadata.generation`, which portlb writes into the conditions of the status.
    pub generation: i64,
    /// True if the type of the Service is `LoadBalancer`. The API server accepts
    /// `.status.loadBalancer` only for this type.
    pub is_load_balancer: bool,
    /// The service addresses that the Service has.
    pub addresses: Vec<IpAddr>,
    /// True if the Service has been valid at least once. The status of a Service that was never
    /// valid must not be changed: load balancers that know an earlier, valid state can still serve
    /// this Service.
    pub is_understood: bool,
    /// The single ports of the Service. Ranges of ports are left out.
    pub ports: Vec<(Protocol, u16)>,
    /// The addresses that the condition `portlb.io/Address` must record. If the list is empty,
    /// portlb removes the condition.
    pub allocation: Vec<IpAddr>,
    /// The number of levels that the condition `portlb.io/WeightLevels` must record. If it is
    /// `None`, portlb removes the condition.
    pub weight_levels: Option<u16>,
    /// True if the addresses come from an address pool.
    pub is_of_pool: bool,
    /// All findings about the Service, sorted.
    pub findings: Vec<Finding>,
    /// The parts of the present status that portlb has written.
    pub written: WrittenStatus,
}

/// Numbers of objects in the catalog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CatalogCounts {
    /// Services that portlb serves.
    pub services: usize,
    /// Services with a finding that is an error.
    pub bad_services: usize,
    /// EndpointSlices with the name of a Service, even if portlb does not serve this Service.
    pub endpoint_slices: usize,
    /// Endpoints in these EndpointSlices.
    pub endpoints: usize,
    /// Stored pods: the pods with annotations and an address, or all pods if pods are served
    /// without a Service.
    pub pods: usize,
    /// Endpoints that are left out of the virtual servers, by reason.
    pub left_out: LeftOutCounts,
}

impl CatalogOutput {
    /// Reports whether the output contains no change of the desired set, of a view or of the
    /// findings about pods.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.services.is_empty() && self.pod_findings.is_none()
    }
}
