//! `v1` Endpoints as slices, as the controller manager of a cluster mirrors them.
//!
//! Load balancers read slices alone. For a Service without selector the cluster keeps slices that
//! mirror the Endpoints of its name; other Endpoints are read by nothing.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1 as core;
use service_catalog::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, NotUsed, ObjectKey, Readiness,
};

use super::super::objects;

/// Label by which the owner of Endpoints asks for no mirror.
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";

/// Annotation of Endpoints that are a lock of the older kind of leader election.
const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

/// Most addresses of a subset that are mirrored, as by a controller manager with its defaults.
const MOST_MIRRORED: usize = 1_000;

/// Endpoints, as slices.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Namespace and name, which is that of the Service.
    pub key: ObjectKey,
    /// Why no cluster mirrors them, as far as they say it themselves.
    pub(crate) refused: Option<String>,
    slices: Vec<EndpointSlice>,
    /// Addresses beyond those that are mirrored.
    beyond: usize,
}

impl Endpoints {
    /// The slices that a cluster makes of them, whose Service has or has not a selector; `None`:
    /// there is no such Service.
    ///
    /// # Errors
    /// Why there are none.
    pub fn mirrored(self, has_selector: Option<bool>) -> Result<Vec<EndpointSlice>, String> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        match has_selector {
            Some(true) => Err(
                "are not read, since the Service has a selector: the cluster makes its slices of \
                 the pods; remove spec.selector of the Service, or the Endpoints"
                    .to_owned(),
            ),
            None => Err(
                "are not read, since there is no Service of this name here; give both".to_owned(),
            ),
            Some(false) if self.beyond > 0 => Err(format!(
                "have {} addresses more than the {MOST_MIRRORED} of a subset that a cluster \
                 mirrors; write EndpointSlices instead",
                self.beyond
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
                "are not read: by their label {SKIP_LABEL} no slices are made of them; remove the \
                 label, or write EndpointSlices"
            ))
        } else {
            is_lock.then(|| {
                "are not read: they are a lock, by their annotation \
                 control-plane.alpha.kubernetes.io/leader"
                    .to_owned()
            })
        };
        let mut slices = Vec::new();
        let mut beyond = 0;
        for (index, subset) in endpoints
            .subsets
            .unwrap_or_default()
            .into_iter()
            .enumerate()
        {
            beyond += of_subset(&key, index, subset, &mut slices);
        }
        Self {
            key,
            refused,
            slices,
            beyond,
        }
    }
}

/// A slice for each family; returns how many addresses are too many.
fn of_subset(
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
    let beyond = (ready.len() + not_ready.len()).saturating_sub(MOST_MIRRORED);
    let all = ready
        .into_iter()
        .map(|address| (address.ip, Readiness::Ready));
    let all = all.chain(
        not_ready
            .into_iter()
            .map(|address| (address.ip, Readiness::NotReady)),
    );
    let mut by_family: BTreeMap<Family, BTreeMap<IpAddr, Readiness>> = BTreeMap::new();
    let mut not_used = NotUsed::default();
    for (text, readiness) in all {
        match text.parse::<IpAddr>() {
            Ok(address) => {
                let family = by_family.entry(Family::of(address)).or_default();
                let known = family.entry(address).or_insert(readiness);
                *known = readiness.max(*known);
            }
            Err(_) => not_used.names.add(&text),
        }
    }
    if by_family.is_empty() {
        by_family.insert(Family::V4, BTreeMap::new());
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
    beyond
}
