//! What is kept of a Service and of a slice.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use virtual_server::VirtualServer;

use super::{
    super::{
        addresses::{Age, Claim},
        annotations::{self, RealServerAnnotations, Refusal},
        finding::{Finding, Reason, Subject},
        left_out::LeftOutCounts,
        model::{
            Condition, Endpoint, EndpointPort, EndpointSlice, Family, NotUsed, ObjectKey, Service,
            ServiceType, WrittenStatus, address_message, address_reason,
        },
        service_spec::{self, AddressSource, ParsedService, ServiceSpec},
    },
    ServiceView,
    allocator::Allocator,
};

/// A Service or its slices, whichever came first.
#[derive(Debug, Default)]
pub(super) struct ServiceRecord {
    /// The Service, if it is one of ours.
    pub(super) known: Option<Box<KnownService>>,
    /// Its slices, by their keys. There are a few; a list takes less memory than a tree.
    pub(super) slices: Vec<SliceRecord>,
    /// Its virtual servers as they were put out, by their ids.
    pub(super) served: Vec<VirtualServer>,
    /// Its view as it was put out.
    pub(super) view: Option<Box<ServiceView>>,
    /// Endpoints that were left out of what was put out.
    pub(super) left_out: LeftOutCounts,
}

/// A Service of ours.
#[derive(Debug)]
pub(super) struct KnownService {
    pub(super) age: Age,
    pub(super) uid: Arc<str>,
    pub(super) generation: i64,
    pub(super) is_load_balancer: bool,
    pub(super) written: WrittenStatus,
    /// The last good one; `None`: there never was one.
    pub(super) spec: Option<ServiceSpec>,
    /// What it says of sharing, for as long as there is no spec.
    share_key: Option<Box<str>>,
    /// What it says of sharing with other namespaces, for as long as there is no spec.
    share_namespaces: Box<[Box<str>]>,
    /// Why the newest is not a good one.
    pub(super) errors: Vec<Finding>,
    /// Limits that nothing enforces: while there is one, the Service is not served.
    pub(super) restrictions: Vec<Finding>,
    pub(super) remarks: Vec<Finding>,
    /// Addresses that it asks for; whether it has them is for the claims to say.
    pub(super) claimed: Vec<IpAddr>,
    /// Addresses that a pool gives it, once its status says so.
    pub(super) proposed: Vec<IpAddr>,
    /// Why no pool gives it one.
    pub(super) starved: Vec<Finding>,
}

/// A slice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SliceRecord {
    pub(super) key: ObjectKey,
    pub(super) ports: Box<[EndpointPort]>,
    pub(super) endpoints: Box<[Endpoint]>,
    pub(super) not_used: NotUsed,
    /// The last good ones.
    pub(super) annotations: RealServerAnnotations,
    pub(super) errors: Vec<Finding>,
}

impl ServiceRecord {
    /// Whether it is a Service of ours that a cluster has told of.
    pub(super) fn is_service(&self) -> bool {
        self.known
            .as_ref()
            .is_some_and(|known| !known.age.key.namespace().is_empty())
    }

    /// Whether one of the addresses is that of an endpoint.
    pub(super) fn has_endpoint_at(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        self.slices.iter().any(|slice| {
            let endpoints = &slice.endpoints;
            let (Some(first), Some(last)) = (endpoints.first(), endpoints.last()) else {
                return false;
            };
            let mut between = addresses.range(first.address..=last.address);
            between.any(|address| {
                let find = endpoints.binary_search_by_key(address, |endpoint| endpoint.address);
                find.is_ok()
            })
        })
    }
}

impl ServiceRecord {
    /// Adds or replaces a slice; what was in its place.
    pub(super) fn put_slice(&mut self, slice: SliceRecord) -> Option<SliceRecord> {
        match self.place_of(&slice.key) {
            Ok(place) => Some(std::mem::replace(&mut self.slices[place], slice)),
            Err(place) => {
                self.slices.insert(place, slice);
                None
            }
        }
    }

    /// The slice of that name.
    pub(super) fn slice(&self, key: &ObjectKey) -> Option<&SliceRecord> {
        self.place_of(key).ok().map(|place| &self.slices[place])
    }

    /// Takes a slice out.
    pub(super) fn remove_slice(&mut self, key: &ObjectKey) -> Option<SliceRecord> {
        self.place_of(key)
            .ok()
            .map(|place| self.slices.remove(place))
    }

    fn place_of(&self, key: &ObjectKey) -> Result<usize, usize> {
        self.slices.binary_search_by(|slice| slice.key.cmp(key))
    }
}

impl KnownService {
    /// A Service that has not been heard of before.
    pub(super) fn new(service: Service, parsed: ParsedService) -> Self {
        let mut known = Self {
            age: Self::age_of(&service),
            uid: Arc::clone(&service.uid),
            generation: 0,
            is_load_balancer: false,
            written: WrittenStatus::default(),
            spec: None,
            share_key: None,
            share_namespaces: Box::default(),
            errors: Vec::new(),
            restrictions: Vec::new(),
            remarks: Vec::new(),
            claimed: Vec::new(),
            proposed: Vec::new(),
            starved: Vec::new(),
        };
        known.update(service, parsed);
        known
    }

