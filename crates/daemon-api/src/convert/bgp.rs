//! Conversions of BGP attributes to messages for operators.

use bgp_packet::{Family, Origin, PathAttributes};

use crate::bgp::v1 as wire;

impl From<&PathAttributes> for wire::PathAttributes {
    fn from(attributes: &PathAttributes) -> Self {
        let origin = match attributes.origin {
            Origin::Igp => wire::Origin::Igp,
            Origin::Egp => wire::Origin::Egp,
            Origin::Incomplete => wire::Origin::Incomplete,
        };
        Self {
            origin: origin.into(),
            as_path: attributes.as_path.to_string(),
            next_hop: attributes.next_hop.to_string(),
            multi_exit_disc: attributes.multi_exit_disc,
            local_pref: attributes.local_pref,
            communities: attributes
                .communities
                .iter()
                .map(ToString::to_string)
                .collect(),
            originator_id: attributes
                .originator_id
                .map(|id| id.to_string())
                .unwrap_or_default(),
            cluster_list: attributes
                .cluster_list
                .iter()
                .map(ToString::to_string)
                .collect(),
            other_attribute_types: attributes
                .others
                .iter()
                .map(|attribute| u32::from(attribute.type_code))
                .collect(),
        }
    }
}

impl From<Family> for wire::Family {
    fn from(family: Family) -> Self {
        match family {
            Family::Ipv4Unicast => Self::Ipv4Unicast,
            Family::Ipv6Unicast => Self::Ipv6Unicast,
        }
    }
}

#[cfg(test)]
mod tests {
    use bgp_packet::{AsPath, AsPathSegment, Asn, ClusterId, Community, RouterId};

    use super::*;

    #[test]
    fn path_attributes_are_converted_to_the_text_that_routers_show() {
        let mut attributes = PathAttributes::originate([192, 0, 2, 1].into());
        attributes.as_path = AsPath {
            segments: vec![
                AsPathSegment::Sequence(vec![Asn(65001), Asn(65002)]),
                AsPathSegment::Set(vec![Asn(65003), Asn(65004)]),
            ],
        };
        attributes.local_pref = Some(0);
        attributes.communities = vec![Community::GRACEFUL_SHUTDOWN, Community(65001 << 16 | 100)];
        attributes.originator_id = Some(RouterId([10, 0, 0, 1].into()));
        attributes.cluster_list = vec![ClusterId([10, 0, 0, 2].into())];
        let expected = wire::PathAttributes {
            origin: wire::Origin::Igp.into(),
            as_path: "65001 65002 {65003 65004}".to_owned(),
            next_hop: "192.0.2.1".to_owned(),
            multi_exit_disc: None,
            local_pref: Some(0),
            communities: vec!["GRACEFUL_SHUTDOWN".to_owned(), "65001:100".to_owned()],
            originator_id: "10.0.0.1".to_owned(),
            cluster_list: vec!["10.0.0.2".to_owned()],
            other_attribute_types: Vec::new(),
        };
        assert_eq!(wire::PathAttributes::from(&attributes), expected);
    }
}
