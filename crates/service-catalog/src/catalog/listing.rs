//! Progress of the lists of objects.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::model::{ObjectKey, ObjectKind, WatchScope};

/// Scopes that have not been listed yet, and lists that are not complete yet.
#[derive(Debug)]
pub(super) struct Listing {
    unlisted: BTreeSet<WatchScope>,
    /// The objects of each list that has begun.
    running: BTreeMap<WatchScope, HashSet<ObjectKey>>,
}

impl Listing {
    pub(super) fn new(scopes: &[WatchScope]) -> Self {
        Self {
            unlisted: scopes.iter().cloned().collect(),
            running: BTreeMap::new(),
        }
    }

    /// Begins a list, or begins it again.
    pub(super) fn begin(&mut self, scope: WatchScope) {
        self.running.insert(scope, HashSet::new());
    }

    /// Records that the object exists.
    pub(super) fn record(&mut self, kind: ObjectKind, key: &ObjectKey) {
        for (scope, record) in &mut self.running {
            if scope.kind == kind && scope.covers(key) {
                record.insert(key.clone());
            }
        }
    }

    /// Ends a list. Returns its objects, or `None` if the list had not begun.
    pub(super) fn end(&mut self, scope: &WatchScope) -> Option<HashSet<ObjectKey>> {
        self.unlisted.remove(scope);
        self.running.remove(scope)
    }

    pub(super) fn is_synced(&self) -> bool {
        self.unlisted.is_empty()
    }
}
