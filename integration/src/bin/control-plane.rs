//! A Kubernetes control plane on the machine's own kernel.
//!
//! `environment/run` starts this program together with a guest if the environment variable
//! `LAB_CONTROL_PLANE` names this program.

fn main() -> anyhow::Result<()> {
    lab::kubernetes::control_plane_host::serve()
}
