//! A demo of the whole load balancer on one machine, step by step.
//!
//! `make demo` runs all steps. `make lab` runs this program with `--prompt`: the first step, and
//! then an interactive shell.

mod introduction;
mod prompt;
mod step_printer;
mod steps;

use std::process::ExitCode;

use anyhow::Result;
use lab::reference::ReferenceOptions;
use lab::system::System;

use step_printer::{StepPrinter, StepResult};

fn main() -> ExitCode {
    let is_prompt = std::env::args()
        .skip(1)
        .any(|argument| argument == "--prompt");
    let mut printer = StepPrinter::begin();
    let result = if is_prompt {
        start_prompt(&mut printer)
    } else {
        run_steps(&mut printer)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            printer.failed(&error);
            ExitCode::FAILURE
        }
    }
}

fn run_steps(printer: &mut StepPrinter) -> Result<()> {
    let mut demo = begin("demo", printer)?;
    for step in steps::ALL {
        printer.step(step.title, || Ok(((), (step.run)(&mut demo)?)))?;
    }
    printer.end()
}

fn start_prompt(printer: &mut StepPrinter) -> Result<()> {
    let mut demo = begin("lab", printer)?;
    printer.step(steps::ANNOUNCED.title, || {
        Ok(((), steps::announced(&mut demo)?))
    })?;
    printer.print(&prompt::example_commands(&demo)?);
    demo.network.lab.prompt()
}

fn begin(name: &str, printer: &mut StepPrinter) -> Result<System> {
    printer.print(&introduction::network_diagram());
    let system = printer.step("start the network, six web servers and the router", || {
        Ok((
            System::new(name, ReferenceOptions::default())?,
            StepResult::new(""),
        ))
    })?;
    for line in introduction::missing_kernel_features(system.network.lab.environment()) {
        printer.print(line);
    }
    Ok(system)
}
