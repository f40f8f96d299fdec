//! Who has which service address.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use virtual_server::{IpNet, Ports, Protocol};

use super::{
    model::{Family, ObjectKey},
    settings::AddressPool,
};

/// Of two Services that hold nothing, the older has what both ask for; of two of one age the first
/// by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    /// When it was created, in seconds since 1970.
    pub(super) created_seconds: i64,
    /// Namespace and name.
    pub(super) key: ObjectKey,
}

/// What a Service asks for at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The status of the Service records the address, so that no older Service takes it over.
    pub(super) holds: bool,
    /// Services that say the same may share an address.
    pub(super) share_key: Option<Box<str>>,
    /// Other namespaces whose Services may share it, if they name this one's, too.
    pub(super) share_namespaces: Box<[Box<str>]>,
    /// Ports that it wants there.
    pub(super) ports: Box<[(Protocol, Ports)]>,
}

/// Why a Service does not have an address that it claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// The address belongs to that Service.
    Address(ObjectKey),
    /// The address belongs to that Service of another namespace, and one of the two does not name
    /// the namespace of the other.
    Namespace(ObjectKey),
    /// The address is shared, and the ports belong to that Service.
    Ports(ObjectKey, Protocol, Ports),
}

/// Every claim to an address.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Holders first, then the oldest. Few share an address; a list takes less memory than a tree.
    by_address: BTreeMap<IpAddr, Vec<(Age, Claim)>>,
}

impl Claims {
    /// Adds or replaces a claim; whether anything differs.
    pub(super) fn put(&mut self, address: IpAddr, age: &Age, claim: Claim) -> bool {
        let claims = self.by_address.entry(address).or_default();
        if let Some(place) = claims.iter().position(|(other, _)| other == age) {
            if claims[place].1 == claim {
                return false;
            }
            claims.remove(place);
        }
        let is_before = |(other, its): &(Age, Claim)| (!its.holds, other) < (!claim.holds, age);
        let place = claims.partition_point(is_before);
        claims.reserve_exact(1);
        claims.insert(place, (age.clone(), claim));
        true
    }

    /// Takes a claim back; whether there was one.
    pub(super) fn remove(&mut self, address: IpAddr, age: &Age) -> bool {
        let Some(claims) = self.by_address.get_mut(&address) else {
            return false;
        };
        let before = claims.len();
        claims.retain(|(other, _)| other != age);
        let existed = claims.len() < before;
        if claims.is_empty() {
            self.by_address.remove(&address);
        }
        existed
    }

    /// Whether anyone claims it.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// All addresses that are claimed from one to another.
    pub(super) fn between(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
        self.by_address
            .range(first..=last)
            .map(|(address, _)| *address)
    }

    /// Who claims it: holders first, then the oldest.
    pub(super) fn claimants(&self, address: IpAddr) -> impl Iterator<Item = &Age> {
        self.at(address).iter().map(|(age, _)| age)
    }

    /// Addresses that are claimed with the same key.
    pub(super) fn sharing(&self, claim: &Claim) -> impl Iterator<Item = IpAddr> {
        let shares = |(_, its): &(Age, Claim)| its.share_key == claim.share_key;
        let entries = self.by_address.iter();
        let sharing = entries.filter(move |(_, claims)| claims.iter().any(shares));
        sharing.map(|(address, _)| *address)
    }

    /// Whether nobody would lose anything if the Service had the address too.
    pub(super) fn has_room(&self, address: IpAddr, age: &Age, claim: &Claim) -> bool {
        let others = self.at(address).iter().filter(|(other, _)| other != age);
        let mut conflicts = others.map(|other| conflict(&[other], age, claim));
        conflicts.all(|conflict| conflict.is_none())
    }

    /// Whether the Service has the address.
    ///
    /// # Errors
    /// Who has it instead.
    pub(super) fn verdict(&self, address: IpAddr, age: &Age) -> Result<(), Conflict> {
        let mut admitted: Vec<&(Age, Claim)> = Vec::new();
        for entry in self.at(address) {
            let conflict = conflict(&admitted, &entry.0, &entry.1);
            if entry.0 == *age {
                return conflict.map_or(Ok(()), Err);
            }
            if conflict.is_none() {
                admitted.push(entry);
            }
        }
        Ok(())
    }

