use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tunnel_init::{Args, Tunnel, TunnelKernel, TunnelPlan, prepare};

fn main() -> ExitCode {
    let plan = TunnelPlan::new(Args::parse().service_ranges);
    match run(&plan) {
        Ok(without_rules) => {
            eprintln!("tunnel-init: {plan}");
            for tunnel in without_rules {
                eprintln!(
                    "tunnel-init: warning: the kernel has no routing rules for packets of {} \
                     ({}); this pod itself answers the connections that it opens to any \
                     address of these ranges",
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

fn run(plan: &TunnelPlan) -> anyhow::Result<Vec<Tunnel>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the tokio runtime")?;
    runtime.block_on(async {
        let without_rules = prepare(&TunnelKernel::open()?, plan).await?;
        Ok(without_rules)
    })
}
