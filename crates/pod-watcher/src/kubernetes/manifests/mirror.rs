//! Conversion of objects of kind Endpoints (`v1`) to EndpointSlices.
//!
//! pod-watcher reads only EndpointSlices. For a Service without selector, the controller manager of
//! a cluster mirrors the object of kind Endpoints that has the name of the Service to
//! EndpointSlices. An object of kind Endpoints that is not mirrored has no effect.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1 as core;
use service_catalog::model::{
    Endpoint, EndpointPort, EndpointReadiness, EndpointSlice, NotUsed, ObjectKey,
};
use virtual_server::AddressFamily;

use super::super::objects;

/// Label of an object of kind Endpoints that the controller manager must not mirror.
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";

/// Annotation of an object of kind Endpoints that older programs use as the lock of a leader
/// election.
const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

/// Largest number of addresses of a subset that a controller manager with default flags mirrors.
const MOST_MIRRORED: usize = 1_000;

/// An object of kind Endpoints (`v1`), converted to EndpointSlices.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Namespace and name of the object, and of its Service.
    pub key: ObjectKey,
    /// Error that names the label or the annotation because of which a cluster does not mirror the
    /// object. `None`: no label and no annotation forbids to mirror the object.
    pub(crate) refused: Option<String>,
    slices: Vec<EndpointSlice>,
    /// Number of addresses above [`MOST_MIRRORED`] in each subset, summed over all subsets.
    excess: usize,
}

impl Endpoints {
    /// Returns the EndpointSlices to which a cluster mirrors the object. `has_selector`: whether
    /// the Service has a selector; `None` if the Service does not exist.
    ///
    /// # Errors
    /// A cluster does not mirror the object, or mirrors only some of its addresses. The error is
    /// the reason with a suggestion.
    pub fn mirrored(self, has_selector: Option<bool>) -> Result<Vec<EndpointSlice>, String> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        match has_selector {
            Some(true) => Err(
                "are not used, because the Service has a selector: the cluster creates the \
                 EndpointSlices from the pods; remove spec.selector of the Service, or the Endpoints"
                    .to_owned(),
            ),
            None => Err(
                "are not used, because the files have no Service with this name; check the Service \
                 together with its Endpoints"
                    .to_owned(),
            ),
            Some(false) if self.excess > 0 => Err(format!(
                "have {} addresses above {MOST_MIRRORED} in a subset, which a cluster does not \
                 mirror; write EndpointSlices instead",
                self.excess
            )),
            Some(false) => Ok(self.slices),
        }
    }
}

impl From<core::Endpoints> for Endpoints {
    fn from(endpoints: core::Endpoints) -> Self {
        let meta = endpoints.metadata;
        let namespace = meta.namespace.unwrap_or_default();
        let name = meta.name.unwrap_or_default();
        let key = ObjectKey::new(&namespace, &name);
        let label = meta.labels.as_ref().and_then(|all| all.get(SKIP_LABEL));
        let is_lock = meta
            .annotations
            .is_some_and(|all| all.contains_key(LEADER_ANNOTATION));
        let refused = if label.is_some_and(|label| label == "true") {
            Some(format!(
                "are not used, because of their label {SKIP_LABEL}; remove the label, or write \
                 EndpointSlices"
            ))
        } else {
            is_lock.then(|| {
                "are not used, because the annotation control-plane.alpha.kubernetes.io/leader \
                 marks them as a lock"
                    .to_owned()
            })
        };
        let mut slices = Vec::new();
        let mut excess = 0;
        for (index, subset) in endpoints
            .subsets
            .unwrap_or_default()
            .into_iter()
            .enumerate()
        {
            excess += convert_subset(&key, index, subset, &mut slices);
        }
        Self {
            key,
            refused,
            slices,
            excess,
        }
    }
}

/// Adds an EndpointSlice for each family of the subset. Returns the number of addresses of the
/// subset above [`MOST_MIRRORED`].
fn convert_subset(
    key: &ObjectKey,
    index: usize,
    subset: core::EndpointSubset,
    slices: &mut Vec<EndpointSlice>,
) -> usize {
    let ports: Box<[EndpointPort]> = subset
        .ports
        .unwrap_or_default()
        .into_iter()
        .map(objects::endpoints_port)
        .collect();
    let ready = subset.addresses.unwrap_or_default();
    let not_ready = subset.not_ready_addresses.unwrap_or_default();
    let excess = (ready.len() + not_ready.len()).saturating_sub(MOST_MIRRORED);
    let all = ready
        .into_iter()
        .map(|address| (address.ip, EndpointReadiness::Ready));
    let all = all.chain(
        not_ready
            .into_iter()
            .map(|address| (address.ip, EndpointReadiness::NotReady)),
    );
    let mut by_family: BTreeMap<AddressFamily, BTreeMap<IpAddr, EndpointReadiness>> =
        BTreeMap::new();
    let mut not_used = NotUsed::default();
    for (text, readiness) in all {
        match text.parse::<IpAddr>() {
            Ok(address) => {
                let family = by_family.entry(AddressFamily::of(address)).or_default();
                let known = family.entry(address).or_insert(readiness);
                *known = readiness.max(*known);
            }
            Err(_) => not_used.names.add(&text),
        }
    }
    if by_family.is_empty() {
        by_family.insert(AddressFamily::V4, BTreeMap::new());
    }
    for (family, addresses) in by_family {
        let endpoints = addresses.into_iter();
        let endpoints = endpoints.map(|(address, readiness)| Endpoint { address, readiness });
        slices.push(EndpointSlice {
            key: ObjectKey::new(
                key.namespace(),
                &format!("{} (Endpoints, subset {index}, {family})", key.name()),
            ),
            service: Some(key.clone()),
            annotations: Box::default(),
            ports: ports.clone(),
            endpoints: endpoints.collect(),
            not_used: std::mem::take(&mut not_used),
        });
    }
    excess
}
