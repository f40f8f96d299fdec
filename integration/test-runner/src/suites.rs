//! The jobs of this repository.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::job::Job;

/// The script that runs a program in an environment of the lab, on a kernel with IPVS.
const RUN_IN_LAB: &str = "integration/lab/environment/run";
const INSTALL: &str = "integration/lab/environment/install";
/// The environment variable that names the program by which cargo runs test binaries.
const CARGO_RUNNER: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER";
/// The folder of the programs that the job `build` compiles.
const PROGRAMS: &str = "target/x86_64-unknown-linux-gnu/debug";
/// The target folder of the lints. It is not the folder of the job `build`, because cargo locks a
/// target folder: a lint in the background would delay every job that starts a test.
const LINT_TARGET: &str = "target/lint";
/// The arguments of cargo that select the tests of all libraries and all test binaries, also the
/// test binaries that need a part of the lab, which `cargo test` does not run by default. Every
/// cargo command of this module that compiles crates has `--workspace`: with another selection of
/// crates, cargo would select other features and compile the dependencies a second time.
const EVERY_TEST: [&str; 5] = ["--locked", "--workspace", "--lib", "--test", "*"];

/// The jobs that run tests in a guest: the name of the job, the name of the test binary, and the
/// beginning of the names of the tests. Each job boots a guest of its own, in which one test runs
/// at a time.
const GUEST_TESTS: [(&str, &str, &str); 12] = [
    ("system-forwarding", "system", "forwarding::"),
    ("system-interop", "system", "interop::"),
    ("system-input", "system", "input::"),
    ("system-failures", "system", "failures::"),
    ("system-foreign", "system", "foreign::"),
    ("system-drain", "system", "drain::"),
    ("system-order", "system", "order::"),
    ("system-swap", "system", "swap::"),
    ("kernel-lab", "data_path", ""),
    ("kernel-parts", "parts", ""),
    ("kernel-ipvs", "ipvs_kernel", ""),
    ("kernel-tunnel", "real_kernel", ""),
];

/// The settings of a run that affect the jobs.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunOptions {
    /// The root of the repository.
    pub(crate) root: PathBuf,
    /// The jobs run only tests whose names contain this text. `None`: the jobs run all tests.
    pub(crate) filter: Option<String>,
    /// Whether property tests run more cases, and the images are made from the release build.
    pub(crate) complete: bool,
    /// The seed of the sample of the long test matrices. `None`: every case.
    pub(crate) sample: Option<u64>,
}

/// Returns all jobs. If several jobs can start, they start in the order of the returned list.
pub(crate) fn all(options: &RunOptions) -> Vec<Job> {
    let mut jobs = vec![
        Job::new("packages", &[INSTALL, "packages"]),
        install("kernel", "kernel"),
        install("grpcurl", "grpcurl"),
        install("api-server", "api-server"),
        install("cluster-parts", "kubernetes"),
        Job::new("format", &["cargo", "fmt", "--all", "--check"]),
        Job::new("build", &["cargo", "test"])
            .arguments(&EVERY_TEST)
            .arguments(&["--no-run"]),
        test(options, "unit", &[], &[]).needs(&["build"]),
        Job::new("pause-image", &["integration/lab/images/build"])
            .needs(&["packages"])
            .on_cores(1),
        test(options, "manifests", &["manifests"], &["--test-threads=2"])
            .needs(&["build", "api-server"])
            .on_cores(1),
        test(
            options,
            "kubernetes",
            &["kubernetes"],
            &["--test-threads=2"],
        )
        // One test of the job starts kube-controller-manager, which `cluster-parts` builds.
        .needs(&["build", "api-server", "cluster-parts"])
        .on_cores(1),
    ];
    jobs.extend(in_guests(options));
    if options.complete {
        let release = Job::new("release", &["make", "--no-print-directory", "programs"]);
        jobs.push(release.needs(&["packages"]).in_background());
    }
    jobs.extend([images(options), cluster(options)]);
    // No job above needs one of the jobs below, so the jobs below are last and mostly use the CPU
    // time that the cluster tests leave idle. They need `packages`, because without a need they
    // would start before the background jobs above, which need `packages`.
    jobs.extend([
        clippy().needs(&["packages"]).in_background(),
        documentation().needs(&["packages"]).in_background(),
        install("cargo-cyclonedx", "cargo-cyclonedx"),
        images_test(options).in_background(),
        install("cargo-deny", "cargo-deny"),
        Job::new("dependencies", &["integration/check-dependencies"])
            .needs(&["cargo-deny"])
            .in_background(),
    ]);
    jobs
}

