//! Claims of Services to addresses, and address pools.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use virtual_server::{AddressFamily, IpNet, Ports, Protocol};

use super::{model::ObjectKey, settings::AddressPool};

/// The creation time and the name of a Service. An address that no Service holds goes to the oldest
/// of the Services that claim the address. Of Services created in the same second, the first in the
/// order of names counts as the oldest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    pub(super) created_seconds: i64,
    pub(super) key: ObjectKey,
}

/// The claim of a Service to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddressClaim {
    /// True if the status of the Service records the address. A Service whose status does not
    /// record the address cannot take it from this Service, even if that Service is older.
    pub(super) holds: bool,
    /// Services with equal keys can share an address. `None` means that the Service shares no
    /// address.
    pub(super) share_key: Option<Box<str>>,
    /// Other namespaces whose Services can share the address with this Service. Those Services must
    /// also name the namespace of this Service.
    pub(super) share_namespaces: Box<[Box<str>]>,
    /// The ports that the Service uses at the address.
    pub(super) ports: Box<[(Protocol, Ports)]>,
}

/// The reason why a Service does not get an address that it claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// The address belongs to another Service.
    Address(ObjectKey),
    /// The address belongs to a Service of another namespace, and at least one of the two Services
    /// does not name the namespace of the other.
    Namespace(ObjectKey),
    /// The two Services could share the address, but the other Service uses at least one of these
    /// ports, which this Service claims.
    Ports(ObjectKey, Protocol, Ports),
}

/// All claims of Services to addresses.
#[derive(Debug, Default)]
pub(super) struct AddressClaims {
    /// The claims to each address in the order of precedence: claims of holders before other
    /// claims, and in both groups claims of older Services before claims of younger Services. A
    /// `Vec` needs less memory than a tree, because few Services share an address.
    by_address: BTreeMap<IpAddr, Vec<(Age, AddressClaim)>>,
}

impl AddressClaims {
    /// Adds or replaces a claim. Reports whether the claims to the address changed.
    pub(super) fn put(&mut self, address: IpAddr, age: &Age, claim: AddressClaim) -> bool {
        let claims = self.by_address.entry(address).or_default();
        if let Some(index) = claims.iter().position(|(other, _)| other == age) {
            if claims[index].1 == claim {
                return false;
            }
            claims.remove(index);
        }
        let is_before = |(other, other_claim): &(Age, AddressClaim)| {
            (!other_claim.holds, other) < (!claim.holds, age)
        };
        let index = claims.partition_point(is_before);
        claims.reserve_exact(1);
        claims.insert(index, (age.clone(), claim));
        true
    }

    /// Removes a claim. Reports whether the claim existed.
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

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// Returns all claimed addresses from `first` to `last`, both included.
    pub(super) fn between(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
        self.by_address
            .range(first..=last)
            .map(|(address, _)| *address)
    }

    /// Returns the Services that claim the address: holders first, then older Services before
    /// younger ones.
    pub(super) fn claimants(&self, address: IpAddr) -> impl Iterator<Item = &Age> {
        self.at(address).iter().map(|(age, _)| age)
    }

    /// Returns the addresses to which at least one claim has the share key of `claim`.
    pub(super) fn sharing(&self, claim: &AddressClaim) -> impl Iterator<Item = IpAddr> {
        let shares =
            |(_, other_claim): &(Age, AddressClaim)| other_claim.share_key == claim.share_key;
        let entries = self.by_address.iter();
        let sharing = entries.filter(move |(_, claims)| claims.iter().any(shares));
        sharing.map(|(address, _)| *address)
    }

    /// Reports whether the Service with this age can get the address without a conflict with the
    /// claim of any other Service.
    pub(super) fn has_room(&self, address: IpAddr, age: &Age, claim: &AddressClaim) -> bool {
        let others = self.at(address).iter().filter(|(other, _)| other != age);
        let mut conflicts = others.map(|other| conflict(&[other], age, claim));
        conflicts.all(|conflict| conflict.is_none())
    }

    /// Checks whether the Service with this age gets the address that it claims.
    ///
    /// # Errors
    ///
    /// Returns the conflict with a Service that has precedence at the address.
    pub(super) fn verdict(&self, address: IpAddr, age: &Age) -> Result<(), Conflict> {
        let mut admitted: Vec<&(Age, AddressClaim)> = Vec::new();
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

    fn at(&self, address: IpAddr) -> &[(Age, AddressClaim)] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }
}

