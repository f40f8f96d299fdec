//! State of a cluster, and the desired set that follows from it.
//!
//! The catalog is the only owner of this state.

mod allocator;
mod changes;
mod evaluation;
mod listing;
mod output;
mod pod_service;
mod pods;
mod record;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use virtual_server::DesiredSet;

pub use self::output::{CatalogCounts, CatalogOutput, ServiceView};
use self::{
    allocator::Allocator,
    changes::ChangeSet,
    evaluation::Evaluator,
    listing::Listing,
    pods::{AffectedPod, Pods},
    record::{ServiceRecord, ServiceState, SliceRecord},
};
use super::{
    addresses::{AddressClaim, Age},
    left_out::LeftOutCounts,
    model::{EndpointSlice, ObjectKey, ObjectKind, Pod, Service, WatchScope},
    service_spec::{self, ParsedService},
    settings::CatalogSettings,
};

/// A change of a cluster, as the input of the [`Catalog`].
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the catalog consumes each input immediately and stores none"
)]
pub enum CatalogInput {
    /// The Service is new or has changed.
    Service(Service),
    ServiceDeleted(ObjectKey),
    /// The EndpointSlice is new or has changed.
    EndpointSlice(EndpointSlice),
    EndpointSliceDeleted(ObjectKey),
    /// The pod is new or has changed.
    Pod(Pod),
    PodDeleted(ObjectKey),
    /// A list of all objects in this scope begins. The catalog keeps the objects that it stored
    /// before, until `RestartedDone`.
    Restarted(WatchScope),
    /// The list of all objects in this scope has ended. The catalog removes each stored object of
    /// this scope that the list did not contain.
    RestartedDone(WatchScope),
}

/// The objects of a cluster, and the desired set and the views that follow from the objects. The
/// catalog has no clock and no IO.
///
/// [`Catalog::handle`] only records which Services an input affects. [`Catalog::take_output`] then
/// evaluates each affected Service once, and no other Service.
#[derive(Debug)]
pub struct Catalog {
    settings: CatalogSettings,
    listing: Listing,
    entries: BTreeMap<ObjectKey, ServiceRecord>,
    slice_owners: HashMap<ObjectKey, ObjectKey>,
    pods: Pods,
    allocator: Allocator,
    /// Services with an endpoint that was left out because its address is a service address.
    circular: BTreeSet<ObjectKey>,
    /// Addresses with a claim that was added or changed after the last output.
    new_claims: BTreeSet<IpAddr>,
    /// Services to evaluate for the next output.
    affected: BTreeSet<ObjectKey>,
    has_output: bool,
    counts: CatalogCounts,
}

impl Catalog {
    /// Creates a catalog without Services, EndpointSlices and pods of a cluster.
    #[must_use]
    pub fn new(settings: CatalogSettings) -> Self {
        let mut catalog = Self {
            listing: Listing::new(&settings.scopes),
            entries: BTreeMap::new(),
            slice_owners: HashMap::new(),
            pods: Pods::default(),
            allocator: Allocator::new(&settings.pools, &settings.reserved),
            circular: BTreeSet::new(),
            new_claims: BTreeSet::new(),
            affected: BTreeSet::new(),
            has_output: false,
            counts: CatalogCounts::default(),
            settings,
        };
        if let Some(pods) = &catalog.settings.pods {
            let (service, parsed) = pod_service::service(pods);
            catalog.put_parsed(service, parsed);
        }
        catalog
    }

    /// Applies an input to the stored objects and marks the affected Services. Only
    /// [`Self::take_output`] evaluates these Services.
    pub fn handle(&mut self, input: CatalogInput) {
        match input {
            CatalogInput::Service(service) => {
                self.listing.record(ObjectKind::Service, &service.key);
                self.put_service(service);
            }
            CatalogInput::ServiceDeleted(key) => self.forget_service(&key),
            CatalogInput::EndpointSlice(slice) => {
                self.listing.record(ObjectKind::EndpointSlice, &slice.key);
                self.put_slice(slice);
            }
            CatalogInput::EndpointSliceDeleted(key) => self.forget_slice(&key),
            CatalogInput::Pod(pod) => {
                self.listing.record(ObjectKind::Pod, &pod.key);
                self.put_pod(pod);
            }
            CatalogInput::PodDeleted(key) => self.forget_pod(&key),
            CatalogInput::Restarted(scope) => self.listing.begin(scope),
            CatalogInput::RestartedDone(scope) => self.finish_list(&scope),
        }
    }

