//! Manifests of Services, checked before a cluster sees them by the code that will judge them
//! there.

use std::{collections::BTreeMap, io::Write, path::PathBuf, process::ExitCode};

use crate::{
    kubernetes::{
        annotations,
        catalog::Catalog,
        finding::Finding,
        intent,
        manifests::{self, Manifest, Object, Place},
        model::{ObjectKey, PREFIX, Service},
        settings::{AddressPool, Settings},
    },
    render,
};

/// Exit code of what cannot be used.
const UNUSABLE: u8 = 2;

/// What the check of some files has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What keeps something from being served as it is written; one line each.
    pub errors: Vec<String>,
    /// What else their owners should know.
    pub remarks: Vec<String>,
    /// How many Services of ours there are.
    pub services: usize,
}

/// Checks the files and says what was found on standard error: 0 without errors, otherwise 2.
#[must_use]
pub fn run(paths: &[PathBuf], settings: Settings) -> ExitCode {
    let report = check(paths, settings);
    for line in report.errors.iter().chain(&report.remarks) {
        say(line);
    }
    match (report.errors.len(), report.services) {
        (0, 0) => say("there is no Service of this class in the files"),
        (0, 1) => say("the Service can be served"),
        (0, services) => say(&format!("all {services} Services can be served")),
        (1, _) => say("1 error"),
        (errors, _) => say(&format!("{errors} errors")),
    }
    if report.errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(UNUSABLE)
    }
}

/// To standard error; nobody is left to tell if it is closed.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Checks the files. Address pools that are not in the settings are taken to exist.
#[must_use]
pub fn check(paths: &[PathBuf], settings: Settings) -> Report {
    let (manifests, errors) = manifests::read(paths);
    let mut report = judge(manifests, settings);
    report
        .errors
        .splice(0..0, errors.iter().map(ToString::to_string));
    report
}

fn judge(manifests: Vec<Manifest>, mut settings: Settings) -> Report {
    settings.scopes.clear();
    if settings.pools.is_empty() {
        settings.pools = assumed_pools(&manifests);
    }
    let mut report = Report::default();
    let mut places: BTreeMap<ObjectKey, Place> = BTreeMap::new();
    let mut catalog = Catalog::new(settings.clone());
    for Manifest { place, object } in manifests {
        match &object {
            Object::Service(service) => {
                if let Some(why) = nobody_serves(service, &settings) {
                    let at = place.at(PREFIX);
                    report
                        .errors
                        .push(format!("{at}: Service {}: {why}", service.key));
                }
                // The same Service of another overlay is judged by itself.
                if places.contains_key(&service.key) {
                    if intent::is_ours(service, &settings) {
                        report.services += 1;
                        let judgement = intent::of_service(service, &settings);
                        let errors = judgement.intent.err().unwrap_or_default();
                        for finding in errors.iter().chain(&judgement.remarks) {
                            report.add(&place, &service.key, finding);
                        }
                    }
                    continue;
                }
                places.insert(service.key.clone(), place);
            }
            Object::EndpointSlice(slice) => {
                report.add_refusals(&place, "EndpointSlice", &slice.key, &slice.annotations);
            }
            Object::Pod(pod) => {
                report.add_refusals(&place, "Pod", &pod.key, &pod.annotations);
            }
        }
        catalog.handle(render::input(object));
    }
    render::settle(&mut catalog);
    for (key, view) in catalog.views() {
        report.services += 1;
        let Some(place) = places.get(key) else {
            continue;
        };
        // What its slices and pods say has been told at their own places.
        let is_its_own = |finding: &&Finding| {
            let message = &finding.message;
            !message.starts_with("EndpointSlice ") && !message.starts_with("Pod ")
        };
        for finding in view.findings.iter().filter(is_its_own) {
            report.add(place, key, finding);
        }
    }
    report
}

impl Report {
    fn add(&mut self, place: &Place, key: &ObjectKey, finding: &Finding) {
        let message = &finding.message;
        let place = place.at(manifests::subject(message));
        let line = format!("{place}: Service {key}: {message}");
        if finding.reason.is_error() {
            self.errors.push(line);
        } else {
            self.remarks.push(line);
        }
    }

    fn add_refusals(
        &mut self,
        place: &Place,
        kind: &str,
        key: &ObjectKey,
        its: &crate::kubernetes::model::Annotations,
    ) {
        for refusal in annotations::refusals_of_real_server(its) {
            let place = place.at(PREFIX);
            self.errors
                .push(format!("{place}: {kind} {key}: {refusal}"));
        }
    }
}

/// Why nobody serves a Service that speaks to us.
fn nobody_serves(service: &Service, settings: &Settings) -> Option<String> {
    let speaks_to_us = !service.annotations.is_empty();
    let is_of_another =
        service.load_balancer_class.is_some() || intent::annotated_class(service).is_some();
    if !speaks_to_us || is_of_another || intent::is_ours(service, settings) {
        return None;
    }
    let class = &settings.load_balancer_class;
    Some(format!(
        "has annotations {PREFIX}, but no class, so that nobody serves it; write spec.type: \
         LoadBalancer and spec.loadBalancerClass: {class}, or for a Service of another type the \
         annotation {PREFIX}load-balancer-class: {class}"
    ))
}

/// Pools of every name that a Service asks for.
fn assumed_pools(manifests: &[Manifest]) -> Vec<AddressPool> {
    let mut names = vec![String::new()];
    for manifest in manifests {
        if let Object::Service(service) = &manifest.object {
            let pool = service
                .annotations
                .iter()
                .find(|(name, _)| &**name == "address-pool");
            names.extend(pool.map(|(_, name)| name.trim().to_owned()));
        }
    }
    names.sort();
    names.dedup();
    // Reserved for benchmarks and documentation, RFC 2544 and RFC 3849; split so that no two overlap.
    let pools = names
        .into_iter()
        .zip(0_u8..=255)
        .map(|(name, index)| AddressPool {
            name,
            prefixes: [
                format!("198.18.{index}.0/24"),
                format!("2001:db8:{index:x}::/48"),
            ]
            .iter()
            .map(|prefix| prefix.parse().expect("a prefix"))
            .collect(),
        });
    pools.collect()
}

#[cfg(test)]
mod tests;