/// Returns the jobs that a developer runs before each commit.
pub(crate) fn check(base: Option<&str>) -> Result<Vec<Job>> {
    let runner = std::env::current_exe()?;
    let runner = runner.to_string_lossy().into_owned();
    let mut unit = Job::new("unit", &[&runner, "changed-unit"]);
    if let Some(base) = base {
        unit = unit.arguments(&["--base", base]);
    }
    Ok(vec![
        Job::new("format", &["cargo", "fmt", "--all", "--check"]),
        clippy(),
        unit,
    ])
}

/// Returns the named jobs and all jobs that they need, in the order of `jobs`.
pub(crate) fn with_needs(jobs: Vec<Job>, names: &[String]) -> Result<Vec<Job>> {
    let mut wanted: Vec<&str> = Vec::new();
    for name in names {
        let is_named = |job: &&Job| match name.strip_suffix('-') {
            Some(_) => job.name.starts_with(name.as_str()),
            None => job.name == name,
        };
        let before = wanted.len();
        wanted.extend(jobs.iter().filter(is_named).map(|job| job.name));
        if wanted.len() == before {
            let known: Vec<&str> = jobs.iter().map(|job| job.name).collect();
            bail!("unknown job {name:?}; the jobs are: {}", known.join(" "));
        }
    }
    let mut next = 0;
    while let Some(name) = wanted.get(next) {
        let needs = jobs
            .iter()
            .filter(|job| job.name == *name)
            .flat_map(|job| &job.needs);
        for need in needs.copied().collect::<Vec<_>>() {
            if !wanted.contains(&need) {
                wanted.push(need);
            }
        }
        next += 1;
    }
    let wanted: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
    let is_wanted = |job: &Job| wanted.iter().any(|name| name == job.name);
    let chosen: Vec<Job> = jobs.into_iter().filter(is_wanted).collect();
    ensure!(!chosen.is_empty(), "no job is selected");
    Ok(chosen)
}

fn install(name: &'static str, part: &str) -> Job {
    Job::new(name, &[INSTALL, part])
        .needs(&["packages"])
        .in_background()
}

/// Returns the job that runs clippy. The second command of the script checks the tests that need a
/// part of the lab. The first command has checked all other targets.
fn clippy() -> Job {
    let script = "cargo clippy --locked --workspace --all-targets -- -D warnings
        cargo clippy --locked --workspace --test '*' -- -D warnings";
    Job::new("clippy", &["bash", "-euc", script]).with("CARGO_TARGET_DIR", LINT_TARGET)
}

fn documentation() -> Job {
    Job::new(
        "documentation",
        &["cargo", "doc", "--locked", "--workspace", "--no-deps"],
    )
    .with("RUSTDOCFLAGS", "-D warnings")
    .with("CARGO_TARGET_DIR", LINT_TARGET)
}

/// Returns a job that runs the test binaries `binaries`. If `binaries` is empty, the job runs all
/// tests that `cargo test` runs by default.
fn test(options: &RunOptions, name: &'static str, binaries: &[&str], arguments: &[&str]) -> Job {
    let mut job = Job::new(
        name,
        &["cargo", "test", "--locked", "--workspace", "--no-fail-fast"],
    );
    job = job.with(
        "LAB_SAMPLE",
        options
            .sample
            .map_or("all".to_owned(), |seed| seed.to_string()),
    );
    if options.complete {
        job = job.with("PROPTEST_CASES", "2048");
    }
    for binary in binaries {
        job = job.arguments(&["--test", binary]);
    }
    job = job.arguments(&["--"]).arguments(arguments);
    if let Some(filter) = &options.filter {
        job = job.arguments(&[filter]);
    }
    job.runs_tests()
}

fn in_guests(options: &RunOptions) -> Vec<Job> {
    if options.filter.is_some() {
        let binaries = ["system", "data_path", "parts", "ipvs_kernel", "real_kernel"];
        let job = test(options, "system-filtered", &binaries, &["--test-threads=1"]);
        return vec![in_guest(options, job)];
    }
    let job = |(name, binary, tests): (&'static str, &str, &str)| {
        let mut job = test(options, name, &[binary], &["--test-threads=1"]);
        if !tests.is_empty() {
            job = job.arguments(&[tests]);
        }
        in_guest(options, job).on_cores(1)
    };
    GUEST_TESTS.map(job).into()
}

fn in_guest(options: &RunOptions, job: Job) -> Job {
    job.needs(&["build", "kernel", "grpcurl"]).with(
        CARGO_RUNNER,
        options.root.join(RUN_IN_LAB).to_string_lossy(),
    )
}

/// Returns the job that builds the images. In a complete run the images contain the programs of the
/// release build, like the images that users run. In all other runs they contain the programs of
/// the job `build`, which have debug assertions and are compiled for the tests anyway.
fn images(options: &RunOptions) -> Job {
    let job = Job::new("images", &["containers/build"])
        .needs(&[
            "packages",
            if options.complete { "release" } else { "build" },
        ])
        .with("SBOM", "0");
    with_programs(options, job)
}

