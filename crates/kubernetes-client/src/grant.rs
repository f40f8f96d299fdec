//! Role rules for requests that the API server forbids.

/// A resource of the API server, as the rules of a Role name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group, such as `discovery.k8s.io`. Empty: the core group.
    pub group: &'static str,
    /// Plural name of the resource, such as `services`.
    pub plural: &'static str,
    /// Namespace of the objects. `None`: all namespaces.
    pub namespace: Option<String>,
}

/// A request to the API server.
#[derive(Clone, Copy, Debug)]
pub struct ApiRequest<'a> {
    /// Verb of the request, such as `list`.
    pub verb: &'static str,
    pub resource: &'a Resource,
    /// Subresource, such as `status`. `None`: the object itself.
    pub subresource: Option<&'static str>,
    /// All verbs that the daemon needs for this resource, so that the suggested rule is complete.
    pub verbs: &'static [&'static str],
}

impl Resource {
    /// Returns the resource that contains the objects of the Kubernetes type `K`.
    #[must_use]
    pub fn of<K: k8s_openapi::Resource>(namespace: Option<String>) -> Self {
        Self {
            group: K::GROUP,
            plural: K::URL_PATH_SEGMENT,
            namespace,
        }
    }
}

impl ApiRequest<'_> {
    /// Describes that the API server forbids this request (403), and suggests the rule of a Role
    /// that allows the request. `message` is the text in the answer of the API server, which names
    /// the user.
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
            "the API server forbids this daemon to {} {name} {place} ({message}); add to {role} \
             that is bound to this ServiceAccount: {{apiGroups: [\"{}\"], resources: [\"{name}\"], \
             verbs: [\"{}\"]}}",
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
    fn a_forbidden_request_is_described_with_the_rule_that_allows_it() {
        let asked = ApiRequest {
            resource: &Resource::of::<EndpointSlice>(Some("web".to_owned())),
            subresource: None,
            verb: "watch",
            verbs: &["list", "watch"],
        };
        assert_eq!(
            asked.forbidden("User \"x\" cannot watch"),
            "the API server forbids this daemon to watch endpointslices in namespace web (User \
             \"x\" cannot watch); add to a Role of namespace web that is bound to this \
             ServiceAccount: {apiGroups: [\"discovery.k8s.io\"], resources: [\"endpointslices\"], verbs: \
             [\"list\", \"watch\"]}"
        );
    }
}
