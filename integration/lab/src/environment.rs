//! The environment in which the lab runs.

use std::env;
use std::fmt::{self, Display};

use anyhow::{Result, bail};

/// An environment of the lab: the kernel on which the lab runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// `host`: the machine's own kernel, in new namespaces.
    Host,
    /// `lab`: the User-Mode Linux kernel that `environment/install kernel` builds.
    LabKernel,
    /// `packaged`: the User-Mode Linux kernel of Debian's package `user-mode-linux`.
    PackagedKernel,
}

impl Environment {
    /// Returns the environment of this process, from the variable `LAB_CURRENT_ENVIRONMENT` that
    /// `environment/run` sets.
    pub fn current() -> Result<Self> {
        match env::var("LAB_CURRENT_ENVIRONMENT").as_deref() {
            Ok("host") => Ok(Self::Host),
            Ok("lab") => Ok(Self::LabKernel),
            Ok("packaged") => Ok(Self::PackagedKernel),
            Ok(_) | Err(_) => bail!(
                "this program creates network namespaces and must run in an environment of the lab; start \
                 it with `integration/lab/environment/run COMMAND`, or set this script as Cargo's runner"
            ),
        }
    }

    /// Reports whether nftables can filter IP packets. Only the packaged kernel cannot.
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
