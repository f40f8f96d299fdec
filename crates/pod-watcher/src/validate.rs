//! Manifests of Services, checked before a cluster sees them: by what its API server checks, and by
//! the code that will judge them there.

mod classes;
mod pools;
mod report;

use std::{collections::BTreeMap, io::Write, path::PathBuf, process::ExitCode};

pub use self::report::{Message, Report, Severity};
use crate::{
    args::OutputFormat,
    kubernetes::manifests::{self, Endpoints, Manifest, ManifestError, Object},
    render,
};
use service_catalog::{
    annotations,
    catalog::{Catalog, Input},
    finding::{Finding, Reason, Subject},
    model::{Annotations, ObjectKey},
    settings::Settings,
};

/// Exit code of what cannot be used.
const UNUSABLE: u8 = 2;

/// Checks the files and says what was found: as text on standard error, or as JSON on standard
/// output. Returns 0 where nothing is wrong, otherwise 2; with `is_strict` a remark is wrong, too.
#[must_use]
pub fn run(
    paths: &[PathBuf],
    settings: Settings,
    is_strict: bool,
    format: OutputFormat,
) -> ExitCode {
    let report = check(paths, settings);
    match format {
        OutputFormat::Text => {
            let mut text: Vec<String> = report.messages.iter().map(Message::line).collect();
            text.push(report.verdict(is_strict));
            text.push(String::new());
            say(std::io::stderr(), &text.join("\n"));
        }
        OutputFormat::Json => {
            let text = format!("{:#}\n", report.json(is_strict));
            say(std::io::stdout(), &text);
        }
    }
    if report.passes(is_strict) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(UNUSABLE)
    }
}

/// Nothing is left to tell if the stream is closed.
fn say(mut stream: impl Write, text: &str) {
    let _ = stream.write_all(text.as_bytes());
}

/// Checks the files. Where the settings have no address pool, those that are asked for are assumed.
#[must_use]
pub fn check(paths: &[PathBuf], settings: Settings) -> Report {
    judge(manifests::read(paths), settings)
}

/// Checks the documents of a text as [`check`] checks those of a file; its name is for messages.
#[must_use]
pub fn check_text(file: &str, text: &str, settings: Settings) -> Report {
    judge(manifests::parse(file, text), settings)
}

fn judge(found: Vec<Result<Manifest, ManifestError>>, mut settings: Settings) -> Report {
    settings.scopes.clear();
    let are_pools_assumed = settings.pools.is_empty();
    if are_pools_assumed {
        let services = found.iter().flatten().filter_map(Manifest::service);
        settings.pools = pools::assumed(services);
    }
    let mut judge = Judge {
        are_pools_assumed,
        catalog: Catalog::new(settings.clone()),
        alone: Catalog::new(settings.clone()),
        settings,
        found: Report::default(),
        services: BTreeMap::new(),
        selectors: BTreeMap::new(),
        endpoints: Vec::new(),
        open: Open::default(),
    };
    for found in found {
        match found {
            Ok(manifest) => judge.take(manifest),
            Err(ManifestError { place, message }) => judge.found.messages.push(Message {
                severity: Severity::Error,
                place: Some(place),
                object: String::new(),
                reason: None,
                field: String::new(),
                text: message,
            }),
        }
    }
    judge.into_report()
}

/// What the verdict leaves open: names of Services.
#[derive(Default)]
struct Open {
    of_assumed_pools: Vec<String>,
    of_unchecked_addresses: Vec<String>,
    not_ours: Vec<String>,
}

struct Judge {
    settings: Settings,
    are_pools_assumed: bool,
    /// All objects together.
    catalog: Catalog,
    /// One Service at a time, which is not to be seen by the others.
    alone: Catalog,
    found: Report,
    /// The Services of ours in the catalog.
    services: BTreeMap<ObjectKey, Manifest>,
    /// Whether each Service has a selector.
    selectors: BTreeMap<ObjectKey, bool>,
    endpoints: Vec<(Endpoints, Manifest)>,
    open: Open,
}

