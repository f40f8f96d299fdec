//! Findings about fields without the effect that users expect.
//!
//! These findings do not make a Service invalid.

use crate::{
    finding::{Finding, Reason, Subject},
    model::Service,
};

/// Returns the findings about fields of the Service that have no effect, or another effect than
/// users expect. `keeps_client_address` is true if the pods see the addresses of clients.
pub(super) fn remarks(service: &Service, keeps_client_address: bool) -> Vec<Finding> {
    let mut remarks = Vec::new();
    if let Some(distribution) = &service.traffic_distribution {
        remarks.push(Finding::about(
            Reason::TrafficDistributionIgnored,
            Subject::field("spec.trafficDistribution"),
            format!(
                "{distribution} has no effect: every load \
                 balancer reaches the pods of all zones and nodes"
            ),
        ));
    }
    let mut remark = |applies: bool, reason: Reason, path: &str, text: &str| {
        if applies {
            remarks.push(Finding::about(reason, Subject::field(path), text));
        }
    };
    remark(
        !service.external_ips.is_empty() && !service.has_other_proxy,
        Reason::ExternalIpsIntercepted,
        "spec.externalIPs",
        "kube-proxy takes the traffic of these addresses for itself on every \
         node, so the traffic bypasses the load balancer; use the annotation portlb.io/address \
         instead, or give the Service the label service.kubernetes.io/service-proxy-name",
    );
    let is_local = service.is_traffic_policy_local;
    remark(
        is_local && keeps_client_address,
        Reason::TrafficPolicyIgnored,
        "spec.externalTrafficPolicy",
        "Local has no effect: pods see the client's address \
         anyway, and every load balancer reaches the pods of all nodes",
    );
    remark(
        is_local && !keeps_client_address,
        Reason::ClientAddressHidden,
        "spec.externalTrafficPolicy",
        "Local does not preserve the client's address here: with \
         Masquerade pods see the load balancer's address, so that a filter in the pods by client \
         address admits every client; use the annotation portlb.io/forwarding-method: Tunnel",
    );
    remarks
}