    fn at(&self, address: IpAddr) -> &[(Age, Claim)] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }
}

/// Returns why a claim is not compatible with those that are admitted before it.
fn conflict(admitted: &[&(Age, Claim)], age: &Age, claim: &Claim) -> Option<Conflict> {
    let (first, its) = admitted.first()?;
    if its.share_key.is_none() || its.share_key != claim.share_key {
        return Some(Conflict::Address(first.key.clone()));
    }
    let is_barred = |(other, its): &&&(Age, Claim)| {
        !names(claim, &age.key, &other.key) || !names(its, &other.key, &age.key)
    };
    if let Some((other, _)) = admitted.iter().find(is_barred) {
        return Some(Conflict::Namespace(other.key.clone()));
    }
    admitted.iter().find_map(|(age, other)| {
        let taken = |(protocol, ports): &&(Protocol, Ports)| {
            let mut its = other.ports.iter();
            its.any(|(p, its)| p == protocol && its.overlaps(*ports))
        };
        let (protocol, ports) = claim.ports.iter().find(taken)?;
        Some(Conflict::Ports(age.key.clone(), *protocol, *ports))
    })
}

/// Whether a Service lets another one share its address. The pods that the operator serves without
/// a Service, which have no namespace, need no permission.
fn names(claim: &Claim, key: &ObjectKey, other: &ObjectKey) -> bool {
    let namespace = other.namespace();
    namespace.is_empty()
        || namespace == key.namespace()
        || claim
            .share_namespaces
            .iter()
            .any(|name| **name == *namespace)
}

/// Addresses to give away.
#[derive(Debug)]
pub(super) struct Pools {
    prefixes: Vec<Supply>,
}

/// The usable addresses of one prefix.
#[derive(Debug)]
struct Supply {
    pool: Box<str>,
    family: Family,
    first: u128,
    last: u128,
    /// Every address below it is taken.
    lowest_free: u128,
}

impl Pools {
    /// Nothing given away.
    pub(super) fn new(pools: &[AddressPool]) -> Self {
        let prefixes = pools.iter().flat_map(|pool| {
            let name = &pool.name;
            pool.prefixes
                .iter()
                .map(move |prefix| Supply::new(name, *prefix))
        });
        Self {
            prefixes: prefixes.collect(),
        }
    }

    /// Whether the address may have come from the pool, or from any where none is named.
    pub(super) fn contain(&self, pool: Option<&str>, address: IpAddr) -> bool {
        self.candidates(pool, Family::of(address))
            .any(|supply| (supply.first..=supply.last).contains(&bits(address)))
    }

    /// Whether there is a pool of that name.
    pub(super) fn know(&self, pool: &str) -> bool {
        self.prefixes.iter().any(|supply| *supply.pool == *pool)
    }

    /// How many addresses of the family there are.
    pub(super) fn size(&self, pool: Option<&str>, family: Family) -> u128 {
        let sizes = self
            .candidates(pool, family)
            .map(|supply| supply.last - supply.first);
        sizes.fold(0, |sum: u128, size| {
            sum.saturating_add(size).saturating_add(1)
        })
    }

    /// The lowest address that is not taken.
    pub(super) fn lowest_free(
        &mut self,
        pool: Option<&str>,
        family: Family,
        is_taken: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let is_candidate = |supply: &&mut Supply| supply.is_candidate(pool, family);
        for supply in self.prefixes.iter_mut().filter(is_candidate) {
            while supply.lowest_free <= supply.last {
                let address = address(supply.lowest_free, family);
                if !is_taken(address) {
                    return Some(address);
                }
                supply.lowest_free += 1;
            }
        }
        None
    }

    /// The address is free again.
    pub(super) fn release(&mut self, address: IpAddr) {
        let bits = bits(address);
        for supply in &mut self.prefixes {
            let is_within = (supply.first..=supply.last).contains(&bits);
            if supply.family == Family::of(address) && is_within {
                supply.lowest_free = supply.lowest_free.min(bits);
            }
        }
    }

