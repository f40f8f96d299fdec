//! Publication of the routes in metrics, readiness and `WatchRoutes`.

use std::collections::BTreeSet;

use super::{Reconciliation, RouteTable};
use crate::{
    RouteKernel,
    node_settings::forwarding_problem,
    uplink::{IpVersion, Uplinks},
};

impl<K: RouteKernel> RouteTable<K> {
    pub(super) fn publish_forwarding(&self, not_forwarding: &BTreeSet<IpVersion>) {
        let versions = self.settings.policy.versions();
        let off = versions.intersection(not_forwarding).copied();
        let problems: Vec<String> = off.map(forwarding_problem).collect();
        if problems.is_empty() {
            self.steps.forwarding.ready("");
        } else {
            self.steps.forwarding.missing(problems.join("; "));
        }
    }

    pub(super) fn publish(&mut self, reconciliation: &Reconciliation) {
        let routes = reconciliation.routes(&self.claims());
        let missing: Vec<String> = routes
            .iter()
            .filter(|(_, route)| !route.installed)
            .map(|(prefix, route)| format!("{prefix}: {}", route.last_error))
            .collect();
        let installed = routes.len() - missing.len();
        if missing.is_empty() {
            self.steps.routes.ready(format!("{installed} installed"));
        } else {
            // The step stays ready, because one missing route must not make the node unready for
            // other routes.
            self.steps.routes.ready(format!(
                "{installed} installed; missing: {}",
                missing.join("; ")
            ));
        }
        for (state, count) in [("installed", installed), ("missing", missing.len())] {
            self.metrics
                .routes
                .get_or_create(&vec![("state", state.to_owned())])
                .set(gauge(count));
        }
        self.metrics.holds.set(gauge(self.holds.len()));
        self.metrics.adopted.set(gauge(self.adopted.len()));
        self.publisher.replace_all(routes);
    }

    /// Publishes the state of the uplink guard. The node serves without the guard, so the step is
    /// always ready.
    pub(super) fn publish_guard(&mut self, problem: Option<String>, uplinks: &str) {
        self.metrics.guard_installed.set(problem.is_none().into());
        self.steps.uplink_guard.ready(match &problem {
            None => uplinks,
            Some(problem) => problem,
        });
        let is_switched_off = self.settings.uplinks == Uplinks::None;
        if let Some(problem) = &problem
            && self.guard_problem.as_ref() != Some(problem)
            && !is_switched_off
        {
            tracing::warn!(
                problem,
                "the uplink guard is not in force; packets for service addresses without a held route \
                 can loop between the node and its router"
            );
        }
        self.guard_problem = problem;
    }

    pub(super) fn published(&self) -> usize {
        self.publisher.reader().snapshot_after(None, 0).total
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
