//! Fields of the configuration file as written in YAML. The parent module resolves their meaning.

use std::{
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bgp_packet::Community;
use bgp_rib::{
    LocalPrefPolicy, MaximumPathsAction, MedPolicy, ReflectionPolicy, UnknownAttributes,
};
use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{
        self, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use serde_saphyr::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ReflectorDocument {
    #[expect(
        dead_code,
        reason = "only one version exists; serde rejects other names"
    )]
    api_version: DocumentVersion,
    #[expect(dead_code, reason = "only one kind exists; serde rejects other names")]
    kind: DocumentKind,
    pub(super) asn: Spanned<u32>,
    pub(super) router_id: Option<Spanned<Address4>>,
    pub(super) cluster_id: Option<Spanned<Address4>>,
    pub(super) listen: Option<Vec<Spanned<ListenEndpoint>>>,
    #[serde(default)]
    pub(super) peer_groups: Vec<Spanned<PeerGroupFields>>,
    #[serde(default)]
    pub(super) peers: Vec<Spanned<PeerFields>>,
}

#[derive(Debug, Deserialize)]
enum DocumentVersion {
    #[serde(rename = "portlb.io/v1")]
    V1,
}

#[derive(Debug, Deserialize)]
enum DocumentKind {
    RouteReflector,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct PeerGroupFields {
    pub(super) name: Spanned<String>,
    pub(super) asn: Option<Spanned<u32>>,
    pub(super) role: Option<Spanned<Role>>,
    #[serde(default)]
    pub(super) dynamic_prefixes: Vec<Spanned<Prefix>>,
    pub(super) maximum_peers: Option<Spanned<u32>>,
    pub(super) maximum_peers_per_address: Option<Spanned<u16>>,
    pub(super) families: Option<Spanned<Vec<FamilyName>>>,
    #[serde(default)]
    pub(super) add_path: AddPathName,
    pub(super) hold_time: Option<Spanned<Period>>,
    pub(super) minimum_hold_time: Option<Spanned<Period>>,
    pub(super) import_prefixes: Option<Prefixes>,
    #[serde(default)]
    pub(super) allowed_next_hops: Vec<Spanned<NextHops>>,
    #[serde(default)]
    pub(super) clients: Vec<Spanned<ClientRuleFields>>,
    pub(super) local_pref: Option<LocalPrefPolicy>,
    pub(super) med: Option<MedPolicy>,
    pub(super) communities: Option<Communities>,
    pub(super) reflection_attributes: Option<ReflectionPolicy>,
    pub(super) maximum_paths: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) maximum_paths_action: MaximumPathsAction,
    #[serde(default)]
    pub(super) unknown_attributes: UnknownAttributes,
    pub(super) export_prefixes: Option<Prefixes>,
    #[serde(default)]
    pub(super) next_hop_self: bool,
    pub(super) md5_key_file: Option<Spanned<String>>,
}

/// The rules for the announcements of clients that connect from one of `prefixes`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ClientRuleFields {
    pub(super) prefixes: Vec<Spanned<Prefix>>,
    pub(super) import_prefixes: Option<Prefixes>,
    #[serde(default)]
    pub(super) allowed_next_hops: Vec<Spanned<NextHops>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct PeerFields {
    pub(super) name: Spanned<String>,
    pub(super) address: Spanned<Address>,
    pub(super) port: Option<Spanned<u16>>,
    pub(super) local_address: Option<Spanned<Address>>,
    pub(super) group: Spanned<String>,
    #[serde(default)]
    pub(super) connection: ConnectionSide,
    pub(super) md5_key_file: Option<Spanned<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Role {
    Client,
    NonClient,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum FamilyName {
    Ipv4,
    Ipv6,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum AddPathName {
    None,
    Receive,
    Send,
    #[default]
    Both,
}

/// Either the word `all` or a list of values.
#[derive(Debug)]
pub(super) enum AllOr<T> {
    All,
    Only(Vec<T>),
}

pub(super) type Prefixes = AllOr<Spanned<PrefixRuleFields>>;
pub(super) type Communities = AllOr<CommunityText>;

/// A community, such as `64512:100`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct CommunityText(pub(super) Community);

impl TryFrom<String> for CommunityText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let community = text.parse().map(Self);
        community.map_err(|expected| format!("{text:?} is not a community; {expected}"))
    }
}

/// The sides that open TCP connections, as seen from the reflector.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum ConnectionSide {
    #[default]
    Both,
    Active,
    Passive,
}

