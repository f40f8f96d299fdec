//! The Services and EndpointSlices of the benchmark, and changes of their endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use serde_json::{Value, json};

/// The largest number of simultaneous requests.
const CONCURRENCY: usize = 16;
pub(crate) const NAMESPACE: &str = "bench";
pub(crate) const SERVICE_RANGE: &str = "10.1.0.0/16";
const PORT: u16 = 80;

/// The numbers of Services, EndpointSlices and endpoints that the benchmark creates in the API
/// server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) services: u32,
    /// EndpointSlices of each Service.
    pub(crate) slices: u32,
    /// Endpoints of each EndpointSlice.
    pub(crate) endpoints: u32,
}

/// A change of one endpoint, and the new address of the endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) service: u32,
    pub(crate) slice: u32,
    pub(crate) endpoint: u32,
    pub(crate) address: Ipv4Addr,
}

impl Scale {
    pub(crate) const fn new(services: u32, slices: u32, endpoints: u32) -> Self {
        Self {
            services,
            slices,
            endpoints,
        }
    }

    pub(crate) fn endpoints_of_a_service(&self) -> usize {
        (self.slices * self.endpoints) as usize
    }

    /// Returns `count` changes, numbered from `first`. The changes go to all Services and slices in
    /// turn. Each change has an address of its own.
    pub(crate) fn changes(&self, first: u32, count: u32) -> impl Iterator<Item = Change> {
        let Self {
            services,
            slices,
            endpoints,
        } = *self;
        (first..first + count).map(move |number| Change {
            service: number % services,
            slice: number % slices,
            endpoint: number / slices % endpoints,
            address: Ipv4Addr::from_bits(Ipv4Addr::new(10, 210, 0, 1).to_bits() + number),
        })
    }
}

impl FromStr for Scale {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let counts: Vec<u32> = text
            .split('x')
            .map(|count| count.parse().ok().filter(|count| *count > 0))
            .collect::<Option<_>>()
            .unwrap_or_default();
        match counts[..] {
            [services, slices, endpoints] => Ok(Self::new(services, slices, endpoints)),
            _ => bail!(
                "{text:?} is not a scale such as 5000x1x10: Services, slices of each Service, endpoints of each slice"
            ),
        }
    }
}

impl Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.services, self.endpoints_of_a_service())
    }
}

/// Returns the service address of a Service for portlb.
pub(crate) fn service_address(service: u32) -> SocketAddr {
    let first = Ipv4Addr::new(10, 1, 0, 1).to_bits();
    SocketAddr::new(Ipv4Addr::from_bits(first + service).into(), PORT)
}

/// Returns the ClusterIP of a Service, for kube-proxy.
pub(crate) fn cluster_address(service: u32) -> SocketAddr {
    let first = Ipv4Addr::new(10, 97, 0, 1).to_bits();
    SocketAddr::new(Ipv4Addr::from_bits(first + service).into(), PORT)
}

pub(crate) fn slice_name(service: u32, slice: u32) -> String {
    format!("web-{service}-{slice}")
}

/// Creates the namespace, all Services and all EndpointSlices.
pub(crate) async fn create(client: &kube::Client, scale: &Scale) -> Result<()> {
    post(
        client,
        "/api/v1/namespaces",
        &json!({"metadata": {"name": NAMESPACE}}),
    )
    .await?;
    let core = format!("/api/v1/namespaces/{NAMESPACE}/services");
    let discovery = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
    let services = (0..scale.services).map(|number| (&core, service(number)));
    let slices = (0..scale.services)
        .flat_map(|service| (0..scale.slices).map(move |slice| (service, slice)))
        .map(|(service, slice)| (&discovery, endpoint_slice(scale, service, slice)));
    stream::iter(services.chain(slices))
        .map(|(path, object)| async move { post(client, path, &object).await })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

/// Writes the new addresses of the changed endpoints to the API server, with several simultaneous
/// requests.
pub(crate) async fn apply(
    client: &kube::Client,
    changes: impl IntoIterator<Item = Change>,
) -> Result<()> {
    stream::iter(changes)
        .map(|change| patch(client, change))
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

async fn patch(client: &kube::Client, change: Change) -> Result<()> {
    let name = slice_name(change.service, change.slice);
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/{name}");
    let patch = json!([{
        "op": "replace",
        "path": format!("/endpoints/{}/addresses/0", change.endpoint),
        "value": change.address,
    }]);
    let request = Request::patch(path)
        .header("content-type", "application/json-patch+json")
        .body(serde_json::to_vec(&patch)?)?;
    client
        .request_text(request)
        .await
        .with_context(|| format!("cannot change {name}"))?;
    Ok(())
}

async fn post(client: &kube::Client, path: &str, object: &Value) -> Result<()> {
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(object)?)?;
    client
        .request_text(request)
        .await
        .with_context(|| format!("cannot create {}", object["metadata"]["name"]))?;
    Ok(())
}

fn service(number: u32) -> Value {
    json!({
        "metadata": {
            "name": format!("web-{number}"),
            "annotations": {
                "portlb.io/address": service_address(number).ip(),
                "portlb.io/health-check": "none",
                // `rr` is the default scheduler of kube-proxy.
                "portlb.io/scheduler": "rr",
            },
        },
        "spec": {
            "type": "LoadBalancer",
            "loadBalancerClass": "portlb.io/portlb",
            // The range of node ports is smaller than the number of Services, so no Service gets a
            // node port.
            "allocateLoadBalancerNodePorts": false,
            "clusterIP": cluster_address(number).ip(),
            "ports": [{"port": PORT, "targetPort": PORT}],
        },
    })
}

fn endpoint_slice(scale: &Scale, service: u32, slice: u32) -> Value {
    let first = Ipv4Addr::new(10, 200, 0, 1).to_bits();
    let number = (service * scale.slices + slice) * scale.endpoints;
    let endpoints = (0..scale.endpoints).map(|endpoint| {
        json!({
            "addresses": [Ipv4Addr::from_bits(first + number + endpoint)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
        })
    });
    json!({
        "metadata": {
            "name": slice_name(service, slice),
            "labels": {"kubernetes.io/service-name": format!("web-{service}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": PORT, "protocol": "TCP"}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

/// Reads the addresses of the endpoints of every Service from the API server.
pub(crate) async fn endpoints(
    client: &kube::Client,
    scale: &Scale,
) -> Result<BTreeMap<u32, BTreeSet<String>>> {
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
    let list: Value = client
        .request(Request::get(path).body(Vec::new())?)
        .await
        .context("cannot list the EndpointSlices")?;
    let mut endpoints = BTreeMap::<u32, BTreeSet<String>>::new();
    for slice in list["items"].as_array().into_iter().flatten() {
        let name = slice["metadata"]["name"].as_str().unwrap_or_default();
        let service = name
            .split('-')
            .nth(1)
            .and_then(|number| number.parse().ok());
        let service =
            service.with_context(|| format!("the EndpointSlice {name} is of another program"))?;
        let addresses = slice["endpoints"].as_array().into_iter().flatten();
        endpoints.entry(service).or_default().extend(
            addresses.filter_map(|endpoint| Some(endpoint["addresses"][0].as_str()?.to_owned())),
        );
    }
    ensure!(
        endpoints.len() == scale.services as usize,
        "the API server has endpoints of {} Services, not of {}",
        endpoints.len(),
        scale.services
    );
    Ok(endpoints)
}
