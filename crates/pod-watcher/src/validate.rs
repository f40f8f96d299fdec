//! The command `validate`: checks of manifests without a cluster.
//!
//! The command checks manifests by the rules of the API server. It then gives the objects to the
//! catalog that also converts the objects of a cluster, and reports the findings of this catalog.

mod classes;
mod pools;
mod report;

use std::{collections::BTreeMap, io::Write, path::PathBuf, process::ExitCode};

pub use self::report::{MessageSeverity, ValidationMessage, ValidationReport};
use crate::{
    args::OutputFormat,
    kubernetes::manifests::{self, Endpoints, Manifest, ManifestError, ManifestObject},
    render,
};
use service_catalog::{
    annotations,
    catalog::{Catalog, CatalogInput},
    finding::{Finding, Reason, Subject},
    model::{Annotations, ObjectKey},
    settings::CatalogSettings,
};

/// Exit code if a manifest is invalid.
const UNUSABLE: u8 = 2;

/// Checks the files, and writes the report as text to standard error or as JSON to standard output.
/// Returns the exit code 0 if the files are valid, otherwise 2. With `is_strict`, a remark counts
/// as an error.
#[must_use]
pub fn run(
    paths: &[PathBuf],
    settings: CatalogSettings,
    is_strict: bool,
    format: OutputFormat,
) -> ExitCode {
    let report = check(paths, settings);
    match format {
        OutputFormat::Text => {
            let mut text: Vec<String> = report
                .messages
                .iter()
                .map(ValidationMessage::line)
                .collect();
            text.push(report.verdict(is_strict));
            text.push(String::new());
            write_to(std::io::stderr(), &text.join("\n"));
        }
        OutputFormat::Json => {
            let text = format!("{:#}\n", report.json(is_strict));
            write_to(std::io::stdout(), &text);
        }
    }
    if report.passes(is_strict) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(UNUSABLE)
    }
}

/// Writes a text to a stream. Ignores an error, because no other stream could show it.
fn write_to(mut stream: impl Write, text: &str) {
    let _ = stream.write_all(text.as_bytes());
}

/// Checks the manifests in the files. If the settings have no address pool, the check assumes the
/// pools that the Services name.
#[must_use]
pub fn check(paths: &[PathBuf], settings: CatalogSettings) -> ValidationReport {
    check_manifests(manifests::read(paths), settings)
}

/// Checks the manifests in `text` like [`check`]. `file` is the name of the file in messages.
#[must_use]
pub fn check_text(file: &str, text: &str, settings: CatalogSettings) -> ValidationReport {
    check_manifests(manifests::parse(file, text), settings)
}

fn check_manifests(
    results: Vec<Result<Manifest, ManifestError>>,
    mut settings: CatalogSettings,
) -> ValidationReport {
    settings.scopes.clear();
    let are_pools_assumed = settings.pools.is_empty();
    if are_pools_assumed {
        let services = results.iter().flatten().filter_map(Manifest::service);
        settings.pools = pools::assumed(services);
    }
    let mut validation = Validation {
        are_pools_assumed,
        catalog: Catalog::new(settings.clone()),
        single_service_catalog: Catalog::new(settings.clone()),
        settings,
        report: ValidationReport::default(),
        services: BTreeMap::new(),
        selectors: BTreeMap::new(),
        endpoints: Vec::new(),
        unchecked: UncheckedServices::default(),
    };
    for result in results {
        match result {
            Ok(manifest) => validation.take(manifest),
            Err(ManifestError { place, message }) => {
                validation.report.messages.push(ValidationMessage {
                    severity: MessageSeverity::Error,
                    place: Some(place),
                    object: String::new(),
                    reason: None,
                    field: String::new(),
                    text: message,
                })
            }
        }
    }
    validation.into_report()
}

/// Names of the Services for which a check was not possible, listed by the reason. The report has a
/// note for each reason.
#[derive(Default)]
struct UncheckedServices {
    /// Services with an address from an assumed pool.
    assumed_pool: Vec<String>,
    /// Services with an address of which `validate` does not know whether it is allowed, because
    /// the settings have no allowed prefixes.
    unknown_prefixes: Vec<String>,
    /// Services without an annotation of portlb that have the class of another load balancer, or
    /// that have no class and another type than LoadBalancer.
    other_class: Vec<String>,
}

