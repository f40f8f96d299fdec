//! Traits of a fake kernel in memory.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::MutexGuard};

use daemon_runtime::{Daemon, ListenAddress};
use data_plane::{Config, ConnectionCounts};

/// A fake kernel in memory for tests of a data plane. Clones refer to one kernel.
pub trait TestKernel: Clone + Default {
    /// The state of the fake kernel.
    type State: TestKernelState;

    /// Starts the data plane on this kernel. Returns the address of its gRPC server.
    fn start(&self, config: Config, daemon: &mut Daemon) -> impl Future<Output = ListenAddress>;

    fn state(&self) -> MutexGuard<'_, Self::State>;

    /// Returns the writes to the kernel since the last call of this function.
    fn take_writes(&self) -> Vec<String> {
        std::mem::take(self.state().writes())
    }
}

/// The state of a fake kernel: its table, connections and log of writes.
pub trait TestKernelState: fmt::Debug {
    /// Returns the weight of a real server in the table.
    fn weight(&self, id: &str, real_server: &str) -> Option<u32>;

    /// Returns the numbers of connections of each real server, which a test can change.
    fn connections(&mut self) -> &mut BTreeMap<SocketAddr, ConnectionCounts>;

    /// Returns the log of the writes that [`TestKernel::take_writes`] has not taken, oldest first.
    fn writes(&mut self) -> &mut Vec<String>;
}
