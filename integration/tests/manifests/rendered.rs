//! What `kubectl kustomize` makes of the manifests.

use std::{collections::BTreeSet, path::PathBuf, process::Command, sync::LazyLock};

use serde_json::Value;

/// What a user applies.
pub(crate) const APPLIED: &[&str] = &[
    "overlays/flat-l2",
    "overlays/calico",
    "overlays/cilium",
    "overlays/single-node",
    "examples/web/tunnel",
    "examples/web/masquerade",
    "examples/second-application",
];

/// Objects that belong together.
pub(crate) struct Rendered {
    pub(crate) name: String,
    pub(crate) yaml: String,
    pub(crate) objects: Vec<Value>,
}

/// One workload's pods.
pub(crate) struct Pod<'a> {
    /// Such as `overlays/flat-l2: web/Deployment/load-balancer`.
    pub(crate) name: String,
    pub(crate) kind: &'a str,
    pub(crate) spec: &'a Value,
}

/// One container of a pod, also of those that end before the others start.
pub(crate) struct Container<'a> {
    /// As the pod's, with the container's.
    pub(crate) name: String,
    pub(crate) is_init: bool,
    /// Of our program.
    pub(crate) program: &'a str,
    pub(crate) tag: &'a str,
    pub(crate) value: &'a Value,
}

/// All that users apply, and each component on its base.
pub(crate) fn everything() -> &'static [Rendered] {
    static EVERYTHING: LazyLock<Vec<Rendered>> = LazyLock::new(|| {
        let mut everything: Vec<Rendered> = APPLIED.iter().map(|path| applied(path)).collect();
        everything.extend(each_component());
        everything
    });
    &EVERYTHING
}

/// All that there are, each on the bases that it changes, in the order of their names.
pub(crate) fn each_component() -> impl Iterator<Item = Rendered> {
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

pub(crate) fn applied(path: &str) -> Rendered {
    kustomize(path.to_owned(), &manifests().join(path))
}

/// A component on its base, in the namespace `web`.
pub(crate) fn component(name: &str, base: &str) -> Rendered {
    components(&[name], base)
}

/// Several, in this order.
pub(crate) fn components(names: &[&str], base: &str) -> Rendered {
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

fn kustomize(name: String, folder: &std::path::Path) -> Rendered {
    let kubectl = lab::kubernetes::binaries().unwrap().join("kubectl");
    let output = Command::new(kubectl)
        .arg("kustomize")
        .arg(folder)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {complaint}");
    // Deprecated fields are warned of.
    assert!(complaint.is_empty(), "{name}: {complaint}");
    let yaml = String::from_utf8(output.stdout).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&yaml).unwrap();
    assert!(!objects.is_empty(), "{name} is empty");
    Rendered {
        name,
        yaml,
        objects,
    }
}

impl Rendered {
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects
            .iter()
            .filter(move |object| object["kind"] == kind)
    }

    /// The object of this kind and name; kustomize's suffix of a ConfigMap counts as its name.
    #[track_caller]
    pub(crate) fn get<'a>(&'a self, kind: &'a str, namespace: &str, name: &str) -> &'a Value {
        let mut found = self.of_kind(kind).filter(|object| {
            let metadata = &object["metadata"];
            let here = text(&metadata["name"]);
            let plain = here.rsplit_once('-').map_or(here, |(plain, _)| plain);
            metadata["namespace"] == namespace && (here == name || plain == name)
        });
        let first = found.next();
        first.unwrap_or_else(|| panic!("{}: no {kind} {namespace}/{name}", self.name))
    }

    pub(crate) fn pods(&self) -> Vec<Pod<'_>> {
        let workloads = self.objects.iter().filter(|object| {
            ["Deployment", "StatefulSet", "DaemonSet"].contains(&text(&object["kind"]))
        });
        workloads
            .map(|workload| {
                let (kind, metadata) = (text(&workload["kind"]), &workload["metadata"]);
                let namespace = text(&metadata["namespace"]);
                Pod {
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

    /// What a container gets from the ConfigMaps that it names, as name and value.
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

impl Pod<'_> {
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

/// The items of a list, none where there is no list.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[track_caller]
pub(crate) fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}
