//! The whole load balancer on one machine, told step by step, each step measured.
//!
//! `make demo` runs it; `make lab` runs it with `--prompt`.

mod picture;
mod prompt;
mod steps;
mod story;

use std::process::ExitCode;

use anyhow::Result;
use lab::reference::Options;
use lab::system::System;

use story::{Seen, Story};

fn main() -> ExitCode {
    let is_prompt = std::env::args()
        .skip(1)
        .any(|argument| argument == "--prompt");
    let mut story = Story::begin();
    let told = if is_prompt {
        offer_prompt(&mut story)
    } else {
        tell(&mut story)
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            story.failed(&error);
            ExitCode::FAILURE
        }
    }
}

fn tell(story: &mut Story) -> Result<()> {
    let mut demo = begin("demo", story)?;
    for step in steps::ALL {
        story.step(step.title, || Ok(((), (step.run)(&mut demo)?)))?;
    }
    story.end()
}

fn offer_prompt(story: &mut Story) -> Result<()> {
    let mut demo = begin("lab", story)?;
    story.step(steps::ANNOUNCED.title, || {
        Ok(((), steps::announced(&mut demo)?))
    })?;
    story.say(&prompt::what_to_try(&demo)?);
    demo.network.lab.prompt()
}

fn begin(name: &str, story: &mut Story) -> Result<System> {
    story.say(&picture::of_the_network());
    let system = story.step(
        "the network, six web servers and the router come up",
        || Ok((System::new(name, Options::default())?, Seen::new(""))),
    )?;
    for line in picture::what_this_kernel_lacks(system.network.lab.environment()) {
        story.say(line);
    }
    Ok(system)
}
