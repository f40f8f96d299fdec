//! Which lists have been told to their end.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::model::{Kind, ObjectKey, Scope};

/// Lists that are being told, and those that never were.
#[derive(Debug)]
pub(super) struct Listing {
    unlisted: BTreeSet<Scope>,
    /// What each list that has begun has told.
    running: BTreeMap<Scope, HashSet<ObjectKey>>,
}

impl Listing {
    /// None of the scopes has been listed.
    pub(super) fn new(scopes: &[Scope]) -> Self {
        Self {
            unlisted: scopes.iter().cloned().collect(),
            running: BTreeMap::new(),
        }
    }

    /// A list begins, again if it had begun.
    pub(super) fn begin(&mut self, scope: Scope) {
        self.running.insert(scope, HashSet::new());
    }

    /// The object exists.
    pub(super) fn told(&mut self, kind: Kind, key: &ObjectKey) {
        for (scope, told) in &mut self.running {
            if scope.kind == kind && scope.covers(key) {
                told.insert(key.clone());
            }
        }
    }

    /// A list has ended. What it told, if it had begun.
    pub(super) fn end(&mut self, scope: &Scope) -> Option<HashSet<ObjectKey>> {
        self.unlisted.remove(scope);
        self.running.remove(scope)
    }

    /// Whether every scope has been listed once.
    pub(super) fn is_synced(&self) -> bool {
        self.unlisted.is_empty()
    }
}
