//! Allocation of service addresses.

use std::{collections::BTreeSet, net::IpAddr};

use virtual_server::AddressFamily;

use super::{
    super::{
        addresses::{AddressClaim, AddressClaims, Age, Pools},
        finding::{Finding, Reason},
        model::ObjectKey,
        service_spec::AddressSource,
        settings::AddressPool,
    },
    record::ServiceState,
};

/// The state of address allocation: claimed, proposed, reserved and free addresses, and the
/// Services that lack an address.
#[derive(Debug)]
pub(super) struct Allocator {
    claims: AddressClaims,
    pools: Pools,
    /// Addresses that no Service can have, because the lb pod itself needs them.
    reserved: BTreeSet<IpAddr>,
    /// Addresses that a pool gave to a Service whose status does not record the address yet.
    proposals: AddressClaims,
    /// Services that lack an address, because no pool has a free address for them.
    unallocated: BTreeSet<ObjectKey>,
}

impl Allocator {
    pub(super) fn new(pools: &[AddressPool], reserved: &BTreeSet<IpAddr>) -> Self {
        Self {
            claims: AddressClaims::default(),
            pools: Pools::new(pools),
            reserved: reserved.clone(),
            proposals: AddressClaims::default(),
            unallocated: BTreeSet::new(),
        }
    }

    pub(super) fn claims(&self) -> &AddressClaims {
        &self.claims
    }

    pub(super) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Reports whether the lb pod itself needs the address, so that no Service can have it.
    pub(super) fn is_reserved(&self, address: IpAddr) -> bool {
        self.reserved.contains(&address)
    }

    /// Adds or replaces a claim. If the claim is new or changed, returns the Services that claim
    /// the address or to which a pool proposes the address.
    pub(super) fn claim(
        &mut self,
        address: IpAddr,
        age: &Age,
        claim: AddressClaim,
    ) -> Vec<ObjectKey> {
        if !self.claims.put(address, age, claim) {
            return Vec::new();
        }
        self.claimants_of(address)
    }

    /// Removes a claim. If the claim existed, returns the Services that the removal affects: the
    /// Services that claim the address or to which a pool proposes the address, and the Services
    /// that lack an address.
    pub(super) fn unclaim(&mut self, address: IpAddr, age: &Age) -> Vec<ObjectKey> {
        if !self.claims.remove(address, age) {
            return Vec::new();
        }
        let mut affected = self.claimants_of(address);
        affected.extend(self.release(address));
        affected
    }

    /// Removes the proposals of a Service that the catalog no longer stores. If the Service had a
    /// proposal, returns the Services that lack an address, because they can get the released
    /// address.
    pub(super) fn forget(&mut self, service: &ServiceState) -> Vec<ObjectKey> {
        self.unallocated.remove(&service.age.key);
        let mut affected = Vec::new();
        for address in &service.proposed {
            self.proposals.remove(*address, &service.age);
            affected.extend(self.release(*address));
        }
        affected
    }

    /// For a Service that needs addresses of a pool: proposes an address for each requested address
    /// family for which the Service has no address. Returns the Services whose allocation must be
    /// retried, because a proposal of this Service was removed and its address released.
    pub(super) fn allocate(&mut self, service: &mut ServiceState) -> Vec<ObjectKey> {
        let mut retries = self.drop_obsolete_proposals(service);
        service.unallocated.clear();
        self.unallocated.remove(&service.age.key);
        let claim = service.claim();
        let Some(AddressSource::Pool {
            name,
            families,
            needs_all,
        }) = service.spec.as_ref().map(|spec| &spec.source)
        else {
            return retries;
        };
        let pool = name.as_deref();
        let mut missing = Vec::new();
        for family in families {
            let has_one = self.recorded_address(service, *family).is_some();
            if has_one || service.proposed(*family).is_some() {
                continue;
            }
            match self.find_address(pool, *family, &service.age, &claim) {
                Some(address) => {
                    self.proposals.put(address, &service.age, claim.clone());
                    service.proposed.push(address);
                }
                None => missing.push(*family),
            }
        }
        let has_none = missing.len() == families.len();
        for family in missing {
            let size = self.pools.size(pool, family);
            if size > 0 || *needs_all || has_none {
                service.unallocated.push(no_address(pool, family, size));
                self.unallocated.insert(service.age.key.clone());
            }
        }
        retries.retain(|key| *key != service.age.key);
        retries
    }

