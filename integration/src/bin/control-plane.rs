//! A control plane on the machine's own kernel; `environment/run` starts it beside a guest
//! (`LAB_CONTROL_PLANE`).

fn main() -> anyhow::Result<()> {
    lab::kubernetes::outside::serve()
}