    /// Takes the newest state over; where it is not a good one, the last good one goes on.
    pub(super) fn update(&mut self, service: Service, parsed: ParsedService) {
        self.generation = service.generation;
        self.is_load_balancer = service.service_type == ServiceType::LoadBalancer;
        self.share_key = service_spec::annotated_share_key(&service).map(Into::into);
        self.share_namespaces = service_spec::annotated_share_namespaces(&service);
        self.written = service.written;
        self.restrictions = parsed.restrictions;
        self.remarks = parsed.remarks;
        match parsed.spec {
            Ok(spec) => {
                self.spec = Some(spec);
                self.errors.clear();
            }
            Err(errors) => self.errors = errors,
        }
    }

    /// Its age. One without a date, from a manifest, is younger than all that have one.
    pub(super) fn age_of(service: &Service) -> Age {
        Age {
            created_seconds: service.created_seconds.unwrap_or(i64::MAX),
            key: service.key.clone(),
        }
    }

    /// The address of the family that a pool gives it.
    pub(super) fn proposed(&self, family: Family) -> Option<IpAddr> {
        let mut proposed = self.proposed.iter().copied();
        proposed.find(|address| Family::of(*address) == family)
    }

    /// What it wants of an address that it does not hold yet.
    pub(super) fn claim(&self) -> Claim {
        let ports = self.spec.iter().flat_map(|spec| &spec.ports);
        let (share_key, share_namespaces) = match &self.spec {
            Some(spec) => (&spec.share_key, &spec.share_namespaces),
            None => (&self.share_key, &self.share_namespaces),
        };
        Claim {
            holds: false,
            share_key: share_key.clone(),
            share_namespaces: share_namespaces.clone(),
            ports: ports.map(|port| (port.protocol, port.ports)).collect(),
        }
    }

    /// What it wants of this address.
    pub(super) fn claim_to(&self, address: IpAddr) -> Claim {
        Claim {
            // The record that only writers of the Service's status can make.
            holds: self.written.holds(address),
            ..self.claim()
        }
    }

    /// The addresses that are given, or those of a pool that its status keeps. One that was never
    /// understood keeps what its status says, so that nobody else gets what others may still serve.
    pub(super) fn wanted_addresses(&self, allocator: &Allocator) -> Vec<IpAddr> {
        match self.spec.as_ref().map(|spec| &spec.source) {
            None => {
                let kept = self.written.kept_addresses().into_iter();
                let told = self.written.ingress.iter().map(|ingress| ingress.address);
                let all: BTreeSet<IpAddr> = kept.chain(told).collect();
                all.into_iter().collect()
            }
            Some(AddressSource::Given(addresses)) => addresses.clone(),
            Some(AddressSource::Pool { name, families, .. }) => {
                let kept = self.written.kept_addresses();
                let pools = allocator.pools();
                // Nobody changes the address of a Service by changing the pools.
                let names_unknown = name.as_deref().is_some_and(|name| !pools.know(name));
                let of_family = |family: &Family| {
                    kept.iter().copied().find(|address| {
                        Family::of(*address) == *family
                            && !allocator.is_reserved(*address)
                            && (names_unknown
                                || pools.contain(name.as_deref(), *address)
                                || !pools.contain(None, *address))
                    })
                };
                families.iter().filter_map(of_family).collect()
            }
        }
    }

    /// As if the condition `portlb.io/Address` held the addresses.
    pub(super) fn assume_kept(&mut self, addresses: &[IpAddr]) {
        self.written.address = Some(Condition {
            status: "True".into(),
            reason: address_reason(addresses).into(),
            message: address_message(addresses).into(),
            last_transition_seconds: 0,
        });
    }
}

impl SliceRecord {
    /// Annotations that cannot be used leave those in force that were. Findings about them name the
    /// object as one of this kind.
    pub(super) fn new(kind: &str, slice: EndpointSlice, former: Option<&Self>) -> Self {
        let read = annotations::read(annotations::OF_REAL_SERVERS, &slice.annotations);
        let (annotations, errors) = match read {
            Ok(annotations) => (annotations, Vec::new()),
            Err(refusals) => {
                let annotations = former.map(|former| former.annotations).unwrap_or_default();
                (annotations, bad_annotations(kind, &slice.key, refusals))
            }
        };
        Self {
            key: slice.key,
            ports: slice.ports,
            endpoints: slice.endpoints,
            not_used: slice.not_used,
            annotations,
            errors,
        }
    }
}

/// Returns findings about annotations of an object behind a Service.
pub(super) fn bad_annotations(kind: &str, key: &ObjectKey, refusals: Vec<Refusal>) -> Vec<Finding> {
    let subject = Subject::ObjectBehind(format!("{kind} {}", key.name()).into());
    let finding = |refusal| Finding::about(Reason::BadAnnotation, subject.clone(), refusal);
    refusals.into_iter().map(finding).collect()
}
