//! Progress of the lists of objects.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::model::{ObjectKey, ObjectKind, WatchScope};

/// Scopes that have not been listed yet, and lists that have begun but not ended.
#[derive(Debug)]
pub(super) struct Listing {
    unlisted: BTreeSet<WatchScope>,
    /// The objects that each running list has contained so far.
    running: BTreeMap<WatchScope, HashSet<ObjectKey>>,
}

impl Listing {
    pub(super) fn new(scopes: &[WatchScope]) -> Self {
        Self {
            unlisted: scopes.iter().cloned().collect(),
            running: BTreeMap::new(),
        }
    }

    /// Begins a list of the objects in `scope`. A running list of `scope` starts from the
    /// beginning.
    pub(super) fn begin(&mut self, scope: WatchScope) {
        self.running.insert(scope, HashSet::new());
    }

    /// Adds the object to each running list that covers it.
    pub(super) fn record(&mut self, kind: ObjectKind, key: &ObjectKey) {
        for (scope, record) in &mut self.running {
            if scope.kind == kind && scope.covers(key) {
                record.insert(key.clone());
            }
        }
    }

    /// Ends the list of `scope`. Returns the objects in the list, or `None` if no such list was
    /// running.
    pub(super) fn end(&mut self, scope: &WatchScope) -> Option<HashSet<ObjectKey>> {
        self.unlisted.remove(scope);
        self.running.remove(scope)
    }

    pub(super) fn is_synced(&self) -> bool {
        self.unlisted.is_empty()
    }
}