    /// Returns the address of the family that the Service claims and has. The addresses of the
    /// Service must come from a pool: then the Service claims only addresses that its status
    /// records.
    pub(super) fn recorded_address(
        &self,
        service: &ServiceState,
        family: AddressFamily,
    ) -> Option<IpAddr> {
        let mut recorded = service.claimed.iter().copied();
        recorded.find(|address| {
            AddressFamily::of(*address) == family
                && self.claims.verdict(*address, &service.age).is_ok()
        })
    }

    /// Removes proposals for families whose address the status now records, proposals that conflict
    /// with a claim or another proposal, and proposals that the Service no longer requests. Returns
    /// the Services whose allocation must be retried, because an address was released.
    fn drop_obsolete_proposals(&mut self, service: &mut ServiceState) -> Vec<ObjectKey> {
        let claim = service.claim();
        let mut proposed = std::mem::take(&mut service.proposed);
        let mut affected = Vec::new();
        proposed.retain(|address| {
            let family = AddressFamily::of(*address);
            let is_requested = match service.spec.as_ref().map(|spec| &spec.source) {
                Some(AddressSource::Pool { name, families, .. }) => {
                    families.contains(&family)
                        && self.pools.contain(name.as_deref(), *address)
                        && self.recorded_address(service, family).is_none()
                }
                Some(AddressSource::Given(_)) | None => false,
            };
            let is_valid = is_requested && self.has_room(*address, &service.age, &claim);
            if is_valid {
                self.proposals.put(*address, &service.age, claim.clone());
            } else {
                self.proposals.remove(*address, &service.age);
                affected.extend(self.release(*address));
            }
            is_valid
        });
        service.proposed = proposed;
        affected
    }

    /// Returns the lowest address of the pool that the Service can share with other Services. If
    /// there is none, returns the lowest address without a claim or proposal in the first prefix
    /// that has such an address. If `pool` is `None`, all pools are searched.
    fn find_address(
        &mut self,
        pool: Option<&str>,
        family: AddressFamily,
        age: &Age,
        claim: &AddressClaim,
    ) -> Option<IpAddr> {
        if claim.share_key.is_some() {
            let shared = self
                .claims
                .sharing(claim)
                .chain(self.proposals.sharing(claim));
            let fitting = shared.filter(|address| {
                AddressFamily::of(*address) == family
                    && self.pools.contain(pool, *address)
                    && self.has_room(*address, age, claim)
            });
            if let Some(address) = fitting.min() {
                return Some(address);
            }
        }
        let Self {
            claims,
            proposals,
            pools,
            reserved,
            unallocated: _,
        } = self;
        let is_taken = |address| {
            claims.contains(address) || proposals.contains(address) || reserved.contains(&address)
        };
        pools.lowest_free(pool, family, is_taken)
    }

    fn has_room(&self, address: IpAddr, age: &Age, claim: &AddressClaim) -> bool {
        [&self.claims, &self.proposals]
            .iter()
            .all(|claims| claims.has_room(address, age, claim))
    }

    /// Marks an address as free in its pool. Returns the Services that lack an address, because
    /// their allocation must be retried.
    fn release(&mut self, address: IpAddr) -> Vec<ObjectKey> {
        self.pools.release(address);
        self.unallocated.iter().cloned().collect()
    }

    fn claimants_of(&self, address: IpAddr) -> Vec<ObjectKey> {
        let claimants = self.claims.claimants(address);
        let claimants_of = claimants.chain(self.proposals.claimants(address));
        claimants_of.map(|age| age.key.clone()).collect()
    }
}

fn no_address(pool: Option<&str>, family: AddressFamily, size: u128) -> Finding {
    let pools = match pool {
        Some(pool) => format!("address pool {pool}"),
        None => "the address pools".to_owned(),
    };
    let message = if size == 0 {
        format!(
            "no {family} address: pod-watcher has none in {pools}; start it with an \
             --address-pool of that family, or write the annotation portlb.io/address"
        )
    } else {
        format!(
            "no {family} address: none of the {size} in {pools} is free; give the pool another \
             prefix, delete a Service, or write the annotation portlb.io/address"
        )
    };
    Finding::new(Reason::NoAddress, message)
}
