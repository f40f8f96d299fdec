//! Checks of the class of Services.

use super::report::MessageSeverity;
use service_catalog::{
    model::{PREFIX, Service, ServiceType},
    service_spec,
    settings::CatalogSettings,
};

/// Largest number of edited letters up to which a class counts as misspelt.
const MOST_EDITS: usize = 2;

/// The reason why this load balancer does not serve a Service.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClassProblem {
    /// `Note`: the Service has no annotation of portlb, and either the class of another load
    /// balancer, or no class and another type than LoadBalancer.
    pub(super) severity: MessageSeverity,
    /// The field or annotation with the class. Empty: the Service has no class.
    pub(super) field: String,
    pub(super) text: String,
}

/// Returns why this load balancer does not serve a Service; `None` if it serves the Service.
pub(super) fn check(service: &Service, settings: &CatalogSettings) -> Option<ClassProblem> {
    if service_spec::is_ours(service, settings) {
        return None;
    }
    let class = &*settings.load_balancer_class;
    let has_our_annotations = !service.annotations.is_empty();
    let is_load_balancer = service.service_type == ServiceType::LoadBalancer;
    let annotation = format!("annotation {PREFIX}load-balancer-class");
    let named = match service_spec::annotated_class(service) {
        Some(named) => Some((annotation, named)),
        None => {
            let named = service.load_balancer_class.as_deref();
            named.map(|named| ("spec.loadBalancerClass".to_owned(), named))
        }
    };
    if let Some((field, named)) = named {
        let (severity, suggestion) = if is_misspelt(named, class) {
            (MessageSeverity::Error, format!("did you mean {class}?"))
        } else if has_our_annotations {
            let suggestion = format!("write {class}, or remove all {PREFIX} annotations");
            (MessageSeverity::Remark, suggestion)
        } else {
            (MessageSeverity::Note, String::new())
        };
        let text =
            format!("{field}: {named:?} is not the class of this load balancer; {suggestion}");
        return Some(ClassProblem {
            severity,
            field,
            text,
        });
    }
    let suggestion = format!(
        "write spec.type: LoadBalancer and spec.loadBalancerClass: {class}, or, for a Service of \
         another type, the annotation {PREFIX}load-balancer-class: {class}"
    );
    let (severity, text) = match (has_our_annotations, is_load_balancer) {
        (true, _) => {
            let text = format!(
                "has {PREFIX} annotations, but no class, so no load balancer serves the Service; \
                 {suggestion}"
            );
            (MessageSeverity::Error, text)
        }
        (false, true) => {
            let text = format!(
                "has no class, so this load balancer does not serve the Service; to change this, \
                 write spec.loadBalancerClass: {class}"
            );
            (MessageSeverity::Remark, text)
        }
        (false, false) => (MessageSeverity::Note, String::new()),
    };
    Some(ClassProblem {
        severity,
        field: String::new(),
        text,
    })
}

/// Reports whether `named` is most likely a misspelling of `class`, or the name part of `class`
/// without the domain.
fn is_misspelt(named: &str, class: &str) -> bool {
    let name = class.rsplit('/').next().unwrap_or(class);
    named.eq_ignore_ascii_case(name)
        || edits(&named.to_lowercase(), &class.to_lowercase()) <= MOST_EDITS
}

/// Returns the smallest number of letters to add, remove or change that makes the texts equal.
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, other_letter) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other_letter);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_differs_by_at_most_two_letters_is_misspelt() {
        let class = "portlb.io/portlb";
        for named in [
            "portlb.io/prtlb",
            "portlb.io/portbl",
            "PortLB.io/portlb",
            "portlb",
            "portlb.io/portlb2",
        ] {
            assert!(is_misspelt(named, class), "{named}");
        }
        for named in ["example.com/other", "portlb.io/internal", ""] {
            assert!(!is_misspelt(named, class), "{named}");
        }
    }
}
