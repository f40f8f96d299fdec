//! A demo of the whole load balancer on one machine, step by step.
//!
//! `make demo` runs all steps. `make lab` runs this program with `--prompt`: the first step, then
//! an interactive shell.

mod picture;
mod prompt;
mod steps;
mod story;

use std::process::ExitCode;

use anyhow::Result;
use lab::reference::Options;
use lab::system::System;

use story::{StepResult, Story};

fn main() -> ExitCode {
    let is_prompt = std::env::args()
        .skip(1)
        .any(|argument| argument == "--prompt");
    let mut story = Story::begin();
    let result = if is_prompt {
        start_prompt(&mut story)
    } else {
        run_steps(&mut story)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            story.failed(&error);
            ExitCode::FAILURE
        }
    }
}

fn run_steps(story: &mut Story) -> Result<()> {
    let mut demo = begin("demo", story)?;
    for step in steps::ALL {
        story.step(step.title, || Ok(((), (step.run)(&mut demo)?)))?;
    }
    story.end()
}

fn start_prompt(story: &mut Story) -> Result<()> {
    let mut demo = begin("lab", story)?;
    story.step(steps::ANNOUNCED.title, || {
        Ok(((), steps::announced(&mut demo)?))
    })?;
    story.print(&prompt::example_commands(&demo)?);
    demo.network.lab.prompt()
}

fn begin(name: &str, story: &mut Story) -> Result<System> {
    story.print(&picture::network_diagram());
    let system = story.step("start the network, six web servers and the router", || {
        Ok((System::new(name, Options::default())?, StepResult::new("")))
    })?;
    for line in picture::missing_kernel_features(system.network.lab.environment()) {
        story.print(line);
    }
    Ok(system)
}