/// Returns a conflict of `claim` with one of the claims in `admitted`, if there is one. `age` is
/// the age of the Service with `claim`.
fn conflict(
    admitted: &[&(Age, AddressClaim)],
    age: &Age,
    claim: &AddressClaim,
) -> Option<Conflict> {
    let (first, other_claim) = admitted.first()?;
    if other_claim.share_key.is_none() || other_claim.share_key != claim.share_key {
        return Some(Conflict::Address(first.key.clone()));
    }
    let lacks_permission = |(other, other_claim): &&&(Age, AddressClaim)| {
        !permits_sharing_with(claim, &age.key, &other.key)
            || !permits_sharing_with(other_claim, &other.key, &age.key)
    };
    if let Some((other, _)) = admitted.iter().find(lacks_permission) {
        return Some(Conflict::Namespace(other.key.clone()));
    }
    admitted.iter().find_map(|(age, other)| {
        let taken = |(protocol, ports): &&(Protocol, Ports)| {
            let mut other_claim = other.ports.iter();
            other_claim.any(|(p, other_claim)| p == protocol && other_claim.overlaps(*ports))
        };
        let (protocol, ports) = claim.ports.iter().find(taken)?;
        Some(Conflict::Ports(age.key.clone(), *protocol, *ports))
    })
}

/// Reports whether the claim of the Service `key` allows the Service `other` to share the address.
/// The pods that are served without a Service have an empty namespace and need no permission.
fn permits_sharing_with(claim: &AddressClaim, key: &ObjectKey, other: &ObjectKey) -> bool {
    let namespace = other.namespace();
    namespace.is_empty()
        || namespace == key.namespace()
        || claim
            .share_namespaces
            .iter()
            .any(|name| **name == *namespace)
}

/// The address pools, as a list of their prefixes. Each prefix stores a lower bound of its free
/// addresses.
#[derive(Debug)]
pub(super) struct Pools {
    prefixes: Vec<PoolPrefix>,
}

/// One prefix of a pool, reduced to its usable addresses.
#[derive(Debug)]
struct PoolPrefix {
    pool: Box<str>,
    family: AddressFamily,
    first: u128,
    last: u128,
    /// No address of the prefix below `lowest_free` is free.
    lowest_free: u128,
}

impl Pools {
    pub(super) fn new(pools: &[AddressPool]) -> Self {
        let prefixes = pools.iter().flat_map(|pool| {
            let name = &pool.name;
            pool.prefixes
                .iter()
                .map(move |prefix| PoolPrefix::new(name, *prefix))
        });
        Self {
            prefixes: prefixes.collect(),
        }
    }

    /// Reports whether the address belongs to the named pool, or to any pool if `pool` is `None`.
    pub(super) fn contain(&self, pool: Option<&str>, address: IpAddr) -> bool {
        self.candidates(pool, AddressFamily::of(address))
            .any(|pool_prefix| (pool_prefix.first..=pool_prefix.last).contains(&bits(address)))
    }

    pub(super) fn has_pool(&self, pool: &str) -> bool {
        self.prefixes
            .iter()
            .any(|pool_prefix| *pool_prefix.pool == *pool)
    }

    /// Returns the number of addresses of the family in the named pool, or in all pools if `pool`
    /// is `None`.
    pub(super) fn size(&self, pool: Option<&str>, family: AddressFamily) -> u128 {
        let sizes = self
            .candidates(pool, family)
            .map(|pool_prefix| pool_prefix.last - pool_prefix.first);
        sizes.fold(0, |sum: u128, size| {
            sum.saturating_add(size).saturating_add(1)
        })
    }

    /// Finds the first prefix with an address for which `is_taken` is false. Returns the lowest
    /// such address in this prefix.
    pub(super) fn lowest_free(
        &mut self,
        pool: Option<&str>,
        family: AddressFamily,
        is_taken: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let is_candidate = |pool_prefix: &&mut PoolPrefix| pool_prefix.is_candidate(pool, family);
        for pool_prefix in self.prefixes.iter_mut().filter(is_candidate) {
            while pool_prefix.lowest_free <= pool_prefix.last {
                let address = address(pool_prefix.lowest_free, family);
                if !is_taken(address) {
                    return Some(address);
                }
                pool_prefix.lowest_free += 1;
            }
        }
        None
    }

    /// Makes the search for a free address start at `address`, if the search would start above it.
    pub(super) fn release(&mut self, address: IpAddr) {
        let bits = bits(address);
        for pool_prefix in &mut self.prefixes {
            let is_within = (pool_prefix.first..=pool_prefix.last).contains(&bits);
            if pool_prefix.family == AddressFamily::of(address) && is_within {
                pool_prefix.lowest_free = pool_prefix.lowest_free.min(bits);
            }
        }
    }

    fn candidates(
        &self,
        pool: Option<&str>,
        family: AddressFamily,
    ) -> impl Iterator<Item = &PoolPrefix> {
        let prefixes = self.prefixes.iter();
        prefixes.filter(move |pool_prefix| pool_prefix.is_candidate(pool, family))
    }
}

