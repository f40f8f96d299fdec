//! Command line of tunnel-init.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tunnel_init::{Args, Kernel, Plan, prepare};

fn main() -> ExitCode {
    let plan = Plan::new(Args::parse().service_ranges);
    match run(&plan) {
        Ok(()) => {
            eprintln!("tunnel-init: {plan}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tunnel-init: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &Plan) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        prepare(&Kernel::open()?, plan).await?;
        Ok(())
    })
}
