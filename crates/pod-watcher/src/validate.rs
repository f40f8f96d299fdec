//! Manifests of Services, checked before a cluster sees them by the code that will judge them
//! there.

use std::{collections::BTreeMap, io::Write, path::PathBuf, process::ExitCode};

use crate::{
    kubernetes::{
        annotations,
        catalog::Catalog,
        finding::Reason,
        intent,
        manifests::{self, Manifest, ManifestError, Object, Place},
        model::{ObjectKey, PREFIX, Service},
        settings::{AddressPool, Settings},
    },
    render,
};

/// Exit code of what cannot be used.
const UNUSABLE: u8 = 2;

/// What the check of some files has found, in the order of their documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What keeps something from being served as it is written; one line each.
    pub errors: Vec<String>,
    /// What else their owners should know.
    pub remarks: Vec<String>,
    /// How many Services of ours there are.
    pub services: usize,
    /// Those of them whose address is that of a pool, where no pool is in the settings and one was
    /// assumed.
    pub of_assumed_pools: Vec<String>,
}

/// Checks the files and says what was found on standard error: 0 without errors, otherwise 2.
#[must_use]
pub fn run(paths: &[PathBuf], settings: Settings) -> ExitCode {
    let report = check(paths, settings);
    for line in report.errors.iter().chain(&report.remarks) {
        say(line);
    }
    if let Some(note) = report.note() {
        say(&note);
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

/// Checks the files. Where the settings have no address pool, those that are asked for are assumed.
#[must_use]
pub fn check(paths: &[PathBuf], settings: Settings) -> Report {
    judge(manifests::read(paths), settings)
}

fn judge(found: Vec<Result<Manifest, ManifestError>>, mut settings: Settings) -> Report {
    settings.scopes.clear();
    let mut lines = Lines {
        are_pools_assumed: settings.pools.is_empty(),
        ..Lines::default()
    };
    if lines.are_pools_assumed {
        settings.pools = assumed_pools(&found);
    }
    let mut places: BTreeMap<ObjectKey, (usize, Place)> = BTreeMap::new();
    let mut catalog = Catalog::new(settings.clone());
    for (document, found) in found.into_iter().enumerate() {
        let Manifest { place, object } = match found {
            Ok(manifest) => manifest,
            Err(error) => {
                lines.errors.push(((document, 0), error.to_string()));
                continue;
            }
        };
        match &object {
            Object::Service(service) => {
                let key = service.key.clone();
                if let Some(why) = nobody_serves(service, &settings) {
                    lines.refuse(document, &place, &format!("Service {key}: {why}"));
                }
                // The same Service of another overlay is judged by itself.
                if places.contains_key(&key) {
                    let mut alone = Catalog::new(settings.clone());
                    alone.handle(render::input(object));
                    lines.judge(&mut alone, &BTreeMap::from([(key, (document, place))]));
                    continue;
                }
                places.insert(key, (document, place));
            }
            Object::EndpointSlice(slice) => {
                for refusal in annotations::refusals_of_real_server(&slice.annotations) {
                    let message = format!("EndpointSlice {}: {refusal}", slice.key);
                    lines.refuse(document, &place, &message);
                }
            }
            Object::Pod(pod) => {
                for refusal in annotations::refusals_of_real_server(&pod.annotations) {
                    lines.refuse(document, &place, &format!("Pod {}: {refusal}", pod.key));
                }
            }
        }
        catalog.handle(render::input(object));
    }
    lines.judge(&mut catalog, &places);
    lines.into_report()
}

/// Lines of a report, each with the number of its document and its line in the file: what is known
/// of a Service only after all have been read belongs before what is wrong with a later one.
#[derive(Default)]
struct Lines {
    errors: Vec<((usize, usize), String)>,
    remarks: Vec<((usize, usize), String)>,
    of_assumed_pools: Vec<((usize, usize), String)>,
    services: usize,
    are_pools_assumed: bool,
}

impl Lines {
    /// What a catalog says of its Services, each of which stands at one of the places.
    fn judge(&mut self, catalog: &mut Catalog, places: &BTreeMap<ObjectKey, (usize, Place)>) {
        render::settle(catalog);
        for (key, view) in catalog.views() {
            self.services += 1;
            let Some((document, place)) = places.get(key) else {
                continue;
            };
            if self.are_pools_assumed && view.is_of_pool && !view.allocation.is_empty() {
                self.of_assumed_pools
                    .push(((*document, 0), key.to_string()));
            }
            for finding in &view.findings {
                let message = &finding.message;
                // What its slices and pods say has been told at their own places.
                if message.starts_with("EndpointSlice ") || message.starts_with("Pod ") {
                    continue;
                }
                // Whether a pool has what a cluster gave is not known.
                if self.are_pools_assumed && finding.reason == Reason::AddressOutsidePools {
                    continue;
                }
                let place = place.at(manifests::subject(message));
                let line = format!("{place}: Service {key}: {message}");
                let lines = if finding.reason.is_error() {
                    &mut self.errors
                } else {
                    &mut self.remarks
                };
                lines.push(((*document, place.line()), line));
            }
        }
    }

    /// An error at the first of our annotations.
    fn refuse(&mut self, document: usize, place: &Place, message: &str) {
        let place = place.at(PREFIX);
        let line = format!("{place}: {message}");
        self.errors.push(((document, place.line()), line));
    }

    fn into_report(self) -> Report {
        let in_order = |mut lines: Vec<((usize, usize), String)>| {
            lines.sort_by_key(|(place, _)| *place);
            lines.into_iter().map(|(_, line)| line).collect()
        };
        Report {
            errors: in_order(self.errors),
            remarks: in_order(self.remarks),
            services: self.services,
            of_assumed_pools: in_order(self.of_assumed_pools),
        }
    }
}

impl Report {
    /// What the verdict leaves open, if anything.
    fn note(&self) -> Option<String> {
        let whose = match self.of_assumed_pools.as_slice() {
            [] => return None,
            [key] => format!("the Service {key} has its address"),
            [first, ..] => format!(
                "{} Services (the first is {first}) have their addresses",
                self.of_assumed_pools.len()
            ),
        };
        Some(format!(
            "note: {whose} from an assumed pool, since no --address-pool is given; give it as the \
             load balancer has it to check pools, too"
        ))
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
fn assumed_pools(found: &[Result<Manifest, ManifestError>]) -> Vec<AddressPool> {
    let mut names = vec![String::new()];
    for manifest in found.iter().flatten() {
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
