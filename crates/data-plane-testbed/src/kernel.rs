//! What a test's kernel in memory offers.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::MutexGuard};

use daemon_runtime::{Daemon, ListenAddress};
use data_plane::{Config, Connections};

/// A kernel in memory; its clones are handles of the same kernel.
pub trait Kernel: Clone + Default {
    /// What the kernel holds.
    type State: State;

    /// Starts the data plane on this kernel; returns where DataPlane is served.
    fn start(&self, config: Config, daemon: &mut Daemon) -> impl Future<Output = ListenAddress>;

    /// Locks and returns the state.
    fn state(&self) -> MutexGuard<'_, Self::State>;

    /// Returns what was written since the last call.
    fn take_writes(&self) -> Vec<String> {
        std::mem::take(self.state().writes())
    }
}

/// What a kernel holds.
pub trait State: fmt::Debug {
    /// Returns the weight of a real server in the table.
    fn weight(&self, id: &str, real_server: &str) -> Option<u32>;

    /// Counted connections of real servers.
    fn connections(&mut self) -> &mut BTreeMap<SocketAddr, Connections>;

    /// Everything that was written, in order.
    fn writes(&mut self) -> &mut Vec<String>;
}
