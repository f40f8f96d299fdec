//! Assumed address pools for a check without `--address-pool`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use virtual_server::IpNet;

use service_catalog::{model::Service, settings::AddressPool};

/// Length of 198.18.0.0/15, the prefix for benchmarks (RFC 2544). The IPv4 prefixes of the assumed
/// pools are parts of this prefix.
const BENCHMARK_PREFIX_LENGTH: u8 = 15;

/// Returns a pool for every pool name that a Service requests, and a pool without a name for the
/// Services that request no pool. Each pool has an address for every Service that can use the pool.
pub(super) fn assumed<'a>(services: impl Iterator<Item = &'a Service>) -> Vec<AddressPool> {
    let mut users: BTreeMap<String, u32> = BTreeMap::from([(String::new(), 0)]);
    for service in services {
        let mut annotations = service.annotations.iter();
        let pool = annotations.find(|(name, _)| &**name == "address-pool");
        let pool = pool.map_or("", |(_, name)| name.trim());
        *users.entry(pool.to_owned()).or_default() += 1;
    }
    // The largest pools come first, so that each pool begins at a multiple of its size.
    let mut sizes: Vec<(u32, String)> = users
        .into_iter()
        .map(|(name, users)| ((users + 2).next_power_of_two(), name))
        .collect();
    sizes.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)));
    let mut next = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    let mut pools = Vec::new();
    for ((size, name), index) in sizes.into_iter().zip(0_u16..) {
        let length = u8::try_from(size.leading_zeros() + 1).unwrap_or(BENCHMARK_PREFIX_LENGTH);
        let v4 = IpAddr::V4(Ipv4Addr::from(next));
        // 2001:db8::/32 is the prefix for documentation (RFC 3849).
        let v6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, index, 0, 0, 0, 0, 0));
        let length = length.max(BENCHMARK_PREFIX_LENGTH);
        let prefixes = [IpNet::new(v4, length), IpNet::new(v6, 48)];
        pools.push(AddressPool {
            name,
            prefixes: prefixes.into_iter().flatten().collect(),
        });
        next = next.saturating_add(size);
    }
    // The pool with the empty name becomes the first pool, which the catalog uses for Services that
    // name no pool.
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    pools
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_catalog::settings::CatalogSettings;

    fn services(pools: &[(&str, usize)]) -> Vec<Service> {
        let of_pool = |(pool, count): &(&str, usize)| {
            let service: k8s_openapi::api::core::v1::Service = Default::default();
            let mut service = crate::kubernetes::objects::service(service);
            service.annotations = Box::new([("address-pool".into(), (*pool).into())]);
            vec![service; *count]
        };
        pools.iter().flat_map(of_pool).collect()
    }

    #[test]
    fn assumed_pools_have_an_address_for_every_service_and_do_not_overlap() {
        let services = services(&[("a", 3_000), ("b", 1), ("c", 400), ("d", 62)]);
        let pools = assumed(services.iter());
        let sizes: Vec<(&str, String)> = pools
            .iter()
            .map(|pool| (pool.name.as_str(), pool.prefixes[0].to_string()))
            .collect();
        let expected = [
            ("", "198.18.18.68/31"),
            ("a", "198.18.0.0/20"),
            ("b", "198.18.18.64/30"),
            ("c", "198.18.16.0/23"),
            ("d", "198.18.18.0/26"),
        ];
        assert_eq!(
            sizes,
            expected.map(|(name, prefix)| (name, prefix.to_owned()))
        );
        let settings = CatalogSettings {
            pools,
            ..CatalogSettings::default()
        };
        assert_eq!(settings.validate(), Ok(()));
    }
}
