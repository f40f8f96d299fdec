//! Command line of tunnel-init.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tunnel_init::{Args, Kernel, Plan, Tunnel, prepare};

fn main() -> ExitCode {
    let plan = Plan::new(Args::parse().service_ranges);
    match run(&plan) {
        Ok(without_rules) => {
            eprintln!("tunnel-init: {plan}");
            for tunnel in without_rules {
                eprintln!(
                    "tunnel-init: warning: the kernel has no routing rules for packets of {} \
                     ({}), so this pod answers its own calls to every address of these ranges",
                    tunnel.device(),
                    tunnel.rules_option()
                );
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tunnel-init: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &Plan) -> anyhow::Result<Vec<Tunnel>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let without_rules = prepare(&Kernel::open()?, plan).await?;
        Ok(without_rules)
    })
}