    /// Reports whether every scope has been listed at least once. Until then the outputs of the
    /// catalog are empty.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.listing.is_synced()
    }

    /// Returns the changes that follow from the inputs since the last call. Until the catalog is
    /// synced, the output is empty. The first output of the synced catalog contains the changes
    /// that follow from all inputs.
    pub fn take_output(&mut self) -> CatalogOutput {
        let mut output = CatalogOutput::default();
        if !self.is_synced() {
            return output;
        }
        let mut changes = ChangeSet::default();
        if self.has_output {
            let addresses = std::mem::take(&mut self.new_claims);
            self.mark_endpoints_affected(&addresses);
        } else {
            // The first output evaluates every Service, so new claims need no separate handling.
            self.new_claims.clear();
            changes.put_ranges(&self.settings.service_ranges);
            self.affected.extend(self.entries.keys().cloned());
            self.has_output = true;
        }
        for key in self.allocate() {
            self.evaluate(&key, &mut changes, &mut output);
        }
        output.changes = changes.in_order();
        output
    }

    /// Changes the stored status of the Service as if the status recorded these addresses. A caller
    /// that wants the final desired set but writes no status passes the `allocation` of the
    /// Service's view.
    pub fn assume_recorded(&mut self, key: &ObjectKey, addresses: &[IpAddr]) {
        let entry = self.entries.get_mut(key);
        if let Some(state) = entry.and_then(|entry| entry.state.as_mut()) {
            state.assume_recorded(addresses);
            self.reclaim(key);
            self.affected.insert(key.clone());
        }
    }

    /// Returns the service ranges, and the virtual servers that result from all outputs so far.
    #[must_use]
    pub fn desired(&self) -> DesiredSet {
        let served = self.entries.values().flat_map(|entry| &entry.served);
        DesiredSet {
            virtual_servers: served.map(|server| (server.id, server.clone())).collect(),
            service_ranges: self.settings.service_ranges.clone(),
        }
    }

    /// Returns the view of each Service from its last evaluation. The key of the view of pods
    /// without a Service has an empty namespace.
    pub fn views(&self) -> impl Iterator<Item = (&ObjectKey, &ServiceView)> {
        let entries = self.entries.iter();
        entries.filter_map(|(key, entry)| Some((key, entry.view.as_deref()?)))
    }

    /// Returns the numbers of objects in the catalog.
    #[must_use]
    pub fn counts(&self) -> CatalogCounts {
        CatalogCounts {
            endpoint_slices: self.slice_owners.len(),
            pods: self.pods.len(),
            ..self.counts
        }
    }

    fn put_service(&mut self, service: Service) {
        let key = service.key.clone();
        if !service_spec::is_ours(&service, &self.settings) {
            return self.forget_service(&key);
        }
        let parsed = service_spec::of_service(&service, &self.settings);
        let age = ServiceState::age_of(&service);
        let is_another = |state: &ServiceState| state.uid != service.uid || state.age != age;
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.state.as_ref().is_some_and(|state| is_another(state)) {
            self.forget_service(&key);
        }
        if self.put_parsed(service, parsed) {
            self.counts.services += 1;
        }
    }

    /// Stores a Service. Reports whether the catalog had no Service with this key.
    fn put_parsed(&mut self, service: Service, parsed: ParsedService) -> bool {
        let key = service.key.clone();
        let entry = self.entries.entry(key.clone()).or_default();
        let is_new = entry.state.is_none();
        match &mut entry.state {
            Some(state) => state.update(service, parsed),
            vacant @ None => *vacant = Some(Box::new(ServiceState::new(service, parsed))),
        }
        self.reclaim(&key);
        self.affected.insert(key);
        is_new
    }

    fn forget_service(&mut self, key: &ObjectKey) {
        let Some(state) = self
            .entries
            .get_mut(key)
            .and_then(|entry| entry.state.take())
        else {
            return;
        };
        self.counts.services -= 1;
        for address in &state.claimed {
            self.unclaim(*address, &state.age);
        }
        let released = self.allocator.forget(&state);
        self.affected.extend(released);
        self.affected.insert(key.clone());
    }

    /// Updates the claims of a Service to the addresses that it requests.
    fn reclaim(&mut self, key: &ObjectKey) {
        let Some(state) = self
            .entries
            .get_mut(key)
            .and_then(|entry| entry.state.as_mut())
        else {
            return;
        };
        let requested = state.requested_addresses(&self.allocator);
        let former = std::mem::replace(&mut state.claimed, requested.clone());
        let age = state.age.clone();
        let claims: Vec<AddressClaim> = requested
            .iter()
            .map(|address| state.claim_to(*address))
            .collect();
        for address in former.iter().filter(|address| !requested.contains(address)) {
            self.unclaim(*address, &age);
        }
        for (address, claim) in requested.into_iter().zip(claims) {
            let affected = self.allocator.claim(address, &age, claim);
            if !affected.is_empty() {
                self.new_claims.insert(address);
                self.affected.extend(affected);
            }
        }
    }

    fn unclaim(&mut self, address: IpAddr, age: &Age) {
        let affected = self.allocator.unclaim(address, age);
        self.affected.extend(affected);
        self.affected.extend(self.circular.iter().cloned());
    }

    fn put_slice(&mut self, slice: EndpointSlice) {
        let Some(owner) = slice.service.clone() else {
            return self.forget_slice(&slice.key);
        };
        if self.slice_owners.get(&slice.key) != Some(&owner) {
            self.forget_slice(&slice.key);
            self.slice_owners.insert(slice.key.clone(), owner.clone());
        }
        let entry = self.entries.entry(owner.clone()).or_default();
        let former = entry.slice(&slice.key);
        self.counts.endpoints += slice.endpoints.len();
        self.counts.endpoints -= former.map_or(0, |former| former.endpoints.len());
        let new = SliceRecord::new("EndpointSlice", slice, former);
        if former != Some(&new) {
            entry.put_slice(new);
            self.affected.insert(owner);
        }
    }

    fn forget_slice(&mut self, key: &ObjectKey) {
        let Some(owner) = self.slice_owners.remove(key) else {
            return;
        };
        let entry = self.entries.get_mut(&owner);
        if let Some(slice) = entry.and_then(|entry| entry.remove_slice(key)) {
            self.counts.endpoints -= slice.endpoints.len();
        }
        self.affected.insert(owner);
    }

    fn put_pod(&mut self, pod: Pod) {
        let are_served = self.settings.pods.is_some();
        if are_served {
            self.put_slice_of_pod(&pod);
        }
        let affected = self.pods.put(pod, are_served);
        self.mark_pod_affected(affected);
    }

    /// Stores a pod as an EndpointSlice of the Service for pods. For a pod without an address,
    /// removes this EndpointSlice.
    fn put_slice_of_pod(&mut self, pod: &Pod) {
        if pod.addresses.is_empty() {
            return self.forget_slice_of_pod(&pod.key);
        }
        let key = pod_service::key();
        let entry = self.entries.entry(key.clone()).or_default();
        let former = entry.slice(&pod.key);
        let new = SliceRecord::new("Pod", pod_service::slice(pod), former);
        if former != Some(&new) {
            entry.put_slice(new);
            self.affected.insert(key);
        }
    }

    fn forget_slice_of_pod(&mut self, pod: &ObjectKey) {
        let key = pod_service::key();
        let entry = self.entries.get_mut(&key);
        if entry.is_some_and(|entry| entry.remove_slice(pod).is_some()) {
            self.affected.insert(key);
        }
    }

    fn forget_pod(&mut self, key: &ObjectKey) {
        self.forget_slice_of_pod(key);
        let affected = self.pods.forget(key);
        self.mark_pod_affected(affected);
    }

    /// Marks the Services of the pod's namespace that have an endpoint at an address of the pod.
    fn mark_pod_affected(&mut self, affected: Option<AffectedPod>) {
        let Some(AffectedPod {
            namespace,
            addresses,
        }) = affected
        else {
            return;
        };
        // The keys of one namespace are adjacent in the map.
        let entries = self.entries.range(ObjectKey::new(&namespace, "")..);
        let in_namespace = entries.take_while(|(key, _)| key.namespace() == &*namespace);
        let with_endpoint = in_namespace.filter(|(_, entry)| entry.has_endpoint_at(&addresses));
        self.affected
            .extend(with_endpoint.map(|(key, _)| key.clone()));
    }

    fn mark_endpoints_affected(&mut self, addresses: &BTreeSet<IpAddr>) {
        if addresses.is_empty() {
            return;
        }
        let with_endpoint = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.has_endpoint_at(addresses));
        self.affected
            .extend(with_endpoint.map(|(key, _)| key.clone()));
    }

    fn finish_list(&mut self, scope: &WatchScope) {
        let listed = self.listing.end(scope);
        let Some(listed) = listed else { return };
        let is_missing = |key: &&ObjectKey| scope.covers(key) && !listed.contains(*key);
        match scope.kind {
            ObjectKind::Service => {
                let services = self.entries.iter().filter(|(_, entry)| entry.is_service());
                let missing: Vec<ObjectKey> = services
                    .map(|(key, _)| key)
                    .filter(is_missing)
                    .cloned()
                    .collect();
                missing.iter().for_each(|key| self.forget_service(key));
            }
            ObjectKind::EndpointSlice => {
                let missing: Vec<ObjectKey> = self
                    .slice_owners
                    .keys()
                    .filter(is_missing)
                    .cloned()
                    .collect();
                missing.iter().for_each(|key| self.forget_slice(key));
            }
            ObjectKind::Pod => {
                let missing: Vec<ObjectKey> =
                    self.pods.keys().filter(is_missing).cloned().collect();
                missing.iter().for_each(|key| self.forget_pod(key));
            }
        }
    }

    /// Allocates addresses to the affected Services, to older Services first. Returns all Services
    /// that must be evaluated.
    fn allocate(&mut self) -> BTreeSet<ObjectKey> {
        let mut all = BTreeSet::new();
        while !self.affected.is_empty() {
            let affected = std::mem::take(&mut self.affected);
            let mut ages: Vec<&Age> = affected
                .iter()
                .filter_map(|key| Some(&self.entries.get(key)?.state.as_ref()?.age))
                .collect();
            ages.sort_unstable();
            for age in ages.into_iter().cloned().collect::<Vec<Age>>() {
                let entry = self.entries.get_mut(&age.key);
                if let Some(state) = entry.and_then(|entry| entry.state.as_mut()) {
                    let retry = self.allocator.allocate(state);
                    self.affected.extend(retry);
                }
            }
            all.extend(affected);
        }
        all
    }

    /// Evaluates a Service. Adds the differences from its last evaluation to `changes` and
    /// `output`.
    fn evaluate(&mut self, key: &ObjectKey, changes: &mut ChangeSet, output: &mut CatalogOutput) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let mut served = Vec::new();
        let mut view: Option<Box<ServiceView>> = None;
        let mut left_out = LeftOutCounts::default();
        self.circular.remove(key);
        if let Some(state) = &entry.state {
            let evaluator = Evaluator {
                settings: &self.settings,
                allocator: &self.allocator,
                pods: &self.pods,
            };
            let evaluation = evaluator.evaluate(key, state, &entry.slices);
            if evaluation.is_circular {
                self.circular.insert(key.clone());
            }
            view = Some(Box::new(evaluation.view));
            served = evaluation.served;
            left_out = evaluation.left_out;
        }
        let former = std::mem::replace(&mut entry.left_out, left_out);
        self.counts.left_out.replace(&former, &left_out);
        let former = std::mem::replace(&mut entry.served, served);
        changes.compare(&former, &entry.served);
        let is_bad = |view: &Option<Box<ServiceView>>| {
            let mut findings = view.iter().flat_map(|view| &view.findings);
            usize::from(findings.any(|finding| finding.reason.is_error()))
        };
        if view != entry.view {
            if *key == pod_service::key() {
                output.pod_findings = view.as_ref().map(|view| view.findings.clone());
            } else {
                self.counts.bad_services += is_bad(&view);
                self.counts.bad_services -= is_bad(&entry.view);
                output
                    .services
                    .push((key.clone(), view.as_deref().cloned()));
            }
            entry.view = view;
        }
        if entry.state.is_none() && entry.slices.is_empty() {
            self.entries.remove(key);
        }
    }
}
