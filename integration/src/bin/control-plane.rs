//! A Kubernetes control plane on the machine's own kernel.
//!
//! `environment/run` starts this program together with a guest, if `LAB_CONTROL_PLANE` names it.

fn main() -> anyhow::Result<()> {
    lab::kubernetes::control_plane_host::serve()
}