struct Validation {
    settings: CatalogSettings,
    are_pools_assumed: bool,
    /// Catalog with the objects of all manifests, except the Services that are checked in
    /// `single_service_catalog` and the Services that this load balancer does not serve.
    catalog: Catalog,
    /// Catalog for a Service that must not conflict with the Services in `catalog`: a Service that
    /// the API server would refuse, or a second manifest of a Service. The catalog has one Service
    /// at a time.
    single_service_catalog: Catalog,
    report: ValidationReport,
    /// Manifests of the Services in `catalog`.
    services: BTreeMap<ObjectKey, Manifest>,
    /// Whether each Service has a selector.
    selectors: BTreeMap<ObjectKey, bool>,
    endpoints: Vec<(Endpoints, Manifest)>,
    unchecked: UncheckedServices,
}

impl Validation {
    /// Adds a manifest, and reports the problems that do not depend on other manifests.
    fn take(&mut self, mut manifest: Manifest) {
        for problem in &manifest.problems {
            self.report.messages.push(ValidationMessage {
                severity: MessageSeverity::Error,
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
            ManifestObject::Service(service) => {
                let key = service.key.clone();
                self.selectors.insert(key.clone(), service.has_selector);
                match classes::check(&service, &self.settings) {
                    Some(problem) => return self.report_class(&manifest, problem),
                    None => self.report.services += 1,
                }
                // A Service can have several manifests, such as one in each overlay of kustomize.
                if !manifest.problems.is_empty() || self.services.contains_key(&key) {
                    let input = CatalogInput::Service(service);
                    self.check_alone(input, &BTreeMap::from([(key, manifest)]));
                } else {
                    self.catalog.handle(CatalogInput::Service(service));
                    self.services.insert(key, manifest);
                }
            }
            ManifestObject::EndpointSlice(slice) => {
                self.check_annotations(&manifest, &slice.annotations);
                if slice.service.is_none() {
                    let text = "has no label kubernetes.io/service-name, so the slice belongs to no \
                                Service; write the label with the name of the Service";
                    self.add_message(MessageSeverity::Remark, &manifest, "metadata.labels", text);
                }
                self.catalog.handle(CatalogInput::EndpointSlice(slice));
            }
            ManifestObject::Endpoints(endpoints) => self.endpoints.push((endpoints, manifest)),
            ManifestObject::Pod(pod) => {
                self.check_annotations(&manifest, &pod.annotations);
                self.catalog.handle(CatalogInput::Pod(pod));
            }
        }
    }

    /// Reports a Service that this load balancer does not serve.
    fn report_class(&mut self, manifest: &Manifest, problem: classes::ClassProblem) {
        let classes::ClassProblem {
            severity,
            field,
            text,
        } = problem;
        match severity {
            MessageSeverity::Note => self.unchecked.other_class.push(manifest.title.clone()),
            _ if is_class_in_doubt(manifest, &field) => {}
            MessageSeverity::Error | MessageSeverity::Remark => {
                let mut message = message(severity, manifest, &field, &text);
                if field.is_empty() {
                    message.place = Some(manifest.place_of_annotations());
                }
                self.report.messages.push(message);
            }
        }
    }

    fn check_annotations(&mut self, manifest: &Manifest, annotations: &Annotations) {
        for refusal in annotations::refusals_of_real_server(annotations) {
            let field = refusal.subject.to_string();
            if !manifest.is_in_doubt(&field) {
                self.add_message(
                    MessageSeverity::Error,
                    manifest,
                    &field,
                    &refusal.to_string(),
                );
            }
        }
    }

    fn add_message(
        &mut self,
        severity: MessageSeverity,
        manifest: &Manifest,
        field: &str,
        text: &str,
    ) {
        let message = message(severity, manifest, field, text);
        self.report.messages.push(message);
    }

    /// Checks one Service without the other objects of the manifests.
    fn check_alone(&mut self, input: CatalogInput, service: &BTreeMap<ObjectKey, Manifest>) {
        let catalog = &mut self.single_service_catalog;
        catalog.handle(input);
        render::allocate_all(catalog);
        let messages = catalog_messages(catalog, service, self.are_pools_assumed);
        for key in service.keys() {
            catalog.handle(CatalogInput::ServiceDeleted(key.clone()));
        }
        catalog.take_output();
        self.add(messages);
    }

    fn add(&mut self, from_catalog: CatalogMessages) {
        self.report.messages.extend(from_catalog.messages);
        let UncheckedServices {
            assumed_pool,
            unknown_prefixes,
            other_class: _,
        } = from_catalog.unchecked;
        self.unchecked.assumed_pool.extend(assumed_pool);
        if !self.settings.is_confined {
            self.unchecked.unknown_prefixes.extend(unknown_prefixes);
        }
    }

    /// Checks the objects of all manifests together, and returns the report.
    fn into_report(mut self) -> ValidationReport {
        let (endpoints, places): (Vec<Endpoints>, Vec<Manifest>) =
            std::mem::take(&mut self.endpoints).into_iter().unzip();
        let mirrored = manifests::mirror(endpoints, &self.selectors);
        for ((_, mirrored), manifest) in mirrored.into_iter().zip(places) {
            match mirrored {
                Ok(slices) => slices
                    .into_iter()
                    .for_each(|slice| self.catalog.handle(CatalogInput::EndpointSlice(slice))),
                Err(reason) => self.add_message(MessageSeverity::Remark, &manifest, "", &reason),
            }
        }
        render::allocate_all(&mut self.catalog);
        let messages = catalog_messages(&self.catalog, &self.services, self.are_pools_assumed);
        self.add(messages);
        let mut report = self.report;
        let order = |message: &ValidationMessage| (message.severity, message.place.clone());
        report.messages.sort_by_cached_key(order);
        report.messages.extend(self.unchecked.notes());
        report
    }
}

/// Reports whether another problem of the manifest can be the reason why the Service does not have
/// the class of this load balancer, such as a misspelt field.
fn is_class_in_doubt(manifest: &Manifest, field: &str) -> bool {
    let may_be_misspelt = field.is_empty() && manifest.has_unknown_field_in("spec");
    may_be_misspelt
        || ["spec.type", field]
            .iter()
            .any(|field| manifest.is_in_doubt(field))
}

fn message(
    severity: MessageSeverity,
    manifest: &Manifest,
    field: &str,
    text: &str,
) -> ValidationMessage {
    ValidationMessage {
        severity,
        place: Some(manifest.place_of(field)),
        object: manifest.title.clone(),
        reason: None,
        field: field.to_owned(),
        text: text.to_owned(),
    }
}

/// Messages about the Services of a catalog.
#[derive(Default)]
struct CatalogMessages {
    messages: Vec<ValidationMessage>,
    unchecked: UncheckedServices,
}

fn catalog_messages(
    catalog: &Catalog,
    services: &BTreeMap<ObjectKey, Manifest>,
    are_pools_assumed: bool,
) -> CatalogMessages {
    let mut result = CatalogMessages::default();
    for (key, view) in catalog.views() {
        let Some(manifest) = services.get(key) else {
            continue;
        };
        if are_pools_assumed && view.is_of_pool && !view.allocation.is_empty() {
            result.unchecked.assumed_pool.push(manifest.title.clone());
        }
        if !view.is_of_pool && !view.addresses.is_empty() {
            let title = manifest.title.clone();
            result.unchecked.unknown_prefixes.push(title);
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
                // A problem of a slice or a pod is not reported for the Service, because it is
                // reported at the place of the slice or the pod.
                Subject::ObjectBehind(_) => continue,
            };
            // The prefixes of an assumed pool are unknown, so an address cannot be outside of them.
            let is_unknown = are_pools_assumed && *reason == Reason::AddressOutsidePools;
            if is_unknown || manifest.is_in_doubt(&field) {
                continue;
            }
            let severity = if reason.is_error() {
                MessageSeverity::Error
            } else {
                MessageSeverity::Remark
            };
            result.messages.push(ValidationMessage {
                reason: Some(reason.as_str()),
                ..self::message(severity, manifest, &field, message)
            });
        }
    }
    result
}

impl UncheckedServices {
    fn notes(self) -> Vec<ValidationMessage> {
        let Self {
            assumed_pool,
            unknown_prefixes,
            other_class,
        } = self;
        let notes = [
            (
                assumed_pool,
                "the address is from an assumed pool, because --address-pool is not set; to check \
                 pools, too, set the flag to the value that the load balancer has",
            ),
            (
                unknown_prefixes,
                "not checked whether the address is allowed, because --allowed-prefixes is not set; \
                 set the flag to the value that the load balancer has",
            ),
            (
                other_class,
                "not checked, because the Service does not have the class of this load balancer",
            ),
        ];
        let note = |(titles, reason): (Vec<String>, &str)| {
            let services = match titles.as_slice() {
                [] => return None,
                [one] => one.clone(),
                [first, ..] => format!("{} Services, the first is {first}", titles.len()),
            };
            Some(ValidationMessage {
                severity: MessageSeverity::Note,
                place: None,
                object: String::new(),
                reason: None,
                field: String::new(),
                text: format!("{services}: {reason}"),
            })
        };
        notes.into_iter().filter_map(note).collect()
    }
}

#[cfg(test)]
mod tests;
