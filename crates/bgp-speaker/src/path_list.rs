//! Queries of the paths in a table.

use std::{fmt, str::FromStr, sync::Arc};

use bgp_packet::{PathAttributes, PathId};
use bgp_rib::{NotBestReason, RibPath};
use ipnet::IpNet;

use crate::status::View;

/// The table whose paths a query lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathTable {
    /// The Adj-RIB-In of all peers, and the paths that this speaker originated.
    All,
    /// The paths that the peer of this name announced, after import policy.
    AdjRibIn(String),
    /// The paths that were sent to the peer of this name.
    AdjRibOut(String),
}

/// A snapshot of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStatus {
    pub prefix: IpNet,
    /// Name of the peer that announced the path. `None`: this speaker originated the path, or, in
    /// an Adj-RIB-Out, the peer has been removed.
    pub peer: Option<String>,
    /// Path id from the peer, or, in an Adj-RIB-Out, the path id that was sent.
    pub path_id: Option<PathId>,
    /// The path attributes after import policy, or, in an Adj-RIB-Out, after export policy.
    pub attributes: Arc<PathAttributes>,
    /// Whether the decision process prefers this path to all other paths of the prefix.
    pub is_best: bool,
    /// The reason for which the decision process prefers another path. `None`: the path is the best
    /// path, or is in an Adj-RIB-Out.
    pub not_best: Option<NotBestReason>,
}

/// The name of a path within a table, displayed as prefix, path id and name of the peer:
/// `10.1.1.0/24 7 peer`. A path without a path id has `-` instead of the path id. A path that this
/// speaker originated ends after the path id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathName {
    /// Prefix without host bits.
    pub prefix: IpNet,
    /// Name of the peer that announced the path. `None`: this speaker originated the path.
    pub peer: Option<String>,
    /// `None`: the session of the peer does not use add-path, or this speaker originated the path.
    pub path_id: Option<PathId>,
}

/// The error of parsing a text that is not a [`PathName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a path; write it as PREFIX PATH-ID PEER, for example 10.1.1.0/24 7 peer")]
pub struct InvalidPathName;

/// A selection of the paths of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathQuery {
    pub table: PathTable,
    /// Selects only the paths of this prefix. `None`: all prefixes.
    pub prefix: Option<IpNet>,
    /// Selects only paths after this path in the order of prefix, name of the peer and path id.
    /// `None`: all paths.
    pub after: Option<PathName>,
    /// Largest number of paths in the result. The result has the first paths in sort order.
    pub limit: usize,
}

impl PathQuery {
    /// Selects every path of the table.
    pub fn all(table: PathTable) -> Self {
        Self {
            table,
            prefix: None,
            after: None,
            limit: usize::MAX,
        }
    }

    /// Reports whether the query selects a path. Must not allocate memory: it is called for every
    /// path of the table.
    fn selects<'a>(
        &self,
        prefix: IpNet,
        peer: impl FnOnce() -> Option<&'a str>,
        path_id: Option<PathId>,
    ) -> bool {
        self.prefix.is_none_or(|only| prefix == only.trunc())
            && self.after.as_ref().is_none_or(|after| {
                prefix > after.prefix
                    || prefix == after.prefix && (prefix, peer(), path_id) > after.sort_key()
            })
    }
}

impl PathStatus {
    /// Returns the name of the path within its table.
    pub fn name(&self) -> PathName {
        PathName {
            prefix: self.prefix,
            peer: self.peer.clone(),
            path_id: self.path_id,
        }
    }

    fn sort_key(&self) -> (IpNet, Option<&str>, Option<PathId>) {
        (self.prefix, self.peer.as_deref(), self.path_id)
    }
}

impl PathName {
    fn sort_key(&self) -> (IpNet, Option<&str>, Option<PathId>) {
        (self.prefix, self.peer.as_deref(), self.path_id)
    }
}

impl fmt::Display for PathName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ", self.prefix)?;
        match self.path_id {
            Some(PathId(id)) => write!(formatter, "{id}")?,
            None => formatter.write_str("-")?,
        }
        self.peer
            .iter()
            .try_for_each(|peer| write!(formatter, " {peer}"))
    }
}

impl FromStr for PathName {
    type Err = InvalidPathName;

    fn from_str(text: &str) -> Result<Self, InvalidPathName> {
        let mut parts = text.splitn(3, ' ');
        let mut next = || parts.next().ok_or(InvalidPathName);
        let prefix = next()?.parse().map_err(|_| InvalidPathName)?;
        let path_id = match next()? {
            "-" => None,
            id => Some(PathId(id.parse().map_err(|_| InvalidPathName)?)),
        };
        Ok(Self {
            prefix,
            peer: parts.next().map(str::to_owned),
            path_id,
        })
    }
}

