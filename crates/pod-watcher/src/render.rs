//! What would be served, as a document for the file source: so that a cluster can be reproduced
//! without one.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use service_catalog::{
    catalog::{Catalog, Input, ServiceView},
    finding::Finding,
    model::ObjectKey,
    settings::Settings,
};

use crate::{
    file_format,
    kubernetes::manifests::{self, Manifest, ManifestError, Object},
};

/// What would be served, and what there is to say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The document.
    pub document: String,
    /// What the owners of Services should know, in order.
    pub findings: Vec<(ObjectKey, Finding)>,
}

/// Renders manifests as if a cluster held them. Addresses of pools are given away as the elected
/// pod-watcher would.
///
/// # Errors
/// Everything that cannot be read, or that an API server would refuse, a line each.
pub fn from_manifests(paths: &[PathBuf], settings: Settings) -> Result<Rendered, Vec<String>> {
    from_found(manifests::read(paths), settings)
}

/// Renders the documents of a text as [`from_manifests`] renders those of a file; its name is for
/// messages.
///
/// # Errors
/// Everything that cannot be read, or that an API server would refuse, a line each.
pub fn from_text(file: &str, text: &str, settings: Settings) -> Result<Rendered, Vec<String>> {
    from_found(manifests::parse(file, text), settings)
}

fn from_found(
    all: Vec<Result<Manifest, ManifestError>>,
    settings: Settings,
) -> Result<Rendered, Vec<String>> {
    let mut catalog = Catalog::new(Settings {
        scopes: Vec::new(),
        ..settings
    });
    let mut errors = Vec::new();
    let mut endpoints = Vec::new();
    let mut selectors = BTreeMap::new();
    for found in all {
        let manifest = match found {
            Ok(manifest) => manifest,
            Err(error) => {
                errors.push(error.to_string());
                continue;
            }
        };
        let problems = manifest.problems.iter();
        errors.extend(problems.map(|problem| {
            let place = manifest.place.of(problem);
            format!("{place}: {}: {problem}", manifest.title)
        }));
        match manifest.object {
            Some(Object::Service(service)) => {
                selectors.insert(service.key.clone(), service.has_selector);
                catalog.handle(Input::Service(service));
            }
            Some(Object::EndpointSlice(slice)) => catalog.handle(Input::EndpointSlice(slice)),
            Some(Object::Endpoints(its)) => endpoints.push(its),
            Some(Object::Pod(pod)) => catalog.handle(Input::Pod(pod)),
            None => {}
        }
    }
    let mirrored = manifests::mirror(endpoints, &selectors);
    // Endpoints that no cluster mirrors are not read there either.
    let slices = mirrored.into_iter().filter_map(|(_, slices)| slices.ok());
    slices
        .flatten()
        .for_each(|slice| catalog.handle(Input::EndpointSlice(slice)));
    if errors.is_empty() {
        Ok(of(&mut catalog))
    } else {
        Err(errors)
    }
}

/// Renders what a catalog has heard, which must be everything.
pub fn of(catalog: &mut Catalog) -> Rendered {
    settle(catalog);
    let of_services = catalog.views().flat_map(|(key, view)| {
        let findings = view.findings.iter().cloned();
        findings.map(|finding| (key.clone(), finding))
    });
    Rendered {
        findings: of_services.collect(),
        document: file_format::render(&catalog.desired()),
    }
}

/// Takes the addresses that pools give away as kept, until none is missing; returns after how many
/// rounds.
pub(crate) fn settle(catalog: &mut Catalog) -> usize {
    let mut rounds = 0;
    loop {
        rounds += 1;
        catalog.take_output();
        let is_kept = |view: &ServiceView| {
            let mut given = view.allocation.iter();
            given.all(|address| view.addresses.contains(address))
        };
        let given: Vec<(ObjectKey, Vec<IpAddr>)> = catalog
            .views()
            .filter(|(_, view)| !is_kept(view))
            .map(|(key, view)| (key.clone(), view.allocation.clone()))
            .collect();
        if given.is_empty() {
            return rounds;
        }
        for (key, addresses) in given {
            catalog.assume_kept(&key, &addresses);
        }
    }
}
