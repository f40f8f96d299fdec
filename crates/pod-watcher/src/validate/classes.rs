//! Services that this load balancer does not serve, and whether they are meant to be served.

use super::report::Severity;
use service_catalog::{
    model::{PREFIX, Service, ServiceType},
    service_spec,
    settings::Settings,
};

/// Most letters in which a misspelt class differs.
const MOST_EDITS: usize = 2;

/// What is to be said of a Service that is not ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotOurs {
    pub(super) severity: Severity,
    /// Where it is said, or would be.
    pub(super) field: String,
    pub(super) text: String,
}

/// What is to be said of a Service; `None`: it is ours.
pub(super) fn judge(service: &Service, settings: &Settings) -> Option<NotOurs> {
    if service_spec::is_ours(service, settings) {
        return None;
    }
    let class = &*settings.load_balancer_class;
    let speaks_to_us = !service.annotations.is_empty();
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
        let (severity, cure) = if is_misspelt(named, class) {
            (Severity::Error, format!("did you mean {class}?"))
        } else if speaks_to_us {
            let cure = format!("write {class}, or remove the annotations {PREFIX}");
            (Severity::Remark, cure)
        } else {
            (Severity::Note, String::new())
        };
        let text = format!("{field}: {named:?} is not the class of this load balancer; {cure}");
        return Some(NotOurs {
            severity,
            field,
            text,
        });
    }
    let cure = format!(
        "write spec.type: LoadBalancer and spec.loadBalancerClass: {class}, or for a Service of \
         another type the annotation {PREFIX}load-balancer-class: {class}"
    );
    let (severity, text) = match (speaks_to_us, is_load_balancer) {
        (true, _) => {
            let text = format!(
                "has annotations {PREFIX}, but no class, so that no load balancer serves it; {cure}"
            );
            (Severity::Error, text)
        }
        (false, true) => {
            let text = format!(
                "has no class, so that this load balancer does not serve it; write \
                 spec.loadBalancerClass: {class} if it is to"
            );
            (Severity::Remark, text)
        }
        (false, false) => (Severity::Note, String::new()),
    };
    Some(NotOurs {
        severity,
        field: String::new(),
        text,
    })
}

/// Whether a class is most likely meant to be ours.
fn is_misspelt(named: &str, class: &str) -> bool {
    let name = class.rsplit('/').next().unwrap_or(class);
    named.eq_ignore_ascii_case(name)
        || edits(&named.to_lowercase(), &class.to_lowercase()) <= MOST_EDITS
}

/// How many letters are to be added, removed or changed to make one text of the other.
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (place, its) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *its);
            diagonal = row[place + 1];
            row[place + 1] = changed.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_differs_by_a_letter_or_two_is_misspelt() {
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
