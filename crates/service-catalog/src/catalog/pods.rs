//! Pods that the catalog stores.
//!
//! The catalog stores pods with annotations and an address. If pods are served without a Service,
//! it stores all pods.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use super::{
    super::{
        annotations::{self, RealServerAnnotations},
        finding::Finding,
        model::{ObjectKey, Pod},
    },
    record::bad_annotations,
};

/// The pods that the catalog stores.
#[derive(Debug, Default)]
pub(super) struct Pods {
    by_key: BTreeMap<ObjectKey, PodRecord>,
    /// Pods with annotations that are in force, by address. Pods in the host network share the
    /// address of their node.
    annotated: HashMap<IpAddr, BTreeSet<ObjectKey>>,
    /// Pods with invalid annotations. Earlier valid annotations of these pods stay in force.
    invalid: BTreeSet<ObjectKey>,
}

#[derive(Debug, PartialEq, Eq)]
struct PodRecord {
    addresses: Box<[IpAddr]>,
    annotations: RealServerAnnotations,
    errors: Vec<Finding>,
}

/// The namespace and the addresses of a changed pod. Only endpoints at these addresses can be
/// affected.
#[derive(Debug)]
pub(super) struct AffectedPod {
    pub(super) namespace: Box<str>,
    /// The addresses of the pod before and after the change.
    pub(super) addresses: BTreeSet<IpAddr>,
}

impl Pods {
    /// Stores a pod, or removes it if the catalog does not need it. `are_served` is true if pods
    /// are served without a Service. Returns `None` if the stored pods have not changed.
    pub(super) fn put(&mut self, pod: Pod, are_served: bool) -> Option<AffectedPod> {
        let former = self.by_key.get(&pod.key);
        if !are_served && (pod.annotations.is_empty() || pod.addresses.is_empty()) {
            return self.forget(&pod.key);
        }
        let read = annotations::read(annotations::REAL_SERVER_ANNOTATIONS, &pod.annotations);
        let (annotations, errors) = match read {
            Ok(annotations) => (annotations, Vec::new()),
            Err(refusals) => {
                let annotations = former.map(|former| former.annotations).unwrap_or_default();
                (annotations, bad_annotations("Pod", &pod.key, refusals))
            }
        };
        let new = PodRecord {
            addresses: pod.addresses.into(),
            annotations,
            errors,
        };
        if former == Some(&new) {
            return None;
        }
        let mut affected = self.forget(&pod.key).unwrap_or_else(|| AffectedPod {
            namespace: pod.key.namespace().into(),
            addresses: BTreeSet::new(),
        });
        affected.addresses.extend(&new.addresses);
        if new.annotations != RealServerAnnotations::default() {
            for address in &new.addresses {
                self.annotated
                    .entry(*address)
                    .or_default()
                    .insert(pod.key.clone());
            }
        }
        if !new.errors.is_empty() {
            self.invalid.insert(pod.key.clone());
        }
        self.by_key.insert(pod.key, new);
        Some(affected)
    }

    /// Removes a pod. Returns `None` if the pod was not stored.
    pub(super) fn forget(&mut self, key: &ObjectKey) -> Option<AffectedPod> {
        let former = self.by_key.remove(key)?;
        self.invalid.remove(key);
        for address in &former.addresses {
            if let Some(keys) = self.annotated.get_mut(address) {
                keys.remove(key);
                if keys.is_empty() {
                    self.annotated.remove(address);
                }
            }
        }
        Some(AffectedPod {
            namespace: key.namespace().into(),
            addresses: former.addresses.iter().copied().collect(),
        })
    }

    /// Reports whether no pod has annotations that are in force.
    pub(super) fn none_is_annotated(&self) -> bool {
        self.annotated.is_empty()
    }

    /// Returns the annotations that are in force for a pod with this address in this namespace.
    pub(super) fn annotations(
        &self,
        address: IpAddr,
        namespace: &str,
    ) -> Option<RealServerAnnotations> {
        let keys = self.annotated.get(&address)?.iter();
        let mut keys = keys.filter(|key| namespace == key.namespace());
        Some(self.by_key.get(keys.next()?)?.annotations)
    }

    /// Returns the errors about annotations of those pods in this namespace for whose address
    /// `is_endpoint` is true.
    pub(super) fn errors(
        &self,
        namespace: &str,
        mut is_endpoint: impl FnMut(IpAddr) -> bool,
    ) -> Vec<Finding> {
        let invalid = self.invalid.iter();
        let invalid = invalid.filter(|key| namespace == key.namespace());
        let invalid = invalid.filter_map(|key| self.by_key.get(key));
        let invalid =
            invalid.filter(|pod| pod.addresses.iter().any(|address| is_endpoint(*address)));
        invalid.flat_map(|pod| pod.errors.iter().cloned()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.by_key.keys()
    }
}
