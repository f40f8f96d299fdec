//! What the fields of a peer group say of its sessions.

use std::path::Path;

use bgp_packet::{AddPathMode, Family};
use bgp_rib::{PrefixFilter, PrefixRule};
use bgp_session::FamilySettings;
use bgp_speaker::Md5Key;
use daemon_runtime::{config_file::Problem, in_words};
use serde_saphyr::Spanned;

use super::{
    document::{self, AddPath, FamilyName, Prefixes, Role},
    resolve::refuse,
};

/// A silent peer is given up after this. The 90 s that RFC 4271 section 10 suggests leave a dead
/// load-balancer pod in the router's table far too long.
const DEFAULT_HOLD_TIME_SECONDS: u16 = 9;

pub(super) fn md5_key(file: Option<&Spanned<String>>) -> Result<Option<Md5Key>, Problem> {
    let Some(file) = file else {
        return Ok(None);
    };
    let path = Path::new(&file.value);
    if !path.is_absolute() {
        // Not shown: it may be the key itself.
        let message = "md5KeyFile: this is not a whole path; write one from the root on, such as \
                       /run/secrets/bgp-tcp-md5/key";
        return Err(refuse(file, message.to_owned()));
    }
    let key = Md5Key::read(path);
    key.map(Some)
        .map_err(|problem| refuse(file, format!("md5KeyFile: {}", in_words(&problem))))
}

pub(super) fn is_client(
    entry: &Spanned<document::PeerGroup>,
    is_internal: bool,
) -> Result<bool, Problem> {
    let group = &entry.value.name.value;
    match (&entry.value.role, is_internal) {
        (Some(role), true) => Ok(role.value == Role::Client),
        (None, false) => Ok(false),
        (None, true) => {
            let message = format!(
                "role: missing in peer group `{group}`; write client for load-balancer pods (their \
                 paths go to everybody), non-client for other reflectors and routers"
            );
            Err(refuse(entry, message))
        }
        (Some(role), false) => {
            let message = format!(
                "role: peer group `{group}` is of another AS, and only internal peers have a role; \
                 leave the field out"
            );
            Err(refuse(role, message))
        }
    }
}

pub(super) fn hold_time(value: Option<&Spanned<document::Period>>) -> Result<u16, Problem> {
    let Some(value) = value else {
        return Ok(DEFAULT_HOLD_TIME_SECONDS);
    };
    let document::Period(period) = value.value;
    match u16::try_from(period.as_secs()) {
        Ok(seconds) if period.subsec_nanos() == 0 && (seconds == 0 || seconds >= 3) => Ok(seconds),
        Ok(_) | Err(_) => {
            let message = format!(
                "holdTime: {period:?} is not allowed; write whole seconds from 3s to 65535s, or \
                 0s to keep a silent peer for ever"
            );
            Err(refuse(value, message))
        }
    }
}

/// A load balancer that offers less could switch the hold timer off, and its paths would outlive it.
const DEFAULT_MINIMUM_HOLD_TIME_SECONDS: u16 = 3;

/// `hold_time` is what the group offers, in seconds.
pub(super) fn minimum_hold_time(
    value: Option<&Spanned<document::Period>>,
    hold_time: u16,
) -> Result<u16, Problem> {
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
                0 => "0s, since holdTime 0s switches the hold timer off".to_owned(),
                longest => format!(
                    "whole seconds from 3s to the {longest}s of holdTime, or 0s to let a peer \
                     switch the hold timer off"
                ),
            };
            let message = format!("minimumHoldTime: {period:?} is not allowed; write {allowed}");
            Err(refuse(value, message))
        }
    }
}

pub(super) fn families(group: &document::PeerGroup) -> Result<Vec<FamilySettings>, Problem> {
    let add_path = match group.add_path {
        AddPath::None => None,
        AddPath::Receive => Some(AddPathMode::Receive),
        AddPath::Send => Some(AddPathMode::Send),
        AddPath::Both => Some(AddPathMode::Both),
    };
    let settings = |name: &FamilyName| {
        let family = match name {
            FamilyName::Ipv4 => Family::Ipv4Unicast,
            FamilyName::Ipv6 => Family::Ipv6Unicast,
        };
        FamilySettings { family, add_path }
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
        let message = "families: write ipv4, ipv6 or both, each once".to_owned();
        return Err(refuse(families, message));
    }
    Ok(families.value.iter().map(settings).collect())
}

pub(super) fn prefix_filter(prefixes: Option<&Prefixes>) -> Result<PrefixFilter, Problem> {
    let entries = match prefixes {
        None => return Ok(PrefixFilter::none()),
        Some(Prefixes::All) => return Ok(PrefixFilter::All),
        Some(Prefixes::Only(entries)) => entries,
    };
    let rule = |entry: &Spanned<document::PrefixEntry>| {
        let document::PrefixEntry {
            prefix,
            minimum_length,
            maximum_length,
        } = entry.value;
        let minimum_length = minimum_length.unwrap_or(prefix.prefix_len());
        let maximum_length = maximum_length.unwrap_or(minimum_length);
        PrefixRule::new(prefix, minimum_length, maximum_length)
            .map_err(|problem| refuse(entry, problem.to_string()))
    };
    entries
        .iter()
        .map(rule)
        .collect::<Result<_, _>>()
        .map(PrefixFilter::Only)
}
