//! What would be served, as a document for the file source: so that a cluster can be reproduced
//! without one.

use std::{net::IpAddr, path::PathBuf};

use crate::{
    file_format,
    kubernetes::{
        catalog::{Catalog, Input, ServiceView},
        finding::Finding,
        manifests::{self, ManifestError, Object},
        model::ObjectKey,
        settings::Settings,
    },
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
/// Everything that cannot be read.
pub fn from_manifests(
    paths: &[PathBuf],
    settings: Settings,
) -> Result<Rendered, Vec<ManifestError>> {
    let mut catalog = Catalog::new(Settings {
        scopes: Vec::new(),
        ..settings
    });
    let mut errors = Vec::new();
    for found in manifests::read(paths) {
        match found {
            Ok(manifest) => catalog.handle(input(manifest.object)),
            Err(error) => errors.push(error),
        }
    }
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

/// Takes the addresses that pools give away as kept, until none is missing.
pub(crate) fn settle(catalog: &mut Catalog) {
    loop {
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
            return;
        }
        for (key, addresses) in given {
            catalog.assume_kept(&key, &addresses);
        }
    }
}

pub(crate) fn input(object: Object) -> Input {
    match object {
        Object::Service(service) => Input::Service(service),
        Object::EndpointSlice(slice) => Input::EndpointSlice(slice),
        Object::Pod(pod) => Input::Pod(pod),
    }
}
