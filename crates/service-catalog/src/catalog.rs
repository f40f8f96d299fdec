//! The one owner of what a cluster has said: objects in, changes and findings out.

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

pub use self::output::{Counts, Output, ServiceView};
use self::{
    allocator::Allocator,
    changes::Changes,
    evaluation::Evaluator,
    listing::Listing,
    pods::{Pods, TouchedPod},
    record::{KnownService, ServiceRecord, SliceRecord},
};
use super::{
    addresses::{Age, Claim},
    left_out::LeftOutCounts,
    model::{EndpointSlice, Kind, ObjectKey, Pod, Scope, Service},
    service_spec::{self, ParsedService},
    settings::Settings,
};

/// What is told to the [`Catalog`].
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the catalog consumes each input at once and stores none"
)]
pub enum Input {
    /// The Service is new, or differs.
    Service(Service),
    /// The Service is gone.
    ServiceDeleted(ObjectKey),
    /// The slice is new, or differs.
    EndpointSlice(EndpointSlice),
    /// The slice is gone.
    EndpointSliceDeleted(ObjectKey),
    /// The pod is new, or differs.
    Pod(Pod),
    /// The pod is gone.
    PodDeleted(ObjectKey),
    /// A list of everything in the scope begins. What was known stays until it has ended.
    Restarted(Scope),
    /// The list has ended: what it did not tell is gone.
    RestartedDone(Scope),
}

/// What was heard of a cluster, and what it means. No clock, no IO.
///
/// [`Catalog::handle`] only notes what an input touches; [`Catalog::take_output`] then looks at
/// each Service that was touched, once, so that its cost follows the change and not the cluster.
#[derive(Debug)]
pub struct Catalog {
    settings: Settings,
    listing: Listing,
    entries: BTreeMap<ObjectKey, ServiceRecord>,
    slice_owners: HashMap<ObjectKey, ObjectKey>,
    pods: Pods,
    allocator: Allocator,
    /// Services that have an endpoint which is a service address.
    circular: BTreeSet<ObjectKey>,
    /// Addresses that were claimed since the last output.
    fresh_claims: BTreeSet<IpAddr>,
    /// Services to look at.
    touched: BTreeSet<ObjectKey>,
    has_put_out: bool,
    counts: Counts,
}

