//! Who has an address, and who gets one.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    super::{
        addresses::{Age, Claim, Claims, Pools},
        finding::{Finding, Reason},
        model::{Family, ObjectKey},
        service_spec::AddressSource,
        settings::AddressPool,
    },
    record::KnownService,
};

/// Claims, pools, and what of them has been promised.
#[derive(Debug)]
pub(super) struct Allocator {
    claims: Claims,
    pools: Pools,
    /// Addresses that no Service may have.
    reserved: BTreeSet<IpAddr>,
    /// Addresses that are given away but are not kept by a status yet.
    proposals: Claims,
    /// Services that no pool has an address for.
    starved: BTreeSet<ObjectKey>,
}

impl Allocator {
    /// Nothing given away.
    pub(super) fn new(pools: &[AddressPool], reserved: &BTreeSet<IpAddr>) -> Self {
        Self {
            claims: Claims::default(),
            pools: Pools::new(pools),
            reserved: reserved.clone(),
            proposals: Claims::default(),
            starved: BTreeSet::new(),
        }
    }

    /// Who claims what.
    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What may be given away.
    pub(super) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Whether no Service may have the address.
    pub(super) fn is_reserved(&self, address: IpAddr) -> bool {
        self.reserved.contains(&address)
    }

    /// Adds or replaces a claim; the Services that this touches.
    pub(super) fn claim(&mut self, address: IpAddr, age: &Age, claim: Claim) -> Vec<ObjectKey> {
        if !self.claims.put(address, age, claim) {
            return Vec::new();
        }
        self.concerned(address)
    }

    /// Takes a claim back; the Services that this touches.
    pub(super) fn unclaim(&mut self, address: IpAddr, age: &Age) -> Vec<ObjectKey> {
        if !self.claims.remove(address, age) {
            return Vec::new();
        }
        let mut touched = self.concerned(address);
        touched.extend(self.release(address));
        touched
    }

    /// The Service is gone, and with it what was promised to it.
    pub(super) fn forget(&mut self, known: &KnownService) -> Vec<ObjectKey> {
        self.starved.remove(&known.age.key);
        let mut touched = Vec::new();
        for address in &known.proposed {
            self.proposals.remove(*address, &known.age);
            touched.extend(self.release(*address));
        }
        touched
    }

    /// Finds an address of a pool for each family that has none; the Services to try again.
    pub(super) fn allocate(&mut self, known: &mut KnownService) -> Vec<ObjectKey> {
        let mut retry = self.forget_fulfilled(known);
        known.starved.clear();
        self.starved.remove(&known.age.key);
        let claim = known.claim();
        let Some(AddressSource::Pool {
            name,
            families,
            needs_all,
        }) = known.spec.as_ref().map(|spec| &spec.source)
        else {
            return retry;
        };
        let pool = name.as_deref();
        let mut missing = Vec::new();
        for family in families {
            let has_one = self.kept(known, *family).is_some();
            if has_one || known.proposed(*family).is_some() {
                continue;
            }
            match self.find(pool, *family, &known.age, &claim) {
                Some(address) => {
                    self.proposals.put(address, &known.age, claim.clone());
                    known.proposed.push(address);
                }
                None => missing.push(*family),
            }
        }
        let has_none = missing.len() == families.len();
        for family in missing {
            let size = self.pools.size(pool, family);
            if size > 0 || *needs_all || has_none {
                known.starved.push(no_address(pool, family, size));
                self.starved.insert(known.age.key.clone());
            }
        }
        retry.retain(|key| *key != known.age.key);
        retry
    }

    /// The address of the family that the Service's status keeps, if it is the Service's.
    pub(super) fn kept(&self, known: &KnownService, family: Family) -> Option<IpAddr> {
        let mut kept = known.claimed.iter().copied();
        kept.find(|address| {
            Family::of(*address) == family && self.claims.verdict(*address, &known.age).is_ok()
        })
    }

    /// Takes back what was promised where the promise is kept, void, or not wanted any more.
    fn forget_fulfilled(&mut self, known: &mut KnownService) -> Vec<ObjectKey> {
        let claim = known.claim();
        let mut proposed = std::mem::take(&mut known.proposed);
        let mut touched = Vec::new();
        proposed.retain(|address| {
            let family = Family::of(*address);
            let is_wanted = match known.spec.as_ref().map(|spec| &spec.source) {
                Some(AddressSource::Pool { name, families, .. }) => {
                    families.contains(&family)
                        && self.pools.contain(name.as_deref(), *address)
                        && self.kept(known, family).is_none()
                }
                Some(AddressSource::Given(_)) | None => false,
            };
            let stands = is_wanted && self.has_room(*address, &known.age, &claim);
            if stands {
                self.proposals.put(*address, &known.age, claim.clone());
            } else {
                self.proposals.remove(*address, &known.age);
                touched.extend(self.release(*address));
            }
            stands
        });
        known.proposed = proposed;
        touched
    }

    /// One that the Service can share, or the lowest that nobody has.
    fn find(
        &mut self,
        pool: Option<&str>,
        family: Family,
        age: &Age,
        claim: &Claim,
    ) -> Option<IpAddr> {
        if claim.share_key.is_some() {
            let shared = self
                .claims
                .sharing(claim)
                .chain(self.proposals.sharing(claim));
            let fitting = shared.filter(|address| {
                Family::of(*address) == family
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
            starved: _,
        } = self;
        let is_taken = |address| {
            claims.contains(address) || proposals.contains(address) || reserved.contains(&address)
        };
        pools.lowest_free(pool, family, is_taken)
    }

    fn has_room(&self, address: IpAddr, age: &Age, claim: &Claim) -> bool {
        [&self.claims, &self.proposals]
            .iter()
            .all(|claims| claims.has_room(address, age, claim))
    }

    /// Nobody may have the address any more: those that went without are tried again.
    fn release(&mut self, address: IpAddr) -> Vec<ObjectKey> {
        self.pools.release(address);
        self.starved.iter().cloned().collect()
    }

    fn concerned(&self, address: IpAddr) -> Vec<ObjectKey> {
        let claimants = self.claims.claimants(address);
        let concerned = claimants.chain(self.proposals.claimants(address));
        concerned.map(|age| age.key.clone()).collect()
    }
}

fn no_address(pool: Option<&str>, family: Family, size: u128) -> Finding {
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
