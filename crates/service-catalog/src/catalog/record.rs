//! Stored state of a Service and its EndpointSlices.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use virtual_server::{AddressFamily, VirtualServer};

use super::{
    super::{
        addresses::{AddressClaim, Age},
        annotations::{self, RealServerAnnotations, RefusedSetting},
        finding::{Finding, Reason, Subject},
        left_out::LeftOutCounts,
        model::{
            Condition, Endpoint, EndpointPort, EndpointSlice, NotUsed, ObjectKey, Service,
            ServiceType, WrittenStatus, address_message, address_reason,
        },
        service_spec::{self, AddressSource, ParsedService, ServiceSpec},
    },
    ServiceView,
    allocator::Allocator,
};

/// The state of one Service and its EndpointSlices. The EndpointSlices can arrive before the
/// Service.
#[derive(Debug, Default)]
pub(super) struct ServiceRecord {
    /// `None` if the Service does not exist or portlb does not serve it.
    pub(super) state: Option<Box<ServiceState>>,
    /// The EndpointSlices, sorted by key. A `Vec` needs less memory than a tree, because a Service
    /// has few EndpointSlices.
    pub(super) slices: Vec<SliceRecord>,
    /// The virtual servers of the Service in the last output, sorted by id.
    pub(super) served: Vec<VirtualServer>,
    /// The view of the Service in the last output.
    pub(super) view: Option<Box<ServiceView>>,
    /// The endpoints of the Service that are left out in the last output.
    pub(super) left_out: LeftOutCounts,
}

/// A Service that portlb serves.
#[derive(Debug)]
pub(super) struct ServiceState {
    pub(super) age: Age,
    pub(super) uid: Arc<str>,
    pub(super) generation: i64,
    pub(super) is_load_balancer: bool,
    pub(super) written: WrittenStatus,
    /// The last valid specification. `None` if the Service was never valid.
    pub(super) spec: Option<ServiceSpec>,
    /// The share key from the annotations. It is used only if `spec` is `None`.
    share_key: Option<Box<str>>,
    /// The namespaces from the annotation `portlb.io/share-address-namespaces`. They are used only
    /// if `spec` is `None`.
    share_namespaces: Box<[Box<str>]>,
    /// The reasons why the newest version of the Service is invalid. Empty if it is valid.
    pub(super) errors: Vec<Finding>,
    /// Limits on clients that no load balancer enforces. A Service with such a limit is not served.
    pub(super) restrictions: Vec<Finding>,
    pub(super) remarks: Vec<Finding>,
    /// The addresses that the Service claims. The Service has a claimed address only if no claim
    /// with precedence conflicts.
    pub(super) claimed: Vec<IpAddr>,
    /// The addresses that a pool has given to the Service. The Service uses an address only after
    /// its status records the address.
    pub(super) proposed: Vec<IpAddr>,
    /// The findings about address families for which no pool has a free address.
    pub(super) unallocated: Vec<Finding>,
}

/// An EndpointSlice in the form in which the catalog stores it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SliceRecord {
    pub(super) key: ObjectKey,
    pub(super) ports: Box<[EndpointPort]>,
    pub(super) endpoints: Box<[Endpoint]>,
    pub(super) not_used: NotUsed,
    /// The last valid annotations of the EndpointSlice.
    pub(super) annotations: RealServerAnnotations,
    pub(super) errors: Vec<Finding>,
}

impl ServiceRecord {
    /// Reports whether the record has a Service of a cluster that portlb serves. The Service for
    /// pods does not count.
    pub(super) fn is_service(&self) -> bool {
        self.state
            .as_ref()
            .is_some_and(|state| !state.age.key.namespace().is_empty())
    }

    /// Reports whether an endpoint of the Service has one of the addresses.
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
    /// Adds or replaces an EndpointSlice. Returns the replaced record.
    pub(super) fn put_slice(&mut self, slice: SliceRecord) -> Option<SliceRecord> {
        match self.index_of(&slice.key) {
            Ok(index) => Some(std::mem::replace(&mut self.slices[index], slice)),
            Err(index) => {
                self.slices.insert(index, slice);
                None
            }
        }
    }

    pub(super) fn slice(&self, key: &ObjectKey) -> Option<&SliceRecord> {
        self.index_of(key).ok().map(|index| &self.slices[index])
    }

    pub(super) fn remove_slice(&mut self, key: &ObjectKey) -> Option<SliceRecord> {
        self.index_of(key)
            .ok()
            .map(|index| self.slices.remove(index))
    }

