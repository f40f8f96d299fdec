//! Paths of a table, all of them or a part.

use std::{fmt, str::FromStr, sync::Arc};

use bgp_packet::{PathAttributes, PathId};
use bgp_rib::{NotBestReason, RibPath};
use ipnet::IpNet;

use crate::status::View;

/// Which paths to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Table {
    /// The Adj-RIBs-In of all peers and our own paths.
    All,
    /// What the peer announced, after import policy.
    AdjRibIn(String),
    /// What the peer has been sent.
    AdjRibOut(String),
}

/// A path at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStatus {
    /// The prefix.
    pub prefix: IpNet,
    /// Name of the peer that announced it; `None`: this speaker, or, of an Adj-RIB-Out, a peer that is
    /// gone.
    pub peer: Option<String>,
    /// As the peer sent it, or, of an Adj-RIB-Out, as it was sent.
    pub path_id: Option<PathId>,
    /// The path attributes, after import policy.
    pub attributes: Arc<PathAttributes>,
    /// Whether the decision process prefers it.
    pub is_best: bool,
    /// Why the decision process does not prefer it, where it is known.
    pub not_best: Option<NotBestReason>,
}

/// Names a path of a table. Shown as `10.1.1.0/24 7 peer`, with `-` for no path id and without a peer for
/// a path of this speaker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathName {
    /// Prefix without host bits.
    pub prefix: IpNet,
    /// Name of the peer that announced it; `None`: this speaker.
    pub peer: Option<String>,
    /// As the peer sent it.
    pub path_id: Option<PathId>,
}

/// A text that is not a [`PathName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a path: write it as 10.1.1.0/24 7 peer")]
pub struct InvalidPathName;

/// Selects paths of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathQuery {
    /// Table that has the paths.
    pub table: Table,
    /// Only paths of this prefix.
    pub prefix: Option<IpNet>,
    /// Only paths after this one, in the order of prefix, peer and path id.
    pub after: Option<PathName>,
    /// Most paths: the first ones.
    pub limit: usize,
}

impl PathQuery {
    /// Selects every path of the table.
    pub fn all(table: Table) -> Self {
        Self {
            table,
            prefix: None,
            after: None,
            limit: usize::MAX,
        }
    }

    /// Reports whether the query selects a path. It allocates nothing, because it sees the whole table.
    fn may_contain<'a>(
        &self,
        prefix: IpNet,
        peer: impl FnOnce() -> Option<&'a str>,
        path_id: Option<PathId>,
    ) -> bool {
        self.prefix.is_none_or(|only| prefix == only.trunc())
            && self.after.as_ref().is_none_or(|after| {
                prefix > after.prefix
                    || prefix == after.prefix && (prefix, peer(), path_id) > after.order()
            })
    }
}

impl PathStatus {
    /// Returns what names the path in its table.
    pub fn name(&self) -> PathName {
        PathName {
            prefix: self.prefix,
            peer: self.peer.clone(),
            path_id: self.path_id,
        }
    }

    fn order(&self) -> (IpNet, Option<&str>, Option<PathId>) {
        (self.prefix, self.peer.as_deref(), self.path_id)
    }
}

impl PathName {
    fn order(&self) -> (IpNet, Option<&str>, Option<PathId>) {
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
    /// Returns the selected paths, ordered by prefix, peer and path id.
    pub(crate) fn paths(self, query: &PathQuery) -> Vec<PathStatus> {
        let mut first = FirstPaths {
            query,
            paths: Vec::new(),
        };
        let rib_paths = |paths: &mut dyn Iterator<Item = RibPath<'_>>,
                         first: &mut FirstPaths<'_>| {
            let paths = paths.filter(|path| {
                let name = || self.peers.name_of(path.key.source);
                query.may_contain(path.key.prefix, name, path.key.path_id)
            });
            paths.for_each(|path| first.add(self.path(&path)));
        };
        match &query.table {
            Table::All => match query.prefix {
                Some(prefix) => rib_paths(&mut self.rib.paths_of(prefix), &mut first),
                None => rib_paths(&mut self.rib.paths(), &mut first),
            },
            Table::AdjRibIn(name) => {
                let ids = self.peers.named(name).into_iter();
                rib_paths(&mut ids.flat_map(|id| self.rib.adj_rib_in(id)), &mut first);
            }
            Table::AdjRibOut(name) => {
                let ids = self.peers.named(name).into_iter();
                let paths = ids.flat_map(|id| self.rib.adj_rib_out(id));
                for sent in paths {
                    let peer = || sent.source.and_then(|source| self.peers.name_of(source));
                    if !query.may_contain(sent.prefix, peer, sent.path_id) {
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

/// The first of the selected paths, out of paths in no order. Keeps about twice as many as it returns, so
/// that a page of a large table does not copy the table.
struct FirstPaths<'a> {
    query: &'a PathQuery,
    paths: Vec<PathStatus>,
}

impl FirstPaths<'_> {
    const LEAST_KEPT: usize = 1_024;

    fn add(&mut self, path: PathStatus) {
        self.paths.push(path);
        let most = self.query.limit.saturating_mul(2).max(Self::LEAST_KEPT);
        if self.paths.len() > most {
            self.keep_first();
        }
    }

    fn keep_first(&mut self) {
        let limit = self.query.limit;
        if self.paths.len() > limit {
            self.paths
                .select_nth_unstable_by(limit, |a, b| a.order().cmp(&b.order()));
            self.paths.truncate(limit);
        }
    }

    fn into_sorted(mut self) -> Vec<PathStatus> {
        self.keep_first();
        self.paths.sort_by(|a, b| a.order().cmp(&b.order()));
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
            ..PathQuery::all(Table::All)
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
    fn the_first_paths_of_a_part_are_found_in_any_order() {
        let many = u32::try_from(FirstPaths::LEAST_KEPT * 4 + 1).unwrap();
        let query = query(Some(path(9).name()), 100);
        let mut first = FirstPaths {
            query: &query,
            paths: Vec::new(),
        };
        // 7 has no divisor in common with the number of paths, so each path comes once.
        let paths = (0..many).map(|number| path(number * 7 % many));
        paths
            .filter(|it| query.may_contain(it.prefix, || it.peer.as_deref(), it.path_id))
            .for_each(|path| first.add(path));
        assert!(first.paths.len() <= FirstPaths::LEAST_KEPT);
        let expected: Vec<_> = (10..110).map(path).collect();
        assert_eq!(first.into_sorted(), expected);
    }

    #[test]
    fn the_text_of_a_name_is_read_back() {
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