fn images_test(options: &RunOptions) -> Job {
    let job = Job::new("images-test", &["containers/test", "--built"])
        .needs(&["images", "cargo-cyclonedx"])
        .runs_tests()
        .shown();
    with_programs(options, job)
}

/// Sets, except in a complete run, the environment variables of the job that name the folder of the
/// programs and the size limit of an image in MiB.
fn with_programs(options: &RunOptions, job: Job) -> Job {
    match options.complete {
        true => job,
        false => job.with("PROGRAMS", PROGRAMS).with("LARGEST_MIB", "16"),
    }
}

fn cluster(options: &RunOptions) -> Job {
    let control_plane = format!("{PROGRAMS}/control-plane");
    let job = test(options, "cluster", &["cluster"], &["--nocapture"]);
    in_guest(options, job)
        .needs(&["cluster-parts", "images", "pause-image"])
        .alone()
        .within(Duration::from_secs(50 * 60))
        .shown()
        .with("LAB_MEMORY", "6G")
        .with("LAB_TIMEOUT", "2400")
        .with(
            "LAB_CONTROL_PLANE",
            options.root.join(control_plane).to_string_lossy(),
        )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(jobs: &[Job]) -> Vec<&'static str> {
        jobs.iter().map(|job| job.name).collect()
    }

    #[test]
    fn every_job_has_a_unique_name_and_needs_only_earlier_jobs() {
        let mut earlier = BTreeSet::new();
        for job in all(&RunOptions::default()) {
            for need in &job.needs {
                assert!(earlier.contains(need), "{} needs {need}", job.name);
            }
            assert!(
                earlier.insert(job.name),
                "two jobs have the name {}",
                job.name
            );
        }
    }

    #[test]
    fn the_build_of_the_lab_kernel_starts_before_clippy() {
        let mut schedule = crate::schedule::Schedule::new(2, all(&RunOptions::default()));
        let first = names(&schedule.start());
        assert!(!first.contains(&"clippy"), "{first:?}");
        schedule.end("packages", crate::job::Outcome::Passed);
        let second = names(&schedule.start());
        assert!(second.contains(&"kernel"), "{second:?}");
    }

    #[test]
    fn only_a_complete_run_makes_the_images_from_the_release_build() {
        let needs_of_images = |complete| {
            let options = RunOptions {
                complete,
                ..RunOptions::default()
            };
            let chosen = with_needs(all(&options), &["images".to_owned()]).unwrap();
            names(&chosen)
        };
        assert_eq!(needs_of_images(false), ["packages", "build", "images"]);
        assert_eq!(needs_of_images(true), ["packages", "release", "images"]);
    }

    #[test]
    fn the_selection_of_a_job_includes_all_jobs_that_it_needs() {
        let chosen = with_needs(all(&RunOptions::default()), &["manifests".to_owned()]).unwrap();
        assert_eq!(
            names(&chosen),
            ["packages", "api-server", "build", "manifests"]
        );
    }

    #[test]
    fn a_name_that_ends_in_a_dash_selects_all_jobs_whose_names_begin_with_it() {
        let chosen = with_needs(all(&RunOptions::default()), &["kernel-".to_owned()]).unwrap();
        let names = names(&chosen);
        assert!(
            names.contains(&"kernel-ipvs") && names.contains(&"kernel-parts"),
            "{names:?}"
        );
        assert!(!names.contains(&"system-drain"), "{names:?}");
    }

    #[test]
    fn the_error_of_an_unknown_job_names_all_jobs() {
        let error = with_needs(all(&RunOptions::default()), &["nonsense".to_owned()]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("nonsense") && text.contains("manifests"),
            "{text}"
        );
    }

    #[test]
    fn with_a_filter_one_job_runs_the_tests_of_all_guest_jobs() {
        let options = RunOptions {
            filter: Some("drain".to_owned()),
            ..RunOptions::default()
        };
        let jobs = all(&options);
        let system: Vec<_> = jobs
            .iter()
            .filter(|job| job.name.starts_with("system-"))
            .collect();
        let [job] = system[..] else {
            panic!("{system:?}")
        };
        assert_eq!(job.command.last().unwrap(), "drain");
        assert!(
            job.has_tests,
            "a filter that matches no test must fail the job"
        );
    }

    /// A module of the system tests that has no job in [`GUEST_TESTS`] would never run.
    #[test]
    fn every_module_of_the_system_tests_has_a_job() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/system/main.rs");
        let text = std::fs::read_to_string(file).unwrap();
        let modules = text
            .lines()
            .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
        for module in modules.filter(|module| *module != "expect") {
            let prefix = format!("{module}::");
            let has_job = GUEST_TESTS.iter().any(|(_, _, tests)| *tests == prefix);
            assert!(has_job, "GUEST_TESTS has no job for {prefix}");
        }
    }
}
