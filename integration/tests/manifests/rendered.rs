//! The output of `kubectl kustomize` for the manifests.

use std::{collections::BTreeSet, path::PathBuf, process::Command, sync::LazyLock};

use serde_json::Value;

/// The folders below `manifests/` that a user applies.
pub(crate) const APPLIED: &[&str] = &[
    "overlays/flat-l2",
    "overlays/calico",
    "overlays/cilium",
    "overlays/single-node",
    "examples/web/tunnel",
    "examples/web/masquerade",
    "examples/second-application",
];

/// The rendered objects of one folder, or of one or more components on a base.
pub(crate) struct RenderedManifests {
    pub(crate) name: String,
    pub(crate) yaml: String,
    pub(crate) objects: Vec<Value>,
}

/// The pod template of a workload.
pub(crate) struct WorkloadPod<'a> {
    /// The name that messages of the tests show, such as `overlays/flat-l2:
    /// web/Deployment/load-balancer`.
    pub(crate) name: String,
    pub(crate) kind: &'a str,
    pub(crate) spec: &'a Value,
}

/// A container or an init container of a pod.
pub(crate) struct Container<'a> {
    /// The name that messages of the tests show: the name of the pod and the name of the container.
    pub(crate) name: String,
    pub(crate) is_init: bool,
    /// The program of portlb in the container's image.
    pub(crate) program: &'a str,
    pub(crate) tag: &'a str,
    pub(crate) value: &'a Value,
}

/// Returns every folder that users apply, and each component on each base that the component
/// changes.
pub(crate) fn everything() -> &'static [RenderedManifests] {
    static EVERYTHING: LazyLock<Vec<RenderedManifests>> = LazyLock::new(|| {
        let mut everything: Vec<RenderedManifests> =
            APPLIED.iter().map(|path| applied(path)).collect();
        everything.extend(each_component());
        everything
    });
    &EVERYTHING
}

/// Returns every component on each base that the component changes, sorted by the names of the
/// components.
pub(crate) fn each_component() -> impl Iterator<Item = RenderedManifests> {
    let folders = std::fs::read_dir(manifests().join("components")).unwrap();
    let names = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = names.collect();
    assert!(names.len() > 5, "{names:?}");
    names.into_iter().flat_map(|name| {
        let bases: &[&str] = match name.as_str() {
            "hold-token" => &["load-balancer", "node-router"],
            "tcp-md5" => &["load-balancer", "route-reflector"],
            name if name.ends_with("route-reflector") => &["route-reflector"],
            _ => &["load-balancer"],
        };
        let on_each = bases.iter().map(|base| component(&name, base));
        on_each.collect::<Vec<_>>()
    })
}

pub(crate) fn applied(path: &str) -> RenderedManifests {
    kustomize(path.to_owned(), &manifests().join(path))
}

/// Renders a component on a base, in the namespace `web`.
pub(crate) fn component(name: &str, base: &str) -> RenderedManifests {
    components(&[name], base)
}

/// Renders several components on a base, in the order of `names`, in the namespace `web`.
pub(crate) fn components(names: &[&str], base: &str) -> RenderedManifests {
    let folder = tempfile::tempdir_in(manifests()).unwrap();
    let paths: Vec<String> = names
        .iter()
        .map(|name| format!("../components/{name}"))
        .collect();
    let text = format!(
        "namespace: web\nresources: [../base/{base}]\ncomponents: [{}]\n",
        paths.join(", ")
    );
    std::fs::write(folder.path().join("kustomization.yaml"), text).unwrap();
    kustomize(format!("components/{}", names.join("+")), folder.path())
}

pub(crate) fn manifests() -> PathBuf {
    lab::repository().join("manifests")
}

fn kustomize(name: String, folder: &std::path::Path) -> RenderedManifests {
    let kubectl = lab::kubernetes::binaries().unwrap().join("kubectl");
    let output = Command::new(kubectl)
        .arg("kustomize")
        .arg(folder)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    // A kustomize warning, such as about a deprecated field, also fails the test.
    assert!(errors.is_empty(), "{name}: {errors}");
    let yaml = String::from_utf8(output.stdout).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&yaml).unwrap();
    assert!(!objects.is_empty(), "{name} is empty");
    RenderedManifests {
        name,
        yaml,
        objects,
    }
}

impl RenderedManifests {
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects
            .iter()
            .filter(move |object| object["kind"] == kind)
    }

    /// Returns the object with this kind, namespace and name.
    ///
    /// `name` does not include the suffix that kustomize adds to the name of a ConfigMap.
    #[track_caller]
    pub(crate) fn get<'a>(&'a self, kind: &'a str, namespace: &str, name: &str) -> &'a Value {
        let mut matching = self.of_kind(kind).filter(|object| {
            let metadata = &object["metadata"];
            let full = text(&metadata["name"]);
            let plain = full.rsplit_once('-').map_or(full, |(plain, _)| plain);
            metadata["namespace"] == namespace && (full == name || plain == name)
        });
        let first = matching.next();
        first.unwrap_or_else(|| panic!("{}: no {kind} {namespace}/{name}", self.name))
    }

    pub(crate) fn pods(&self) -> Vec<WorkloadPod<'_>> {
        let workloads = self.objects.iter().filter(|object| {
            ["Deployment", "StatefulSet", "DaemonSet"].contains(&text(&object["kind"]))
        });
        workloads
            .map(|workload| {
                let (kind, metadata) = (text(&workload["kind"]), &workload["metadata"]);
                let namespace = text(&metadata["namespace"]);
                WorkloadPod {
                    name: format!(
                        "{}: {namespace}/{kind}/{}",
                        self.name,
                        text(&metadata["name"])
                    ),
                    kind,
                    spec: &workload["spec"]["template"]["spec"],
                }
            })
            .collect()
    }

    /// Returns the names and values of the environment variables that a container gets from
    /// ConfigMaps.
    pub(crate) fn variables_from<'a>(&'a self, container: &'a Value) -> Vec<(&'a str, &'a str)> {
        let mut variables = Vec::new();
        for source in list(&container["envFrom"]) {
            let map = self
                .of_kind("ConfigMap")
                .find(|map| map["metadata"]["name"] == source["configMapRef"]["name"]);
            let data = map.unwrap()["data"].as_object().unwrap();
            variables.extend(
                data.iter()
                    .map(|(name, value)| (name.as_str(), text(value))),
            );
        }
        variables
    }
}

impl WorkloadPod<'_> {
    pub(crate) fn containers(&self) -> Vec<Container<'_>> {
        let all = [("initContainers", true), ("containers", false)];
        all.iter()
            .flat_map(|(field, is_init)| {
                list(&self.spec[*field]).iter().map(|value| {
                    let (program, tag) = text(&value["image"]).rsplit_once(':').unwrap();
                    Container {
                        name: format!("{}/{}", self.name, text(&value["name"])),
                        is_init: *is_init,
                        program: program.strip_prefix("localhost/portlb/").unwrap(),
                        tag,
                        value,
                    }
                })
            })
            .collect()
    }
}

/// Returns the items of a list, or an empty slice if the value is not a list.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[track_caller]
pub(crate) fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is not a string"))
}