impl View<'_> {
    /// Returns the paths that the query selects, ordered by prefix, name of the peer and path id.
    pub(crate) fn paths(self, query: &PathQuery) -> Vec<PathStatus> {
        let mut first = FirstPaths {
            query,
            paths: Vec::new(),
        };
        let rib_paths = |paths: &mut dyn Iterator<Item = RibPath<'_>>,
                         first: &mut FirstPaths<'_>| {
            let paths = paths.filter(|path| {
                let name = || self.peers.name_of(path.key.source);
                query.selects(path.key.prefix, name, path.key.path_id)
            });
            paths.for_each(|path| first.add(self.path(&path)));
        };
        match &query.table {
            PathTable::All => match query.prefix {
                Some(prefix) => rib_paths(&mut self.rib.paths_of(prefix), &mut first),
                None => rib_paths(&mut self.rib.paths(), &mut first),
            },
            PathTable::AdjRibIn(name) => {
                let ids = self.peers.named(name).into_iter();
                rib_paths(&mut ids.flat_map(|id| self.rib.adj_rib_in(id)), &mut first);
            }
            PathTable::AdjRibOut(name) => {
                let ids = self.peers.named(name).into_iter();
                let paths = ids.flat_map(|id| self.rib.adj_rib_out(id));
                for sent in paths {
                    let peer = || sent.source.and_then(|source| self.peers.name_of(source));
                    if !query.selects(sent.prefix, peer, sent.path_id) {
                        continue;
                    }
                    first.add(PathStatus {
                        prefix: sent.prefix,
                        peer: peer().map(str::to_owned),
                        path_id: sent.path_id,
                        attributes: sent.attributes.clone(),
                        is_best: sent.is_best,
                        not_best: None,
                    });
                }
            }
        }
        first.into_sorted()
    }

    pub(crate) fn path(self, path: &RibPath<'_>) -> PathStatus {
        PathStatus {
            prefix: path.key.prefix,
            peer: self.peers.name_of(path.key.source).map(str::to_owned),
            path_id: path.key.path_id,
            attributes: path.attributes.clone(),
            is_best: path.not_best.is_none(),
            not_best: path.not_best,
        }
    }
}

/// Collects the first selected paths in sort order from unsorted paths. Stores at most twice the
/// limit of the query, or 1024 paths if this is more, so that a page of a large table does not copy
/// the table.
struct FirstPaths<'a> {
    query: &'a PathQuery,
    paths: Vec<PathStatus>,
}

impl FirstPaths<'_> {
    const MIN_CAPACITY: usize = 1_024;

    fn add(&mut self, path: PathStatus) {
        self.paths.push(path);
        let capacity = self.query.limit.saturating_mul(2).max(Self::MIN_CAPACITY);
        if self.paths.len() > capacity {
            self.drop_beyond_limit();
        }
    }

    fn drop_beyond_limit(&mut self) {
        let limit = self.query.limit;
        if self.paths.len() > limit {
            self.paths
                .select_nth_unstable_by(limit, |a, b| a.sort_key().cmp(&b.sort_key()));
            self.paths.truncate(limit);
        }
    }

    fn into_sorted(mut self) -> Vec<PathStatus> {
        self.drop_beyond_limit();
        self.paths.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
        self.paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(after: Option<PathName>, limit: usize) -> PathQuery {
        PathQuery {
            after,
            limit,
            ..PathQuery::all(PathTable::All)
        }
    }

    fn path(number: u32) -> PathStatus {
        let attributes = PathAttributes::originate([192, 0, 2, 1].into());
        let [_, second, third, fourth] = number.to_be_bytes();
        PathStatus {
            prefix: IpNet::from(std::net::IpAddr::from([10, second, third, fourth])),
            peer: Some("peer".to_owned()),
            path_id: None,
            attributes: attributes.into(),
            is_best: true,
            not_best: None,
        }
    }

    #[test]
    fn a_page_has_the_first_paths_in_sort_order() {
        let many = u32::try_from(FirstPaths::MIN_CAPACITY * 4 + 1).unwrap();
        let query = query(Some(path(9).name()), 100);
        let mut first = FirstPaths {
            query: &query,
            paths: Vec::new(),
        };
        // 7 and the number of paths have no common divisor, so each path is added once.
        let paths = (0..many).map(|number| path(number * 7 % many));
        paths
            .filter(|path| query.selects(path.prefix, || path.peer.as_deref(), path.path_id))
            .for_each(|path| first.add(path));
        assert!(first.paths.len() <= FirstPaths::MIN_CAPACITY);
        let expected: Vec<_> = (10..110).map(path).collect();
        assert_eq!(first.into_sorted(), expected);
    }

    #[test]
    fn a_displayed_path_name_parses_to_an_equal_name() {
        for text in [
            "10.1.1.0/24 - peer",
            "fd00::/64 7 name with space",
            "10.1.1.1/32 -",
        ] {
            let name: PathName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
        }
        for text in ["", "10.1.1.0/24", "10.1.1.0/24 x peer", "x - peer"] {
            assert_eq!(text.parse::<PathName>(), Err(InvalidPathName), "{text}");
        }
    }
}
