//! The pods that matter: those that say something of themselves, or all where pods are served
//! without a Service.

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

/// The pods that matter.
#[derive(Debug, Default)]
pub(super) struct Pods {
    by_key: BTreeMap<ObjectKey, PodRecord>,
    /// Those that say something of themselves; several where they share their node's address.
    speaking: HashMap<IpAddr, BTreeSet<ObjectKey>>,
    /// Those whose annotations cannot be used.
    bad: BTreeSet<ObjectKey>,
}

#[derive(Debug, PartialEq, Eq)]
struct PodRecord {
    addresses: Box<[IpAddr]>,
    annotations: RealServerAnnotations,
    errors: Vec<Finding>,
}

/// Where a pod that differs is to be looked for.
#[derive(Debug)]
pub(super) struct TouchedPod {
    /// Its namespace.
    pub(super) namespace: Box<str>,
    /// The addresses that it has or had.
    pub(super) addresses: BTreeSet<IpAddr>,
}

impl Pods {
    /// Takes a pod over; `None`: nothing differs.
    pub(super) fn put(&mut self, pod: Pod, are_served: bool) -> Option<TouchedPod> {
        let former = self.by_key.get(&pod.key);
        if !are_served && (pod.annotations.is_empty() || pod.addresses.is_empty()) {
            return self.forget(&pod.key);
        }
        let read = annotations::read(annotations::OF_REAL_SERVERS, &pod.annotations);
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
        let mut touched = self.forget(&pod.key).unwrap_or_else(|| TouchedPod {
            namespace: pod.key.namespace().into(),
            addresses: BTreeSet::new(),
        });
        touched.addresses.extend(&new.addresses);
        if new.annotations != RealServerAnnotations::default() {
            for address in &new.addresses {
                self.speaking
                    .entry(*address)
                    .or_default()
                    .insert(pod.key.clone());
            }
        }
        if !new.errors.is_empty() {
            self.bad.insert(pod.key.clone());
        }
        self.by_key.insert(pod.key, new);
        Some(touched)
    }

    /// Forgets a pod; `None`: it did not matter.
    pub(super) fn forget(&mut self, key: &ObjectKey) -> Option<TouchedPod> {
        let former = self.by_key.remove(key)?;
        self.bad.remove(key);
        for address in &former.addresses {
            if let Some(keys) = self.speaking.get_mut(address) {
                keys.remove(key);
                if keys.is_empty() {
                    self.speaking.remove(address);
                }
            }
        }
        Some(TouchedPod {
            namespace: key.namespace().into(),
            addresses: former.addresses.iter().copied().collect(),
        })
    }

    /// Whether no pod says anything of itself.
    pub(super) fn are_silent(&self) -> bool {
        self.speaking.is_empty()
    }

    /// What the pod of the namespace with the address says of itself.
    pub(super) fn annotations(
        &self,
        address: IpAddr,
        namespace: &str,
    ) -> Option<RealServerAnnotations> {
        let keys = self.speaking.get(&address)?.iter();
        let mut keys = keys.filter(|key| namespace == key.namespace());
        Some(self.by_key.get(keys.next()?)?.annotations)
    }

    /// What is wrong with the pods of the namespace at the addresses.
    pub(super) fn errors(
        &self,
        namespace: &str,
        mut is_endpoint: impl FnMut(IpAddr) -> bool,
    ) -> Vec<Finding> {
        let bad = self.bad.iter();
        let bad = bad.filter(|key| namespace == key.namespace());
        let bad = bad.filter_map(|key| self.by_key.get(key));
        let bad = bad.filter(|pod| pod.addresses.iter().any(|address| is_endpoint(*address)));
        bad.flat_map(|pod| pod.errors.iter().cloned()).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Their names.
    pub(super) fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.by_key.keys()
    }
}
