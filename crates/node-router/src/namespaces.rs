//! Prefixes that the load balancers of each namespace may hold.

use std::{collections::BTreeMap, str::FromStr};

use daemon_runtime::parse_prefix;
use ipnet::IpNet;

use crate::{error::HoldRefusal, policy::comma_separated};

/// Maximum length of a namespace name, which is a DNS label.
const LONGEST_NAMESPACE: usize = 63;

/// Allowed prefixes of each namespace. A pod of a namespace without an entry gets no route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespacePrefixes(BTreeMap<String, Vec<IpNet>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceEntry {
    namespace: String,
    prefixes: Vec<IpNet>,
}

impl NamespacePrefixes {
    /// Combines the entries. Each prefix must lie within an allowed prefix, because
    /// node-router refuses a hold of every other prefix.
    ///
    /// # Errors
    /// A prefix is not allowed, or a namespace has two entries. The error contains a suggestion.
    pub fn new(entries: &[NamespaceEntry], allowed: &[IpNet]) -> Result<Self, String> {
        let mut namespaces = BTreeMap::new();
        for NamespaceEntry {
            namespace,
            prefixes,
        } in entries
        {
            let outside = prefixes
                .iter()
                .find(|prefix| !allowed.iter().any(|range| range.contains(*prefix)));
            if let Some(prefix) = outside {
                return Err(format!(
                    "{prefix} of namespace {namespace} is not within a prefix of --allowed-prefixes \
                     ({}); add {prefix} to --allowed-prefixes, or remove it from this flag",
                    comma_separated(allowed)
                ));
            }
            let earlier = namespaces.insert(namespace.clone(), prefixes.clone());
            if earlier.is_some() {
                return Err(format!(
                    "namespace {namespace} has two entries; give all prefixes of this namespace in one \
                     entry, {namespace}=PREFIX,PREFIX"
                ));
            }
        }
        Ok(Self(namespaces))
    }

    /// Returns an error unless the namespace may hold the prefix.
    pub(crate) fn check(&self, namespace: &str, prefix: IpNet) -> Result<(), HoldRefusal> {
        let own = self.0.get(namespace).map_or(&[][..], Vec::as_slice);
        if own.iter().any(|range| range.contains(&prefix)) {
            return Ok(());
        }
        let allowed = if own.is_empty() {
            "none".to_owned()
        } else {
            comma_separated(own)
        };
        Err(HoldRefusal::NamespaceNotAllowed {
            namespace: namespace.to_owned(),
            prefix,
            allowed,
        })
    }
}

impl FromStr for NamespaceEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, prefixes) = text
            .split_once('=')
            .ok_or("expected NAMESPACE=PREFIX[,PREFIX...], such as web=10.1.1.0/24")?;
        let is_namespace = (1..=LONGEST_NAMESPACE).contains(&namespace.len())
            && namespace
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !namespace.starts_with('-')
            && !namespace.ends_with('-');
        if !is_namespace {
            return Err(format!(
                "{namespace:?} is not a name of a namespace; give 1 to {LONGEST_NAMESPACE} characters \
                 of a-z, 0-9 and -, such as web=10.1.1.0/24"
            ));
        }
        let prefixes = prefixes.split(',').map(|prefix| {
            parse_prefix(prefix).map_err(|problem| format!("{namespace}: {problem}"))
        });
        Ok(Self {
            namespace: namespace.to_owned(),
            prefixes: prefixes.collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(texts: &[&str]) -> Vec<NamespaceEntry> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn allowed() -> Vec<IpNet> {
        ["10.1.0.0/16", "fd00:1::/64"]
            .map(|prefix| prefix.parse().unwrap())
            .to_vec()
    }

    #[track_caller]
    fn check(namespace: &str, prefix: &str, expected: Result<(), &str>) {
        let namespaces = entries(&["web=10.1.1.0/24,fd00:1::/112", "shop=10.1.2.0/24"]);
        let namespaces = NamespacePrefixes::new(&namespaces, &allowed()).unwrap();
        let result = namespaces.check(namespace, prefix.parse().unwrap());
        match (result, expected) {
            (Ok(()), Ok(())) => {}
            (Err(refusal), Err(part)) => {
                let message = refusal.to_string();
                assert!(message.contains(part), "{message}");
                assert!(message.contains(namespace), "{message}");
            }
            (result, _) => panic!("{namespace} {prefix}: {result:?}"),
        }
    }

    #[test]
    fn a_namespace_may_hold_prefixes_within_its_own_prefixes() {
        check("web", "10.1.1.0/24", Ok(()));
        check("web", "10.1.1.10/32", Ok(()));
        check("web", "fd00:1::5/128", Ok(()));
        check("shop", "10.1.2.10/32", Ok(()));
    }

    #[test]
    fn a_prefix_of_another_namespace_and_a_wider_prefix_are_refused() {
        let of_web = "allowed for this namespace: 10.1.1.0/24, fd00:1::/112";
        check("web", "10.1.2.10/32", Err(of_web));
        check("web", "10.1.0.0/16", Err(of_web));
        check("web", "0.0.0.0/0", Err(of_web));
        check(
            "shop",
            "10.1.1.10/32",
            Err("allowed for this namespace: 10.1.2.0/24"),
        );
    }

    #[test]
    fn a_namespace_without_an_entry_may_hold_no_prefix() {
        check(
            "other",
            "10.1.1.10/32",
            Err("allowed for this namespace: none"),
        );
        check(
            "we",
            "10.1.1.10/32",
            Err("allowed for this namespace: none"),
        );
        check("", "10.1.1.10/32", Err("--namespace-prefixes"));
    }

    #[test]
    fn an_invalid_entry_is_rejected_with_a_suggestion() {
        for (text, part) in [
            ("web", "NAMESPACE=PREFIX"),
            ("=10.1.1.0/24", "not a name of a namespace"),
            ("Web=10.1.1.0/24", "not a name of a namespace"),
            ("web-=10.1.1.0/24", "not a name of a namespace"),
            ("*=10.1.1.0/24", "not a name of a namespace"),
            ("web=", "is not a prefix"),
            ("web=10.1.1.0/24,", "is not a prefix"),
            ("web=10.1.1.1/24", "write 10.1.1.0/24"),
        ] {
            let problem = text.parse::<NamespaceEntry>().unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }

    #[test]
    fn a_repeated_namespace_and_a_prefix_that_is_not_allowed_are_rejected() {
        for (texts, part) in [
            (&["web=10.1.1.0/24", "web=10.1.2.0/24"][..], "two entries"),
            (&["web=10.2.1.0/24"], "--allowed-prefixes"),
            (&["web=10.0.0.0/8"], "--allowed-prefixes"),
        ] {
            let problem = NamespacePrefixes::new(&entries(texts), &allowed()).unwrap_err();
            assert!(problem.contains(part), "{texts:?}: {problem}");
        }
    }
}
