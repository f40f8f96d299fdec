//! What to grant when the API server forbids something.

/// A kind of object, as the API server's paths and its rules name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Empty for the core group.
    pub group: &'static str,
    /// Such as `services`.
    pub plural: &'static str,
    /// `None` is every namespace.
    pub namespace: Option<String>,
}

/// What was asked of the API server.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Verb of the request.
    pub verb: &'static str,
    /// Resource of the request.
    pub resource: &'a Resource,
    /// Such as `status`.
    pub subresource: Option<&'static str>,
    /// All that is needed of the resource, so that one rule is enough.
    pub verbs: &'static [&'static str],
}

impl Resource {
    /// Returns the resource of a kind.
    #[must_use]
    pub fn of<K: k8s_openapi::Resource>(namespace: Option<String>) -> Self {
        Self {
            group: K::GROUP,
            plural: K::URL_PATH_SEGMENT,
            namespace,
        }
    }
}

impl Asked<'_> {
    /// Says that the API server has forbidden it, and which rule allows it. `message` has the API
    /// server's own words, which name the user.
    pub(crate) fn forbidden(&self, message: &str) -> String {
        let resource = self.resource;
        let name = match self.subresource {
            Some(subresource) => format!("{}/{subresource}", resource.plural),
            None => resource.plural.to_owned(),
        };
        let (place, role) = match &resource.namespace {
            Some(namespace) => (
                format!("in namespace {namespace}"),
                format!("a Role of namespace {namespace}"),
            ),
            None => ("in all namespaces".to_owned(), "a ClusterRole".to_owned()),
        };
        format!(
            "the API server forbids to {} {name} {place} ({message}); add to {role} that is bound \
             to this ServiceAccount: {{apiGroups: [\"{}\"], resources: [\"{name}\"], verbs: \
             [\"{}\"]}}",
            self.verb,
            resource.group,
            self.verbs.join("\", \""),
        )
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    use super::*;

    #[test]
    fn the_rule_that_grants_it_is_named() {
        let asked = Asked {
            resource: &Resource::of::<EndpointSlice>(Some("web".to_owned())),
            subresource: None,
            verb: "watch",
            verbs: &["list", "watch"],
        };
        assert_eq!(
            asked.forbidden("User \"x\" cannot watch"),
            "the API server forbids to watch endpointslices in namespace web (User \"x\" cannot \
             watch); add to a Role of namespace web that is bound to this ServiceAccount: \
             {apiGroups: [\"discovery.k8s.io\"], resources: [\"endpointslices\"], verbs: \
             [\"list\", \"watch\"]}"
        );
    }
}
