//! Conversion of prefixes to the intervals of a set.

use ipnet::IpNet;

/// First address of an interval, and the address after its last address, as octets in network
/// order. `None`: the interval ends at the last address of the IP version.
pub(crate) type Interval = (Vec<u8>, Option<Vec<u8>>);

/// Merges the prefixes into the smallest number of intervals, in ascending order. The kernel
/// refuses overlapping intervals.
pub(crate) fn intervals(prefixes: &[IpNet]) -> Vec<Interval> {
    let v4 = prefixes.iter().any(|prefix| matches!(prefix, IpNet::V4(_)));
    let last = if v4 { u128::from(u32::MAX) } else { u128::MAX };
    let mut ranges: Vec<(u128, u128)> = prefixes.iter().map(bounds).collect();
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (start, end) in ranges {
        match merged.last_mut() {
            Some((_, previous)) if start <= previous.saturating_add(1) => {
                *previous = end.max(*previous);
            }
            Some(_) | None => merged.push((start, end)),
        }
    }
    let octets = |number: u128| number.to_be_bytes()[if v4 { 12 } else { 0 }..].to_vec();
    merged
        .into_iter()
        .map(|(start, end)| (octets(start), (end < last).then(|| octets(end + 1))))
        .collect()
}

/// Returns the first and the last address of a prefix as numbers.
fn bounds(prefix: &IpNet) -> (u128, u128) {
    match prefix {
        IpNet::V4(prefix) => (
            u128::from(u32::from(prefix.network())),
            u128::from(u32::from(prefix.broadcast())),
        ),
        IpNet::V6(prefix) => (u128::from(prefix.network()), u128::from(prefix.broadcast())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prefixes: &[&str], expected: &[(&[u8], Option<&[u8]>)]) {
        let prefixes: Vec<IpNet> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
        let expected: Vec<Interval> = expected
            .iter()
            .map(|(start, end)| (start.to_vec(), end.map(<[u8]>::to_vec)))
            .collect();
        assert_eq!(intervals(&prefixes), expected);
    }

    #[test]
    fn overlapping_and_adjacent_prefixes_become_one_interval() {
        check(
            &[
                "10.1.1.2/32",
                "10.1.1.1/32",
                "10.1.1.3/32",
                "10.1.1.0/30",
                "10.1.1.5/32",
            ],
            &[
                (&[10, 1, 1, 0], Some(&[10, 1, 1, 4])),
                (&[10, 1, 1, 5], Some(&[10, 1, 1, 6])),
            ],
        );
    }

    #[test]
    fn an_interval_up_to_the_last_address_of_the_ip_version_has_no_end() {
        check(&["255.255.255.0/24"], &[(&[255, 255, 255, 0], None)]);
        check(&["::/0"], &[(&[0; 16], None)]);
    }

    #[test]
    fn an_interval_of_a_prefix_with_host_bits_starts_at_the_network_address() {
        check(&["10.1.1.77/24"], &[(&[10, 1, 1, 0], Some(&[10, 1, 2, 0]))]);
    }
}
