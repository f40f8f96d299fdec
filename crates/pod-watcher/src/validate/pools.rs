//! Address pools for manifests that are checked without the load balancer's own.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use virtual_server::IpNet;

use service_catalog::{model::Service, settings::AddressPool};

/// Length of the prefix that is reserved for benchmarks (RFC 2544), which the pools share.
const ALL_V4: u8 = 15;

/// A pool of every name that a Service asks for, and one for those that ask for none. Each has an
/// address for every Service that may take one.
pub(super) fn assumed<'a>(services: impl Iterator<Item = &'a Service>) -> Vec<AddressPool> {
    let mut takers: BTreeMap<String, u32> = BTreeMap::from([(String::new(), 0)]);
    for service in services {
        let mut annotations = service.annotations.iter();
        let pool = annotations.find(|(name, _)| &**name == "address-pool");
        let pool = pool.map_or("", |(_, name)| name.trim());
        *takers.entry(pool.to_owned()).or_default() += 1;
    }
    // The largest first, so that each begins at a multiple of its size.
    let mut sizes: Vec<(u32, String)> = takers
        .into_iter()
        .map(|(name, takers)| ((takers + 2).next_power_of_two(), name))
        .collect();
    sizes.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)));
    let mut next = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    let mut pools = Vec::new();
    for ((size, name), index) in sizes.into_iter().zip(0_u16..) {
        let length = u8::try_from(size.leading_zeros() + 1).unwrap_or(ALL_V4);
        let v4 = IpAddr::V4(Ipv4Addr::from(next));
        // Documentation, RFC 3849.
        let v6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, index, 0, 0, 0, 0, 0));
        let prefixes = [IpNet::new(v4, length.max(ALL_V4)), IpNet::new(v6, 48)];
        pools.push(AddressPool {
            name,
            prefixes: prefixes.into_iter().flatten().collect(),
        });
        next = next.saturating_add(size);
    }
    // The first pool is for those that name none.
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    pools
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_catalog::settings::Settings;

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
    fn every_service_finds_an_address_and_no_two_pools_overlap() {
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
        let settings = Settings {
            pools,
            ..Settings::default()
        };
        assert_eq!(settings.validate(), Ok(()));
    }
}