impl Judge {
    /// Takes a manifest over, and says what is wrong with it by itself.
    fn take(&mut self, mut manifest: Manifest) {
        for problem in &manifest.problems {
            self.found.messages.push(Message {
                severity: Severity::Error,
                place: Some(manifest.place.of(problem)),
                object: manifest.title.clone(),
                reason: None,
                field: problem.path.clone(),
                text: problem.to_string(),
            });
        }
        let Some(object) = manifest.object.take() else {
            return;
        };
        match object {
            Object::Service(service) => {
                let key = service.key.clone();
                self.selectors.insert(key.clone(), service.has_selector);
                match classes::judge(&service, &self.settings) {
                    Some(not_ours) => return self.leave_out(&manifest, not_ours),
                    None => self.found.services += 1,
                }
                // One that is wrong, or the same one of another overlay, is judged by itself.
                if !manifest.problems.is_empty() || self.services.contains_key(&key) {
                    let input = Input::Service(service);
                    self.judge_alone(input, &BTreeMap::from([(key, manifest)]));
                } else {
                    self.catalog.handle(Input::Service(service));
                    self.services.insert(key, manifest);
                }
            }
            Object::EndpointSlice(slice) => {
                self.check_annotations(&manifest, &slice.annotations);
                if slice.service.is_none() {
                    let text = "has no label kubernetes.io/service-name, so that it belongs to no \
                                Service; write the label with the name of the Service";
                    self.say(Severity::Remark, &manifest, "metadata.labels", text);
                }
                self.catalog.handle(Input::EndpointSlice(slice));
            }
            Object::Endpoints(endpoints) => self.endpoints.push((endpoints, manifest)),
            Object::Pod(pod) => {
                self.check_annotations(&manifest, &pod.annotations);
                self.catalog.handle(Input::Pod(pod));
            }
        }
    }

    fn leave_out(&mut self, manifest: &Manifest, not_ours: classes::NotOurs) {
        let classes::NotOurs {
            severity,
            field,
            text,
        } = not_ours;
        match severity {
            Severity::Note => self.open.not_ours.push(manifest.title.clone()),
            _ if is_class_in_doubt(manifest, &field) => {}
            Severity::Error | Severity::Remark => {
                let mut message = message(severity, manifest, &field, &text);
                if field.is_empty() {
                    message.place = Some(manifest.place_of_annotations());
                }
                self.found.messages.push(message);
            }
        }
    }

    fn check_annotations(&mut self, manifest: &Manifest, annotations: &Annotations) {
        for refusal in annotations::refusals_of_real_server(annotations) {
            let field = refusal.subject.to_string();
            if !manifest.is_in_doubt(&field) {
                self.say(Severity::Error, manifest, &field, &refusal.to_string());
            }
        }
    }

    fn say(&mut self, severity: Severity, manifest: &Manifest, field: &str, text: &str) {
        let message = message(severity, manifest, field, text);
        self.found.messages.push(message);
    }

    fn judge_alone(&mut self, input: Input, service: &BTreeMap<ObjectKey, Manifest>) {
        self.alone.handle(input);
        render::settle(&mut self.alone);
        let said = said(&self.alone, service, self.are_pools_assumed);
        for key in service.keys() {
            self.alone.handle(Input::ServiceDeleted(key.clone()));
        }
        self.alone.take_output();
        self.add(said);
    }

    fn add(&mut self, said: Said) {
        self.found.messages.extend(said.messages);
        let Open {
            of_assumed_pools,
            of_unchecked_addresses,
            not_ours: _,
        } = said.open;
        self.open.of_assumed_pools.extend(of_assumed_pools);
        if !self.settings.is_confined {
            self.open
                .of_unchecked_addresses
                .extend(of_unchecked_addresses);
        }
    }