/// An id in the form of an IPv4 address, such as `192.0.2.1`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Address4(pub(super) Ipv4Addr);

impl TryFrom<String> for Address4 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("{text:?} is not an id; write it like an IPv4 address, such as 192.0.2.1")
        })
    }
}

/// An IP address, such as `192.0.2.1` or `fd00::1`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Address(pub(super) IpAddr);

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!(
                "{text:?} is not an IP address; write one such as 192.0.2.1 or fd00::1 (names \
                 are not looked up)"
            )
        })
    }
}

/// A listen address with port, such as `0.0.0.0:179` or `[::]:179`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ListenEndpoint(pub(super) SocketAddr);

impl TryFrom<String> for ListenEndpoint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("{text:?} is not ADDRESS:PORT; write one such as 0.0.0.0:179 or \"[::]:179\"")
        })
    }
}

/// An IPv4 or IPv6 prefix, such as `10.1.1.0/24`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Prefix(pub(super) IpNet);

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        daemon_runtime::parse_prefix(&text).map(Self)
    }
}

/// Allowed next hops: the word `peer`, or a prefix.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum NextHops {
    /// The remote address of the peer's session.
    Peer,
    Within(IpNet),
}

impl TryFrom<String> for NextHops {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "peer" {
            return Ok(Self::Peer);
        }
        Prefix::try_from(text).map(|Prefix(prefix)| Self::Within(prefix))
    }
}

/// A duration with its unit, such as `9s`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Period(pub(super) Duration);

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        daemon_runtime::parse_duration(&text)
            .map(Self)
            .map_err(|expected| format!("{text:?} is not a time; {expected}"))
    }
}

/// A rule for prefixes: `10.1.1.0/24`, or `{prefix: 10.1.0.0/16, minimumLength: 24, maximumLength:
/// 32}`.
#[derive(Debug)]
pub(super) struct PrefixRuleFields {
    pub(super) prefix: IpNet,
    pub(super) minimum_length: Option<u8>,
    pub(super) maximum_length: Option<u8>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for AllOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Shape<T> {
            type Value = AllOr<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the word all, or a list")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<AllOr<T>, E> {
                if text == "all" {
                    return Ok(AllOr::All);
                }
                Err(E::custom(format!(
                    "{text:?} is not a list; write the word all, or a list such as [{text}]"
                )))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<AllOr<T>, A::Error> {
                let entries = Vec::deserialize(SeqAccessDeserializer::new(list));
                entries.map(AllOr::Only)
            }
        }

        deserializer.deserialize_any(Shape(PhantomData))
    }
}

impl<'de> Deserialize<'de> for PrefixRuleFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "camelCase")]
        struct Bounded {
            prefix: Prefix,
            minimum_length: Option<u8>,
            maximum_length: Option<u8>,
        }
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = PrefixRuleFields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a prefix such as 10.1.1.0/24, or a mapping with prefix, minimumLength and maximumLength")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PrefixRuleFields, E> {
                let Prefix(prefix) = text.to_owned().try_into().map_err(E::custom)?;
                Ok(PrefixRuleFields {
                    prefix,
                    minimum_length: None,
                    maximum_length: None,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PrefixRuleFields, A::Error> {
                let bounded = Bounded::deserialize(MapAccessDeserializer::new(map))?;
                Ok(PrefixRuleFields {
                    prefix: bounded.prefix.0,
                    minimum_length: bounded.minimum_length,
                    maximum_length: bounded.maximum_length,
                })
            }
        }
        deserializer.deserialize_any(Shape)
    }
}
