//! Which kernel the lab stands on.

use std::env;
use std::fmt::{self, Display};

use anyhow::{Result, bail};

/// The floors that `environment/run` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// The machine's own kernel.
    Host,
    /// The kernel that `environment/install kernel` builds.
    LabKernel,
    /// Debian's User-Mode Linux.
    PackagedKernel,
}

impl Environment {
    /// The floor that this process was started on.
    pub fn current() -> Result<Self> {
        match env::var("LAB_CURRENT_ENVIRONMENT").as_deref() {
            Ok("host") => Ok(Self::Host),
            Ok("lab") => Ok(Self::LabKernel),
            Ok("packaged") => Ok(Self::PackagedKernel),
            Ok(_) | Err(_) => bail!(
                "this makes network namespaces and runs only on a environment of the lab; start it \
                 with `integration/lab/environment/run COMMAND`, or make that Cargo's runner"
            ),
        }
    }

    /// Whether nftables can filter IP packets; the packaged kernel's cannot.
    pub fn has_nftables_for_ip(self) -> bool {
        match self {
            Self::Host | Self::LabKernel => true,
            Self::PackagedKernel => false,
        }
    }
}

impl Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "the machine's own kernel",
            Self::LabKernel => "the lab kernel (User-Mode Linux)",
            Self::PackagedKernel => "Debian's User-Mode Linux",
        })
    }
}