    fn index_of(&self, key: &ObjectKey) -> Result<usize, usize> {
        self.slices.binary_search_by(|slice| slice.key.cmp(key))
    }
}

impl ServiceState {
    pub(super) fn new(service: Service, parsed: ParsedService) -> Self {
        let mut state = Self {
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
            unallocated: Vec::new(),
        };
        state.update(service, parsed);
        state
    }

    /// Stores a new version of the Service. If the version is invalid, the last valid specification
    /// stays in force.
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

    /// Returns the age of the Service. A Service from a manifest has no creation time and counts as
    /// the youngest.
    pub(super) fn age_of(service: &Service) -> Age {
        Age {
            created_seconds: service.created_seconds.unwrap_or(i64::MAX),
            key: service.key.clone(),
        }
    }

    /// Returns the address of this family that a pool has given to the Service, if the status does
    /// not record the address yet.
    pub(super) fn proposed(&self, family: AddressFamily) -> Option<IpAddr> {
        let mut proposed = self.proposed.iter().copied();
        proposed.find(|address| AddressFamily::of(*address) == family)
    }

    /// Returns the claim of the Service to an address that its status does not record.
    pub(super) fn claim(&self) -> AddressClaim {
        let ports = self.spec.iter().flat_map(|spec| &spec.ports);
        let (share_key, share_namespaces) = match &self.spec {
            Some(spec) => (&spec.share_key, &spec.share_namespaces),
            None => (&self.share_key, &self.share_namespaces),
        };
        AddressClaim {
            holds: false,
            share_key: share_key.clone(),
            share_namespaces: share_namespaces.clone(),
            ports: ports.map(|port| (port.protocol, port.ports)).collect(),
        }
    }

    /// Returns the claim of the Service to `address`.
    pub(super) fn claim_to(&self, address: IpAddr) -> AddressClaim {
        AddressClaim {
            // A user cannot forge the record in the status: only programs with the permission to
            // write the status of Services can.
            holds: self.written.holds(address),
            ..self.claim()
        }
    }

    /// Returns the addresses that the Service claims: the addresses that its author or the operator
    /// gives, or the addresses of a pool that its status records. A Service that was never valid
    /// claims the addresses in its status, so that no other Service gets an address that other load
    /// balancers can still serve.
    pub(super) fn requested_addresses(&self, allocator: &Allocator) -> Vec<IpAddr> {
        match self.spec.as_ref().map(|spec| &spec.source) {
            None => {
                let recorded = self.written.recorded_addresses().into_iter();
                let announced = self.written.ingress.iter().map(|ingress| ingress.address);
                let all: BTreeSet<IpAddr> = recorded.chain(announced).collect();
                all.into_iter().collect()
            }
            Some(AddressSource::Given(addresses)) => addresses.clone(),
            Some(AddressSource::Pool { name, families, .. }) => {
                let recorded = self.written.recorded_addresses();
                let pools = allocator.pools();
                // A Service keeps its address if no pool contains the address any longer, or if the
                // pool that the Service names does not exist.
                let names_unknown = name.as_deref().is_some_and(|name| !pools.has_pool(name));
                let of_family = |family: &AddressFamily| {
                    recorded.iter().copied().find(|address| {
                        AddressFamily::of(*address) == *family
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

    /// Changes the stored status as if the condition `portlb.io/Address` recorded the addresses.
    pub(super) fn assume_recorded(&mut self, addresses: &[IpAddr]) {
        self.written.address = Some(Condition {
            status: "True".into(),
            reason: address_reason(addresses).into(),
            message: address_message(addresses).into(),
            last_transition_seconds: 0,
        });
    }
}

impl SliceRecord {
    /// Converts an EndpointSlice. If its annotations are invalid, the annotations of the record
    /// `former` stay in force. `kind` is the kind of the object that findings name.
    pub(super) fn new(kind: &str, slice: EndpointSlice, former: Option<&Self>) -> Self {
        let read = annotations::read(annotations::REAL_SERVER_ANNOTATIONS, &slice.annotations);
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

/// Returns the findings about annotations of an EndpointSlice or a pod.
pub(super) fn bad_annotations(
    kind: &str,
    key: &ObjectKey,
    refusals: Vec<RefusedSetting>,
) -> Vec<Finding> {
    let subject = Subject::ObjectBehind(format!("{kind} {}", key.name()).into());
    let finding = |refused_annotation| {
        Finding::about(Reason::BadAnnotation, subject.clone(), refused_annotation)
    };
    refusals.into_iter().map(finding).collect()
}
