//! The cluster's control plane on the machine's own kernel; `floor/run` starts it beside a guest
//! (`LAB_OUTSIDE`).

fn main() -> anyhow::Result<()> {
    lab::cluster::serve_control_plane()
}