    /// Judges all objects together.
    fn into_report(mut self) -> Report {
        let (endpoints, places): (Vec<Endpoints>, Vec<Manifest>) =
            std::mem::take(&mut self.endpoints).into_iter().unzip();
        let mirrored = manifests::mirror(endpoints, &self.selectors);
        for ((_, mirrored), manifest) in mirrored.into_iter().zip(places) {
            match mirrored {
                Ok(slices) => slices
                    .into_iter()
                    .for_each(|slice| self.catalog.handle(Input::EndpointSlice(slice))),
                Err(why) => self.say(Severity::Remark, &manifest, "", &why),
            }
        }
        render::settle(&mut self.catalog);
        let said = said(&self.catalog, &self.services, self.are_pools_assumed);
        self.add(said);
        let mut report = self.found;
        let order = |message: &Message| (message.severity, message.place.clone());
        report.messages.sort_by_cached_key(order);
        report.messages.extend(self.open.notes());
        report
    }
}

/// Whether a Service may be meant to have our class, by what is wrong with it.
fn is_class_in_doubt(manifest: &Manifest, field: &str) -> bool {
    let may_be_misspelt = field.is_empty() && manifest.has_unknown_field_in("spec");
    may_be_misspelt
        || ["spec.type", field]
            .iter()
            .any(|field| manifest.is_in_doubt(field))
}

fn message(severity: Severity, manifest: &Manifest, field: &str, text: &str) -> Message {
    Message {
        severity,
        place: Some(manifest.place_of(field)),
        object: manifest.title.clone(),
        reason: None,
        field: field.to_owned(),
        text: text.to_owned(),
    }
}

/// What a catalog says of its Services.
#[derive(Default)]
struct Said {
    messages: Vec<Message>,
    open: Open,
}

fn said(
    catalog: &Catalog,
    services: &BTreeMap<ObjectKey, Manifest>,
    are_pools_assumed: bool,
) -> Said {
    let mut said = Said::default();
    for (key, view) in catalog.views() {
        let Some(manifest) = services.get(key) else {
            continue;
        };
        if are_pools_assumed && view.is_of_pool && !view.allocation.is_empty() {
            said.open.of_assumed_pools.push(manifest.title.clone());
        }
        if !view.is_of_pool && !view.addresses.is_empty() {
            said.open
                .of_unchecked_addresses
                .push(manifest.title.clone());
        }
        for finding in &view.findings {
            let Finding {
                reason,
                message,
                subject,
                ..
            } = finding;
            let field = match subject {
                Subject::Field(_) | Subject::Annotation(_) => subject.to_string(),
                Subject::Service | Subject::Setting(_) => String::new(),
                // What its slices and pods say has been told at their own places.
                Subject::ObjectBehind(_) => continue,
            };
            // Whether a pool has what a cluster gave is not known.
            let is_open = are_pools_assumed && *reason == Reason::AddressOutsidePools;
            if is_open || manifest.is_in_doubt(&field) {
                continue;
            }
            let severity = if reason.is_error() {
                Severity::Error
            } else {
                Severity::Remark
            };
            said.messages.push(Message {
                reason: Some(reason.as_str()),
                ..self::message(severity, manifest, &field, message)
            });
        }
    }
    said
}

impl Open {
    fn notes(self) -> Vec<Message> {
        let Self {
            of_assumed_pools,
            of_unchecked_addresses,
            not_ours,
        } = self;
        let notes = [
            (
                of_assumed_pools,
                "the address is from an assumed pool, since no --address-pool is given; give it as \
                 the load balancer has it to check pools, too",
            ),
            (
                of_unchecked_addresses,
                "whether the address is allowed is not checked, since no --allowed-prefixes is \
                 given; give it as the load balancer has it",
            ),
            (
                not_ours,
                "not checked, since it is not of this load balancer's class",
            ),
        ];
        let note = |(whose, what): (Vec<String>, &str)| {
            let whose = match whose.as_slice() {
                [] => return None,
                [one] => one.clone(),
                [first, ..] => format!("{} Services, the first is {first}", whose.len()),
            };
            Some(Message {
                severity: Severity::Note,
                place: None,
                object: String::new(),
                reason: None,
                field: String::new(),
                text: format!("{whose}: {what}"),
            })
        };
        notes.into_iter().filter_map(note).collect()
    }
}

#[cfg(test)]
mod tests;
