//! Import policy of a peer group.

use bgp_rib::{
    AttributePolicy, ClientRule, CommunityPolicy, ImportPolicy, NextHopFilter, PrefixFilter,
};
use daemon_runtime::config_file::FileProblem;
use serde_saphyr::Spanned;

use super::{
    document::{self, NextHops},
    resolve::problem_at,
    session::prefix_filter,
};

pub(super) fn import_policy(
    group: &document::PeerGroupFields,
    is_client: bool,
    maximum_paths: u32,
) -> Result<ImportPolicy, FileProblem> {
    Ok(ImportPolicy {
        prefixes: prefix_filter(group.import_prefixes.as_ref())?,
        next_hops: next_hops(&group.allowed_next_hops),
        clients: group
            .clients
            .iter()
            .map(client_rule)
            .collect::<Result<_, _>>()?,
        maximum_paths: Some(maximum_paths),
        at_maximum: group.maximum_paths_action,
        unknown_attributes: group.unknown_attributes,
        attributes: attributes(group, is_client),
    })
}

/// Returns the attribute policy of the group. The default is strict for a group of clients with
/// `dynamicPrefixes`, because the attributes of such a client must not influence the decisions of
/// routers about paths of other clients.
fn attributes(group: &document::PeerGroupFields, is_client: bool) -> AttributePolicy {
    let mut policy = if is_client && !group.dynamic_prefixes.is_empty() {
        AttributePolicy::strict()
    } else {
        AttributePolicy::default()
    };
    if let Some(local_pref) = group.local_pref {
        policy.local_pref = local_pref;
    }
    if let Some(med) = group.med {
        policy.med = med;
    }
    match &group.communities {
        Some(document::Communities::All) => policy.communities = CommunityPolicy::Pass,
        Some(document::Communities::Only(communities)) => {
            let communities = communities.iter();
            let communities = communities.map(|document::CommunityText(community)| *community);
            policy.communities = CommunityPolicy::Only(communities.collect());
        }
        None => {}
    }
    if let Some(reflection) = group.reflection_attributes {
        policy.reflection = reflection;
    }
    policy
}

fn next_hops(entries: &[Spanned<NextHops>]) -> NextHopFilter {
    let mut filter = NextHopFilter::default();
    for entry in entries {
        match entry.value {
            NextHops::Peer => filter.is_peer_allowed = true,
            NextHops::Within(prefix) => filter.prefixes.push(prefix),
        }
    }
    filter
}

fn client_rule(entry: &Spanned<document::ClientRuleFields>) -> Result<ClientRule, FileProblem> {
    let rule = &entry.value;
    if rule.prefixes.is_empty() {
        let message = "clients.prefixes: the list is empty, so the entry matches no client; write \
                       prefixes with the addresses of the clients, such as 10.244.1.0/24";
        return Err(problem_at(entry, message.to_owned()));
    }
    let clients = rule.prefixes.iter();
    Ok(ClientRule {
        clients: clients.map(|document| document.value.0).collect(),
        prefixes: match &rule.import_prefixes {
            None => PrefixFilter::All,
            prefixes @ Some(_) => prefix_filter(prefixes.as_ref())?,
        },
        next_hops: next_hops(&rule.allowed_next_hops),
    })
}
