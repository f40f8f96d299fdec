//! Rendering of a cluster or of manifests as a file.
//!
//! With the rendered file, a load balancer outside of the cluster serves the virtual servers of the
//! cluster.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use service_catalog::{
    catalog::{Catalog, CatalogInput, ServiceView},
    finding::Finding,
    model::ObjectKey,
    settings::CatalogSettings,
};

use crate::{
    file_format,
    kubernetes::manifests::{self, Manifest, ManifestError, ManifestObject},
};

/// The virtual servers of a cluster or of manifests, with the findings about their Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Document in the format of `--file`.
    pub document: String,
    /// Findings, sorted by Service.
    pub findings: Vec<(ObjectKey, Finding)>,
}

/// Renders the objects of manifests as pod-watcher would serve them in a cluster. Services without
/// an address get addresses from the pools, as in a cluster.
///
/// # Errors
/// A file cannot be read, or the API server would refuse an object. Each problem is one string.
pub fn from_manifests(
    paths: &[PathBuf],
    settings: CatalogSettings,
) -> Result<Rendered, Vec<String>> {
    from_results(manifests::read(paths), settings)
}

/// Renders the manifests in `text` like [`from_manifests`]. `file` is the name of the file in error
/// messages.
///
/// # Errors
/// The text cannot be parsed, or the API server would refuse an object. Each problem is one string.
pub fn from_text(
    file: &str,
    text: &str,
    settings: CatalogSettings,
) -> Result<Rendered, Vec<String>> {
    from_results(manifests::parse(file, text), settings)
}

fn from_results(
    all: Vec<Result<Manifest, ManifestError>>,
    settings: CatalogSettings,
) -> Result<Rendered, Vec<String>> {
    let mut catalog = Catalog::new(CatalogSettings {
        scopes: Vec::new(),
        ..settings
    });
    let mut errors = Vec::new();
    let mut endpoints = Vec::new();
    let mut selectors = BTreeMap::new();
    for result in all {
        let manifest = match result {
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
            Some(ManifestObject::Service(service)) => {
                selectors.insert(service.key.clone(), service.has_selector);
                catalog.handle(CatalogInput::Service(service));
            }
            Some(ManifestObject::EndpointSlice(slice)) => {
                catalog.handle(CatalogInput::EndpointSlice(slice))
            }
            Some(ManifestObject::Endpoints(object)) => endpoints.push(object),
            Some(ManifestObject::Pod(pod)) => catalog.handle(CatalogInput::Pod(pod)),
            None => {}
        }
    }
    let mirrored = manifests::mirror(endpoints, &selectors);
    // An object of kind Endpoints that a cluster does not mirror has no effect, because pod-watcher
    // reads only EndpointSlices.
    let slices = mirrored.into_iter().filter_map(|(_, slices)| slices.ok());
    slices
        .flatten()
        .for_each(|slice| catalog.handle(CatalogInput::EndpointSlice(slice)));
    if errors.is_empty() {
        Ok(of(&mut catalog))
    } else {
        Err(errors)
    }
}

/// Renders the objects of a catalog that has received all objects.
pub fn of(catalog: &mut Catalog) -> Rendered {
    allocate_all(catalog);
    let of_services = catalog.views().flat_map(|(key, view)| {
        let findings = view.findings.iter().cloned();
        findings.map(|finding| (key.clone(), finding))
    });
    Rendered {
        findings: of_services.collect(),
        document: file_format::render(&catalog.desired()),
    }
}

/// Gives every Service that needs an address one from the pools, and treats the address as recorded
/// in the status of the Service. Returns the number of rounds, including the last round, in which
/// no Service needed an address.
pub(crate) fn allocate_all(catalog: &mut Catalog) -> usize {
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
            catalog.assume_recorded(&key, &addresses);
        }
    }
}
