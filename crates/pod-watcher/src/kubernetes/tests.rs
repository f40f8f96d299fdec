//! Tests of the catalog with objects from manifests.

mod endpoints;
mod held_addresses;
mod left_out;
mod order;
mod pods_without_service;
mod service_addresses;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use expect_test::Expect;
use virtual_server::{DesiredSet, RealServerHistory};

use crate::{
    file_format,
    kubernetes::manifests::{self, Manifest, ManifestObject},
    render,
};
use service_catalog::{
    catalog::{Catalog, CatalogInput, ServiceView},
    model::{ObjectKey, ObjectKind, WatchScope},
    settings::CatalogSettings,
};

/// Returns settings with a load balancer class and otherwise defaults.
fn settings() -> CatalogSettings {
    CatalogSettings {
        load_balancer_class: "portlb.io/portlb".to_owned(),
        ..CatalogSettings::default()
    }
}

/// Returns [`settings`] with address pools, each written as `NAME=PREFIX,...`.
fn with_pools(pools: &[&str]) -> CatalogSettings {
    CatalogSettings {
        pools: pools.iter().map(|pool| pool.parse().unwrap()).collect(),
        ..settings()
    }
}

fn inputs(manifests: &str) -> Vec<CatalogInput> {
    let read = manifests::parse("test", manifests);
    let input = |manifest: Manifest| match manifest.object.unwrap() {
        ManifestObject::Service(service) => CatalogInput::Service(service),
        ManifestObject::EndpointSlice(slice) => CatalogInput::EndpointSlice(slice),
        ManifestObject::Pod(pod) => CatalogInput::Pod(pod),
        ManifestObject::Endpoints(endpoints) => panic!("{endpoints:?}"),
    };
    read.into_iter()
        .map(|manifest| input(manifest.unwrap()))
        .collect()
}

fn feed(catalog: &mut Catalog, manifests: &str) {
    for input in inputs(manifests) {
        catalog.handle(input);
    }
}

/// Returns the manifest of a Service with additional annotations and lines of its `spec`. If
/// neither the annotations nor the lines name an address, the Service has the address 10.1.1.10.
fn service(name: &str, annotations: &str, spec: &str) -> String {
    let address = if annotations.contains("address")
        || ["loadBalancerIP", "externalIPs"]
            .iter()
            .any(|field| spec.contains(field))
    {
        ""
    } else {
        "portlb.io/address: 10.1.1.10, "
    };
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop, uid: uid-{name}, annotations: {{{address}{annotations}}}}}
spec:
  type: LoadBalancer
  loadBalancerClass: portlb.io/portlb
  selector: {{app: {name}}}
{spec}"
    )
}

const PORT_80: &str = "  ports: [{port: 80}]\n";

/// Returns the manifest of an EndpointSlice of a Service. `endpoints` are addresses with
/// conditions, such as `10.0.2.4 serving,terminating`; without conditions the endpoint is ready.
fn slice(service: &str, suffix: &str, ports: &str, endpoints: &[&str]) -> String {
    let mut text = format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-{suffix}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: {}
ports: [{ports}]
endpoints:
",
        if endpoints.iter().any(|endpoint| endpoint.contains("fd00")) { "IPv6" } else { "IPv4" }
    );
    for endpoint in endpoints {
        let (address, conditions) = endpoint.split_once(' ').unwrap_or((endpoint, "ready"));
        let has = |condition: &str| conditions.split(',').any(|given| given == condition);
        text.push_str(&format!(
            "- {{addresses: ['{address}'], conditions: {{ready: {}, serving: {}, terminating: {}}}}}\n",
            has("ready"),
            has("ready") || has("serving"),
            has("terminating")
        ));
    }
    text
}

const ON_80: &str = "{name: '', port: 80}";

/// Checks that the manifests render to the expected document, followed by the findings as comments.
#[track_caller]
fn check(settings: CatalogSettings, manifests: &str, expected: Expect) {
    let mut catalog = Catalog::new(settings);
    feed(&mut catalog, manifests);
    let rendered = render::of(&mut catalog);
    let desired = catalog.desired();
    assert_eq!(desired.validate(), Ok(()));
    let mut read = file_format::parse(&rendered.document).unwrap();
    let servers = read.virtual_servers.values_mut();
    // A parsed document has positions of the real servers, and the desired set of a catalog has
    // not, so the comparison ignores the positions.
    for real_server in servers.flat_map(|server| &mut server.real_servers) {
        real_server.history = RealServerHistory::default();
    }
    assert_eq!(read, desired);
    let mut text =
        rendered
            .document
            .replacen("apiVersion: portlb.io/v1\nkind: VirtualServers\n", "", 1);
    for (key, finding) in rendered.findings {
        text.push_str(&format!("# {key}: {finding}\n"));
    }
    expected.assert_eq(&text);
}

/// A receiver that applies every output of a catalog to a desired set and to the views of Services.
#[derive(Default)]
struct TestWatcher {
    desired: DesiredSet,
    views: BTreeMap<ObjectKey, ServiceView>,
}

impl TestWatcher {
    #[track_caller]
    fn take(&mut self, catalog: &mut Catalog) -> usize {
        let output = catalog.take_output();
        let changes = output.changes.len();
        for change in output.changes {
            self.desired.apply(change);
        }
        for (key, view) in output.services {
            match view {
                Some(view) => drop(self.views.insert(key, view)),
                None => drop(self.views.remove(&key)),
            }
        }
        assert_eq!(self.desired.validate(), Ok(()));
        assert_eq!(self.desired, catalog.desired());
        let counts = catalog.counts();
        assert_eq!(counts.services, self.views.len());
        let is_bad = |view: &&ServiceView| view.findings.iter().any(|f| f.reason.is_error());
        assert_eq!(
            counts.bad_services,
            self.views.values().filter(is_bad).count()
        );
        changes
    }

    /// Returns a line for each virtual server, such as `tcp/10.1.1.10:80 mh -> 10.0.2.3 10.0.2.4`.
    fn shown(&self) -> String {
        let mut lines = String::new();
        for (id, server) in &self.desired.virtual_servers {
            let servers: Vec<String> = server
                .real_servers
                .iter()
                .map(ToString::to_string)
                .collect();
            lines.push_str(&format!(
                "{id} {} -> {}\n",
                server.scheduler.word(),
                servers.join(" ")
            ));
        }
        lines
    }

    fn findings(&self, name: &str) -> Vec<String> {
        let view = &self.views[&ObjectKey::new("shop", name)];
        view.findings.iter().map(ToString::to_string).collect()
    }
}

fn with_slice(service: &str) -> String {
    format!(
        "{service}{}",
        slice("web", "a", ON_80, &["10.0.2.3", "10.0.2.4"])
    )
}