impl PoolPrefix {
    /// Leaves out the first address of the prefix (the network address of IPv4, or the address of
    /// all routers in the subnet of IPv6: RFC 4291, section 2.6.1), and the last address of an IPv4
    /// prefix (broadcast). A prefix of one or two addresses keeps all addresses.
    fn new(pool: &str, prefix: IpNet) -> Self {
        let host_bits = prefix.max_prefix_len() - prefix.prefix_len();
        let family = AddressFamily::of(prefix.addr());
        let (mut first, mut last) = (bits(prefix.network()), bits(prefix.broadcast()));
        if host_bits > 1 {
            first += 1;
            match family {
                AddressFamily::V4 => last -= 1,
                AddressFamily::V6 => {}
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

    fn is_candidate(&self, pool: Option<&str>, family: AddressFamily) -> bool {
        self.family == family && pool.is_none_or(|pool| *self.pool == *pool)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(bits: u128, family: AddressFamily) -> IpAddr {
    match family {
        AddressFamily::V4 => {
            let bits = u32::try_from(bits).expect("an IPv4 pool has addresses of 32 bits");
            Ipv4Addr::from_bits(bits).into()
        }
        AddressFamily::V6 => Ipv6Addr::from_bits(bits).into(),
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
    fn check(prefixes: &[&str], family: AddressFamily, expected: &[&str]) {
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
    fn a_pool_gives_no_network_or_broadcast_address_of_a_prefix_with_more_than_two_addresses() {
        check(
            &["10.1.1.0/30"],
            AddressFamily::V4,
            &["10.1.1.1", "10.1.1.2"],
        );
        check(
            &["10.1.1.0/31"],
            AddressFamily::V4,
            &["10.1.1.0", "10.1.1.1"],
        );
        check(
            &["10.1.1.7/32", "10.1.1.3/32"],
            AddressFamily::V4,
            &["10.1.1.3", "10.1.1.7"],
        );
        check(
            &["fd00::/126"],
            AddressFamily::V6,
            &["fd00::1", "fd00::2", "fd00::3"],
        );
        check(&["fd00::/126"], AddressFamily::V4, &[]);
    }

    #[test]
    fn a_released_address_is_allocated_again() {
        let mut pools = pools(&["10.1.1.0/30"]);
        let first = pools
            .lowest_free(None, AddressFamily::V4, |_| false)
            .unwrap();
        assert_eq!(pools.lowest_free(None, AddressFamily::V4, |_| true), None);
        pools.release(first);
        assert_eq!(
            pools.lowest_free(None, AddressFamily::V4, |_| false),
            Some(first)
        );
        assert_eq!(
            pools.lowest_free(Some("other"), AddressFamily::V4, |_| false),
            None
        );
    }

    fn age(created_seconds: i64, name: &str) -> Age {
        Age {
            created_seconds,
            key: ObjectKey::new("shop", name),
        }
    }

    fn claim(share_key: Option<&str>, port: &str) -> AddressClaim {
        AddressClaim {
            holds: false,
            share_key: share_key.map(Into::into),
            share_namespaces: Box::default(),
            ports: [(Protocol::Tcp, port.parse().unwrap())].into(),
        }
    }

    #[test]
    fn an_address_without_a_holder_goes_to_the_oldest_service() {
        let address = "10.1.1.10".parse().unwrap();
        let mut claims = AddressClaims::default();
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
    fn a_holder_keeps_its_address_when_an_older_service_claims_it() {
        let address = "10.1.1.10".parse().unwrap();
        let holds = |claim: AddressClaim| AddressClaim {
            holds: true,
            ..claim
        };
        let mut claims = AddressClaims::default();
        claims.put(address, &age(2, "young"), claim(None, "80"));
        claims.put(address, &age(1, "old"), claim(None, "80"));
        claims.verdict(address, &age(1, "old")).unwrap();
        // A holder keeps the address, even if its claim is learned after the claim of an older
        // Service.
        assert!(claims.put(address, &age(2, "young"), holds(claim(None, "80"))));
        claims.verdict(address, &age(2, "young")).unwrap();
        let conflict = claims.verdict(address, &age(1, "old")).unwrap_err();
        assert_eq!(conflict, Conflict::Address(ObjectKey::new("shop", "young")));
        assert!(!claims.put(address, &age(2, "young"), holds(claim(None, "80"))));
        // Between two holders, the older one has precedence.
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
    fn services_of_two_namespaces_share_an_address_only_if_each_names_the_namespace_of_the_other() {
        let address = "10.1.1.10".parse().unwrap();
        let bank = Age {
            created_seconds: 2,
            key: ObjectKey::new("bank", "b"),
        };
        let naming = |port: &str, namespaces: &[&str]| AddressClaim {
            share_namespaces: namespaces.iter().map(|name| (*name).into()).collect(),
            ..claim(Some("k"), port)
        };
        for (shop_names, bank_names, shares) in [
            (vec![], vec![], false),
            (vec!["bank"], vec![], false),
            (vec![], vec!["shop"], false),
            (vec!["bank"], vec!["shop"], true),
        ] {
            let mut claims = AddressClaims::default();
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
    fn services_with_equal_share_keys_share_an_address_unless_their_ports_overlap() {
        let address = "10.1.1.10".parse().unwrap();
        let mut claims = AddressClaims::default();
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
        // Service b does not get the address, so its ports cause no conflict for Service c.
        assert_eq!(verdict(&age(3, "c")), Ok(()));
        assert!(
            matches!(verdict(&age(4, "d")), Err(Conflict::Address(with)) if with.name() == "a")
        );
        assert!(matches!(verdict(&age(5, "e")), Err(Conflict::Address(_))));
    }
}