    fn candidates(&self, pool: Option<&str>, family: Family) -> impl Iterator<Item = &Supply> {
        let prefixes = self.prefixes.iter();
        prefixes.filter(move |supply| supply.is_candidate(pool, family))
    }
}

impl Supply {
    /// Leaves out what routers may take for themselves or for a broadcast: the first address of a
    /// prefix (RFC 4291, section 2.6.1, for IPv6), and the last one of IPv4.
    fn new(pool: &str, prefix: IpNet) -> Self {
        let host_bits = prefix.max_prefix_len() - prefix.prefix_len();
        let family = Family::of(prefix.addr());
        let (mut first, mut last) = (bits(prefix.network()), bits(prefix.broadcast()));
        if host_bits > 1 {
            first += 1;
            match family {
                Family::V4 => last -= 1,
                Family::V6 => {}
            }
        }
        Self {
            pool: pool.into(),
            family,
            first,
            last,
            lowest_free: first,
        }
    }

    fn is_candidate(&self, pool: Option<&str>, family: Family) -> bool {
        self.family == family && pool.is_none_or(|pool| *self.pool == *pool)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(bits: u128, family: Family) -> IpAddr {
    match family {
        Family::V4 => {
            let bits = u32::try_from(bits).expect("a supply of IPv4 holds 32 bits");
            Ipv4Addr::from_bits(bits).into()
        }
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn pools(prefixes: &[&str]) -> Pools {
        Pools::new(&[AddressPool {
            name: "web".to_owned(),
            prefixes: prefixes
                .iter()
                .map(|prefix| prefix.parse().unwrap())
                .collect(),
        }])
    }

    #[track_caller]
    fn check(prefixes: &[&str], family: Family, expected: &[&str]) {
        let mut pools = pools(prefixes);
        let mut taken = BTreeSet::new();
        while let Some(address) = pools.lowest_free(None, family, |a| taken.contains(&a)) {
            assert!(pools.contain(Some("web"), address));
            taken.insert(address);
        }
        let taken: Vec<String> = taken.iter().map(ToString::to_string).collect();
        assert_eq!(taken, expected);
        assert_eq!(pools.size(None, family), expected.len() as u128);
    }

    #[test]
    fn a_pool_gives_its_addresses_from_the_lowest_but_network_and_broadcast() {
        check(&["10.1.1.0/30"], Family::V4, &["10.1.1.1", "10.1.1.2"]);
        check(&["10.1.1.0/31"], Family::V4, &["10.1.1.0", "10.1.1.1"]);
        check(
            &["10.1.1.7/32", "10.1.1.3/32"],
            Family::V4,
            &["10.1.1.3", "10.1.1.7"],
        );
        check(
            &["fd00::/126"],
            Family::V6,
            &["fd00::1", "fd00::2", "fd00::3"],
        );
        check(&["fd00::/126"], Family::V4, &[]);
    }

    #[test]
    fn an_address_that_is_free_again_is_given_again() {
        let mut pools = pools(&["10.1.1.0/30"]);
        let first = pools.lowest_free(None, Family::V4, |_| false).unwrap();
        assert_eq!(pools.lowest_free(None, Family::V4, |_| true), None);
        pools.release(first);
        assert_eq!(pools.lowest_free(None, Family::V4, |_| false), Some(first));
        assert_eq!(
            pools.lowest_free(Some("other"), Family::V4, |_| false),
            None
        );
    }

    fn age(created_seconds: i64, name: &str) -> Age {
        Age {
            created_seconds,
            key: ObjectKey::new("shop", name),
        }
    }

    fn claim(share_key: Option<&str>, port: &str) -> Claim {
        Claim {
            holds: false,
            share_key: share_key.map(Into::into),
            share_namespaces: Box::default(),
            ports: [(Protocol::Tcp, port.parse().unwrap())].into(),
        }
    }

    #[test]
    fn the_older_service_has_the_address() {
        let address = "10.1.1.10".parse().unwrap();
        let mut claims = Claims::default();
        claims.put(address, &age(2, "young"), claim(None, "80"));
        claims.verdict(address, &age(2, "young")).unwrap();
        claims.put(address, &age(1, "old"), claim(None, "443"));
        let conflict = claims.verdict(address, &age(2, "young")).unwrap_err();
        assert_eq!(conflict, Conflict::Address(ObjectKey::new("shop", "old")));
        claims.verdict(address, &age(1, "old")).unwrap();
        claims.remove(address, &age(1, "old"));
        claims.verdict(address, &age(2, "young")).unwrap();
    }

    #[test]
    fn a_holder_keeps_its_address_from_an_older_service() {
        let address = "10.1.1.10".parse().unwrap();
        let holds = |claim: Claim| Claim {
            holds: true,
            ..claim
        };
        let mut claims = Claims::default();
        claims.put(address, &age(2, "young"), claim(None, "80"));
        claims.put(address, &age(1, "old"), claim(None, "80"));
        claims.verdict(address, &age(1, "old")).unwrap();
        // What one Service holds is not decided by the order of what is learned.
        assert!(claims.put(address, &age(2, "young"), holds(claim(None, "80"))));
        claims.verdict(address, &age(2, "young")).unwrap();
        let conflict = claims.verdict(address, &age(1, "old")).unwrap_err();
        assert_eq!(conflict, Conflict::Address(ObjectKey::new("shop", "young")));
        assert!(!claims.put(address, &age(2, "young"), holds(claim(None, "80"))));
        // Between two holders age decides.
        claims.put(address, &age(1, "old"), holds(claim(None, "80")));
        claims.verdict(address, &age(1, "old")).unwrap();
        claims.verdict(address, &age(2, "young")).unwrap_err();
        let claimants: Vec<&str> = claims
            .claimants(address)
            .map(|age| age.key.name())
            .collect();
        assert_eq!(claimants, ["old", "young"]);
    }

    #[test]
    fn services_of_two_namespaces_share_an_address_only_if_each_names_the_other() {
        let address = "10.1.1.10".parse().unwrap();
        let bank = Age {
            created_seconds: 2,
            key: ObjectKey::new("bank", "b"),
        };
        let naming = |port: &str, namespaces: &[&str]| Claim {
            share_namespaces: namespaces.iter().map(|name| (*name).into()).collect(),
            ..claim(Some("k"), port)
        };
        for (shop_names, bank_names, shares) in [
            (vec![], vec![], false),
            (vec!["bank"], vec![], false),
            (vec![], vec!["shop"], false),
            (vec!["bank"], vec!["shop"], true),
        ] {
            let mut claims = Claims::default();
            claims.put(address, &age(1, "a"), naming("80", &shop_names));
            claims.put(address, &bank, naming("443", &bank_names));
            let expected = if shares {
                Ok(())
            } else {
                Err(Conflict::Namespace(ObjectKey::new("shop", "a")))
            };
            assert_eq!(claims.verdict(address, &bank), expected);
            claims.remove(address, &bank);
            let has_room = claims.has_room(address, &bank, &naming("443", &bank_names));
            assert_eq!(has_room, shares);
        }
    }

    #[test]
    fn services_with_the_same_key_share_an_address_but_no_port() {
        let address = "10.1.1.10".parse().unwrap();
        let mut claims = Claims::default();
        claims.put(address, &age(1, "a"), claim(Some("k"), "80"));
        claims.put(address, &age(2, "b"), claim(Some("k"), "79-81"));
        claims.put(address, &age(3, "c"), claim(Some("k"), "81"));
        claims.put(address, &age(4, "d"), claim(Some("other"), "82"));
        claims.put(address, &age(5, "e"), claim(None, "83"));
        let verdict = |age: &Age| claims.verdict(address, age);
        assert_eq!(verdict(&age(1, "a")), Ok(()));
        assert!(
            matches!(verdict(&age(2, "b")), Err(Conflict::Ports(with, ..)) if with.name() == "a")
        );
        // A Service that does not have the address keeps nobody else from it.
        assert_eq!(verdict(&age(3, "c")), Ok(()));
        assert!(
            matches!(verdict(&age(4, "d")), Err(Conflict::Address(with)) if with.name() == "a")
        );
        assert!(matches!(verdict(&age(5, "e")), Err(Conflict::Address(_))));
    }
}
