//! A control plane on the machine's own kernel; `floor/run` starts it beside a guest
//! (`LAB_OUTSIDE`).

fn main() -> anyhow::Result<()> {
    lab::kubernetes::outside::serve()
}