impl Catalog {
    /// Nothing heard yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut catalog = Self {
            listing: Listing::new(&settings.scopes),
            entries: BTreeMap::new(),
            slice_owners: HashMap::new(),
            pods: Pods::default(),
            allocator: Allocator::new(&settings.pools, &settings.reserved),
            circular: BTreeSet::new(),
            fresh_claims: BTreeSet::new(),
            touched: BTreeSet::new(),
            has_put_out: false,
            counts: Counts::default(),
            settings,
        };
        if let Some(pods) = &catalog.settings.pods {
            let (service, parsed) = pod_service::service(pods);
            catalog.put_parsed(service, parsed);
        }
        catalog
    }

    /// Takes an input over. Cheap: what follows is found by [`Self::take_output`].
    pub fn handle(&mut self, input: Input) {
        match input {
            Input::Service(service) => {
                self.listing.told(Kind::Service, &service.key);
                self.put_service(service);
            }
            Input::ServiceDeleted(key) => self.forget_service(&key),
            Input::EndpointSlice(slice) => {
                self.listing.told(Kind::EndpointSlice, &slice.key);
                self.put_slice(slice);
            }
            Input::EndpointSliceDeleted(key) => self.forget_slice(&key),
            Input::Pod(pod) => {
                self.listing.told(Kind::Pod, &pod.key);
                self.put_pod(pod);
            }
            Input::PodDeleted(key) => self.forget_pod(&key),
            Input::Restarted(scope) => self.listing.begin(scope),
            Input::RestartedDone(scope) => self.end_list(&scope),
        }
    }

    /// Whether every scope has been listed once. Before, there is no output.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.listing.is_synced()
    }

    /// What follows from the inputs since the last call.
    pub fn take_output(&mut self) -> Output {
        let mut output = Output::default();
        if !self.is_synced() {
            return output;
        }
        let mut changes = Changes::default();
        if self.has_put_out {
            let fresh = std::mem::take(&mut self.fresh_claims);
            self.touch_endpoints_at(&fresh);
        } else {
            // Everything is looked at anyway.
            self.fresh_claims.clear();
            changes.put_ranges(&self.settings.service_ranges);
            self.touched.extend(self.entries.keys().cloned());
            self.has_put_out = true;
        }
        for key in self.allocate() {
            self.evaluate(&key, &mut changes, &mut output);
        }
        output.changes = changes.in_order();
        output
    }

    /// As if the Service's status kept the addresses that its view allocates: for whoever asks
    /// what would be served and writes nothing.
    pub fn assume_kept(&mut self, key: &ObjectKey, addresses: &[IpAddr]) {
        let entry = self.entries.get_mut(key);
        if let Some(known) = entry.and_then(|entry| entry.known.as_mut()) {
            known.assume_kept(addresses);
            self.reclaim(key);
            self.touched.insert(key.clone());
        }
    }

    /// Everything that has been put out.
    #[must_use]
    pub fn desired(&self) -> DesiredSet {
        let served = self.entries.values().flat_map(|entry| &entry.served);
        DesiredSet {
            virtual_servers: served.map(|server| (server.id, server.clone())).collect(),
            service_ranges: self.settings.service_ranges.clone(),
        }
    }

    /// The views as they were put out, of Services and of the pods that are served without one,
    /// whose key has no namespace.
    pub fn views(&self) -> impl Iterator<Item = (&ObjectKey, &ServiceView)> {
        let entries = self.entries.iter();
        entries.filter_map(|(key, entry)| Some((key, entry.view.as_deref()?)))
    }

    /// How much there is of what.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
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
        let age = KnownService::age_of(&service);
        let is_another = |known: &KnownService| known.uid != service.uid || known.age != age;
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.known.as_ref().is_some_and(|known| is_another(known)) {
            self.forget_service(&key);
        }
        if self.put_parsed(service, parsed) {
            self.counts.services += 1;
        }
    }

    /// Takes a Service over. Reports whether it is new.
    fn put_parsed(&mut self, service: Service, parsed: ParsedService) -> bool {
        let key = service.key.clone();
        let entry = self.entries.entry(key.clone()).or_default();
        let is_new = entry.known.is_none();
        match &mut entry.known {
            Some(known) => known.update(service, parsed),
            vacant @ None => *vacant = Some(Box::new(KnownService::new(service, parsed))),
        }
        self.reclaim(&key);
        self.touched.insert(key);
        is_new
    }

    fn forget_service(&mut self, key: &ObjectKey) {
        let Some(known) = self
            .entries
            .get_mut(key)
            .and_then(|entry| entry.known.take())
        else {
            return;
        };
        self.counts.services -= 1;
        for address in &known.claimed {
            self.unclaim(*address, &known.age);
        }
        let released = self.allocator.forget(&known);
        self.touched.extend(released);
        self.touched.insert(key.clone());
    }

    /// Makes the claims of a Service those that follow from what it asks for.
    fn reclaim(&mut self, key: &ObjectKey) {
        let Some(known) = self
            .entries
            .get_mut(key)
            .and_then(|entry| entry.known.as_mut())
        else {
            return;
        };
        let wanted = known.wanted_addresses(&self.allocator);
        let former = std::mem::replace(&mut known.claimed, wanted.clone());
        let age = known.age.clone();
        let claims: Vec<Claim> = wanted
            .iter()
            .map(|address| known.claim_to(*address))
            .collect();
        for address in former.iter().filter(|address| !wanted.contains(address)) {
            self.unclaim(*address, &age);
        }
        for (address, claim) in wanted.into_iter().zip(claims) {
            let touched = self.allocator.claim(address, &age, claim);
            if !touched.is_empty() {
                self.fresh_claims.insert(address);
                self.touched.extend(touched);
            }
        }
    }

    fn unclaim(&mut self, address: IpAddr, age: &Age) {
        let touched = self.allocator.unclaim(address, age);
        self.touched.extend(touched);
        self.touched.extend(self.circular.iter().cloned());
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
            self.touched.insert(owner);
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
        self.touched.insert(owner);
    }

    fn put_pod(&mut self, pod: Pod) {
        let are_served = self.settings.pods.is_some();
        if are_served {
            self.put_slice_of_pod(&pod);
        }
        let touched = self.pods.put(pod, are_served);
        self.touch_pod(touched);
    }

    /// Takes over what a pod is of the pods that are served without a Service.
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
            self.touched.insert(key);
        }
    }

    fn forget_slice_of_pod(&mut self, pod: &ObjectKey) {
        let key = pod_service::key();
        let entry = self.entries.get_mut(&key);
        if entry.is_some_and(|entry| entry.remove_slice(pod).is_some()) {
            self.touched.insert(key);
        }
    }

    fn forget_pod(&mut self, key: &ObjectKey) {
        self.forget_slice_of_pod(key);
        let touched = self.pods.forget(key);
        self.touch_pod(touched);
    }

    /// Touches the Services whose endpoints the addresses of a pod are.
    fn touch_pod(&mut self, touched: Option<TouchedPod>) {
        let Some(TouchedPod {
            namespace,
            addresses,
        }) = touched
        else {
            return;
        };
        // The keys of a namespace lie next to each other.
        let entries = self.entries.range(ObjectKey::new(&namespace, "")..);
        let of_namespace = entries.take_while(|(key, _)| key.namespace() == &*namespace);
        let with_it = of_namespace.filter(|(_, entry)| entry.has_endpoint_at(&addresses));
        self.touched.extend(with_it.map(|(key, _)| key.clone()));
    }

    fn touch_endpoints_at(&mut self, addresses: &BTreeSet<IpAddr>) {
        if addresses.is_empty() {
            return;
        }
        let with_it = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.has_endpoint_at(addresses));
        self.touched.extend(with_it.map(|(key, _)| key.clone()));
    }

    fn end_list(&mut self, scope: &Scope) {
        let told = self.listing.end(scope);
        let Some(told) = told else { return };
        let is_gone = |key: &&ObjectKey| scope.covers(key) && !told.contains(*key);
        match scope.kind {
            Kind::Service => {
                let known = self.entries.iter().filter(|(_, entry)| entry.is_service());
                let gone: Vec<ObjectKey> =
                    known.map(|(key, _)| key).filter(is_gone).cloned().collect();
                gone.iter().for_each(|key| self.forget_service(key));
            }
            Kind::EndpointSlice => {
                let gone: Vec<ObjectKey> =
                    self.slice_owners.keys().filter(is_gone).cloned().collect();
                gone.iter().for_each(|key| self.forget_slice(key));
            }
            Kind::Pod => {
                let gone: Vec<ObjectKey> = self.pods.keys().filter(is_gone).cloned().collect();
                gone.iter().for_each(|key| self.forget_pod(key));
            }
        }
    }

    /// Gives addresses away, the oldest Service first; all Services that are to be looked at.
    fn allocate(&mut self) -> BTreeSet<ObjectKey> {
        let mut all = BTreeSet::new();
        while !self.touched.is_empty() {
            let touched = std::mem::take(&mut self.touched);
            let mut ages: Vec<&Age> = touched
                .iter()
                .filter_map(|key| Some(&self.entries.get(key)?.known.as_ref()?.age))
                .collect();
            ages.sort_unstable();
            for age in ages.into_iter().cloned().collect::<Vec<Age>>() {
                let entry = self.entries.get_mut(&age.key);
                if let Some(known) = entry.and_then(|entry| entry.known.as_mut()) {
                    let retry = self.allocator.allocate(known);
                    self.touched.extend(retry);
                }
            }
            all.extend(touched);
        }
        all
    }

    /// Finds what a Service has become.
    fn evaluate(&mut self, key: &ObjectKey, changes: &mut Changes, output: &mut Output) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let mut served = Vec::new();
        let mut view: Option<Box<ServiceView>> = None;
        let mut left_out = LeftOutCounts::default();
        self.circular.remove(key);
        if let Some(known) = &entry.known {
            let surroundings = Evaluator {
                settings: &self.settings,
                allocator: &self.allocator,
                pods: &self.pods,
            };
            let look = surroundings.look(key, known, &entry.slices);
            if look.is_circular {
                self.circular.insert(key.clone());
            }
            view = Some(Box::new(look.view));
            served = look.served;
            left_out = look.left_out;
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
        if entry.known.is_none() && entry.slices.is_empty() {
            self.entries.remove(key);
        }
    }
}
