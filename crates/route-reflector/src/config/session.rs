//! Session settings of a peer group.

use std::path::Path;

use bgp_packet::{AddPathMode, Family};
use bgp_rib::{PrefixFilter, PrefixRule};
use bgp_session::OfferedFamily;
use bgp_speaker::Md5Key;
use daemon_runtime::{config_file::FileProblem, error_chain};
use serde_saphyr::Spanned;

use super::{
    document::{self, AddPathName, FamilyName, Prefixes, Role},
    resolve::problem_at,
};

/// Default hold time. It is shorter than the 90 s that RFC 4271 section 10 suggests, because a
/// failed load-balancer pod would stay in the tables of routers for the hold time.
const DEFAULT_HOLD_TIME_SECONDS: u16 = 9;

pub(super) fn md5_key(file: Option<&Spanned<String>>) -> Result<Option<Md5Key>, FileProblem> {
    let Some(file) = file else {
        return Ok(None);
    };
    let path = Path::new(&file.value);
    if !path.is_absolute() {
        // The value is not shown, because it could be the key itself.
        let message = "md5KeyFile: this is not an absolute path; write a path such as \
                       /run/secrets/bgp-tcp-md5/key";
        return Err(problem_at(file, message.to_owned()));
    }
    let key = Md5Key::read(path);
    key.map(Some)
        .map_err(|problem| problem_at(file, format!("md5KeyFile: {}", error_chain(&problem))))
}

pub(super) fn is_client(
    entry: &Spanned<document::PeerGroupFields>,
    is_internal: bool,
) -> Result<bool, FileProblem> {
    let group = &entry.value.name.value;
    match (&entry.value.role, is_internal) {
        (Some(role), true) => Ok(role.value == Role::Client),
        (None, false) => Ok(false),
        (None, true) => {
            let message = format!(
                "role: missing in peer group `{group}`; write client for load-balancer pods, whose \
                 paths are sent to all peers, or non-client for other reflectors and routers"
            );
            Err(problem_at(entry, message))
        }
        (Some(role), false) => {
            let message = format!(
                "role: peer group `{group}` belongs to another AS, and only peers of the own AS have \
                 a role; leave the field out"
            );
            Err(problem_at(role, message))
        }
    }
}

pub(super) fn hold_time(value: Option<&Spanned<document::Period>>) -> Result<u16, FileProblem> {
    let Some(value) = value else {
        return Ok(DEFAULT_HOLD_TIME_SECONDS);
    };
    let document::Period(period) = value.value;
    match u16::try_from(period.as_secs()) {
        Ok(seconds) if period.subsec_nanos() == 0 && (seconds == 0 || seconds >= 3) => Ok(seconds),
        Ok(_) | Err(_) => {
            let message = format!(
                "holdTime: {period:?} is not allowed; write whole seconds from 3s to 65535s, or \
                 0s for no hold time"
            );
            Err(problem_at(value, message))
        }
    }
}

/// Default minimum of the hold time that a dynamic peer can offer. Without a minimum, a load
/// balancer could disable the hold timer. The reflector would then keep the paths of a load
/// balancer that has failed.
const DEFAULT_MINIMUM_HOLD_TIME_SECONDS: u16 = 3;

/// Returns the minimum hold time in seconds that a dynamic peer of the group can offer. 0: the peer
/// can disable the hold timer. `hold_time` is the hold time in seconds that the reflector offers to
/// the peers of the group.
pub(super) fn minimum_hold_time(
    value: Option<&Spanned<document::Period>>,
    hold_time: u16,
) -> Result<u16, FileProblem> {
    let Some(value) = value else {
        return Ok(DEFAULT_MINIMUM_HOLD_TIME_SECONDS.min(hold_time));
    };
    let document::Period(period) = value.value;
    match u16::try_from(period.as_secs()) {
        Ok(seconds)
            if period.subsec_nanos() == 0
                && (seconds == 0 || (3..=hold_time).contains(&seconds)) =>
        {
            Ok(seconds)
        }
        Ok(_) | Err(_) => {
            let allowed = match hold_time {
                0 => "0s, because holdTime 0s disables the hold timer".to_owned(),
                longest => format!(
                    "whole seconds from 3s to the {longest}s of holdTime, or 0s to allow a peer \
                     to disable the hold timer"
                ),
            };
            let message = format!("minimumHoldTime: {period:?} is not allowed; write {allowed}");
            Err(problem_at(value, message))
        }
    }
}

pub(super) fn families(
    group: &document::PeerGroupFields,
) -> Result<Vec<OfferedFamily>, FileProblem> {
    let add_path = match group.add_path {
        AddPathName::None => None,
        AddPathName::Receive => Some(AddPathMode::Receive),
        AddPathName::Send => Some(AddPathMode::Send),
        AddPathName::Both => Some(AddPathMode::Both),
    };
    let settings = |name: &FamilyName| {
        let family = match name {
            FamilyName::Ipv4 => Family::Ipv4Unicast,
            FamilyName::Ipv6 => Family::Ipv6Unicast,
        };
        OfferedFamily { family, add_path }
    };
    let Some(families) = &group.families else {
        return Ok([FamilyName::Ipv4, FamilyName::Ipv6]
            .iter()
            .map(settings)
            .collect());
    };
    let is_unique = match families.value.as_slice() {
        [] => false,
        [first, rest @ ..] => !rest.contains(first) && rest.len() < 2,
    };
    if !is_unique {
        let message = "families: write ipv4, ipv6 or both, each at most once".to_owned();
        return Err(problem_at(families, message));
    }
    Ok(families.value.iter().map(settings).collect())
}

pub(super) fn prefix_filter(prefixes: Option<&Prefixes>) -> Result<PrefixFilter, FileProblem> {
    let entries = match prefixes {
        None => return Ok(PrefixFilter::none()),
        Some(Prefixes::All) => return Ok(PrefixFilter::All),
        Some(Prefixes::Only(entries)) => entries,
    };
    let rule = |entry: &Spanned<document::PrefixRuleFields>| {
        let document::PrefixRuleFields {
            prefix,
            minimum_length,
            maximum_length,
        } = entry.value;
        let minimum_length = minimum_length.unwrap_or(prefix.prefix_len());
        let maximum_length = maximum_length.unwrap_or(minimum_length);
        PrefixRule::new(prefix, minimum_length, maximum_length)
            .map_err(|problem| problem_at(entry, problem.to_string()))
    };
    entries
        .iter()
        .map(rule)
        .collect::<Result<_, _>>()
        .map(PrefixFilter::Only)
}
