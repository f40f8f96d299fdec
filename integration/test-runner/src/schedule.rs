//! The order in which jobs start.
//!
//! This module starts no process, so its tests can check the order without running a command.

use crate::job::{CpuDemand, Job, Outcome};

/// The state of each job of a run, and the number of cores that the jobs share.
///
/// ```text
/// Waiting ──► Running ──► Ended(Passed | Failed)
///    └──────────────────► Ended(NotRun)
/// ```
#[derive(Debug)]
pub(crate) struct Schedule {
    cores: usize,
    entries: Vec<(Job, State)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Ended(Outcome),
}

impl Schedule {
    /// Returns a schedule in which all jobs wait. If several jobs can start, they start in the
    /// order of `jobs`.
    pub(crate) fn new(cores: usize, jobs: Vec<Job>) -> Self {
        let entries = jobs.into_iter().map(|job| (job, State::Waiting)).collect();
        Self { cores, entries }
    }

    /// Returns the jobs that can start at the time of the call, and marks them as running.
    ///
    /// While a job with `CpuDemand::Cores` waits for free cores, jobs behind it in the order do not
    /// start, except background jobs. Otherwise small jobs could keep a large job waiting forever.
    pub(crate) fn start(&mut self) -> Vec<Job> {
        let mut started = Vec::new();
        let mut free = self.free_cores();
        let mut background_is_free = !self.is_running(|job| job.cpu == CpuDemand::Background);
        for index in 0..self.entries.len() {
            let (job, state) = &self.entries[index];
            if *state != State::Waiting || !self.needs_are_met(job) {
                continue;
            }
            match job.cpu {
                CpuDemand::Background if background_is_free => background_is_free = false,
                CpuDemand::Background => continue,
                CpuDemand::Cores(_) | CpuDemand::Alone if self.cores_of(job) <= free => {
                    free -= self.cores_of(job)
                }
                CpuDemand::Cores(_) => {
                    free = 0;
                    continue;
                }
                // A job that runs alone waits until all cores are free. Jobs behind it in the order
                // can start before it.
                CpuDemand::Alone => continue,
            }
            started.push(job.clone());
            self.entries[index].1 = State::Running;
        }
        started
    }

    /// Records the result of a job. If the job has not passed, also records as not run all jobs
    /// that need this job, directly or through other jobs, and returns the names of the jobs that
    /// are not run.
    pub(crate) fn end(&mut self, name: &'static str, outcome: Outcome) -> Vec<&'static str> {
        let mut not_passed = match outcome {
            Outcome::Passed => Vec::new(),
            Outcome::Failed(_) | Outcome::NotRun { .. } => vec![name],
        };
        if let Some((_, state)) = self.entries.iter_mut().find(|(job, _)| job.name == name) {
            *state = State::Ended(outcome);
        }
        let mut skipped = Vec::new();
        while let Some(because_of) = not_passed.pop() {
            for (job, state) in &mut self.entries {
                if *state == State::Waiting && job.needs.contains(&because_of) {
                    *state = State::Ended(Outcome::NotRun { because_of });
                    skipped.push(job.name);
                    not_passed.push(job.name);
                }
            }
        }
        skipped
    }

    /// Reports whether all jobs have ended.
    pub(crate) fn is_over(&self) -> bool {
        let has_ended = |state: &State| matches!(state, State::Ended(_));
        self.entries.iter().all(|(_, state)| has_ended(state))
    }

    /// Returns the result of a job, or `None` if the job has not ended.
    pub(crate) fn outcome(&self, name: &str) -> Option<&Outcome> {
        self.entries.iter().find_map(|(job, state)| match state {
            State::Ended(outcome) if job.name == name => Some(outcome),
            State::Ended(_) | State::Waiting | State::Running => None,
        })
    }

    fn needs_are_met(&self, job: &Job) -> bool {
        let has_passed = |name: &&str| self.outcome(name) == Some(&Outcome::Passed);
        job.needs.iter().all(has_passed)
    }

    fn is_running(&self, matches: impl Fn(&Job) -> bool) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|(job, state)| *state == State::Running && matches(job))
    }

    fn free_cores(&self) -> usize {
        let running = self
            .entries
            .iter()
            .filter(|(_, state)| *state == State::Running);
        let taken = running.map(|(job, _)| self.cores_of(job)).sum();
        self.cores.saturating_sub(taken)
    }

    /// Returns the number of cores that a job occupies: all cores if it runs alone, none in the
    /// background, and otherwise its number of cores, at most all cores.
    fn cores_of(&self, job: &Job) -> usize {
        match job.cpu {
            CpuDemand::Cores(cores) => cores.min(self.cores),
            CpuDemand::Alone => self.cores,
            CpuDemand::Background => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &'static str) -> Job {
        Job::new(name, &["true"])
    }

    fn names(jobs: &[Job]) -> Vec<&'static str> {
        jobs.iter().map(|job| job.name).collect()
    }

    #[test]
    fn a_background_job_starts_immediately_although_another_job_takes_all_cores() {
        let jobs = vec![job("build"), job("kernel").in_background()];
        let mut schedule = Schedule::new(2, jobs);
        assert_eq!(names(&schedule.start()), ["build", "kernel"]);
        assert_eq!(names(&schedule.start()), [""; 0]);
    }

    #[test]
    fn background_jobs_run_one_at_a_time_in_the_order_of_the_schedule() {
        let jobs = vec![
            job("kernel").in_background(),
            job("grpcurl").in_background(),
        ];
        let mut schedule = Schedule::new(2, jobs);
        assert_eq!(names(&schedule.start()), ["kernel"]);
        schedule.end("kernel", Outcome::Passed);
        assert_eq!(names(&schedule.start()), ["grpcurl"]);
    }

    #[test]
    fn a_job_starts_only_when_every_job_that_it_needs_has_passed() {
        let jobs = vec![
            job("a").on_cores(1),
            job("b").on_cores(1),
            job("c").needs(&["a", "b"]),
        ];
        let mut schedule = Schedule::new(2, jobs);
        assert_eq!(names(&schedule.start()), ["a", "b"]);
        schedule.end("a", Outcome::Passed);
        assert_eq!(names(&schedule.start()), [""; 0]);
        schedule.end("b", Outcome::Passed);
        assert_eq!(names(&schedule.start()), ["c"]);
    }

    #[test]
    fn small_jobs_do_not_start_before_a_waiting_large_job() {
        let jobs = vec![
            job("small").on_cores(1),
            job("large"),
            job("other").on_cores(1),
        ];
        let mut schedule = Schedule::new(2, jobs);
        assert_eq!(names(&schedule.start()), ["small"]);
        schedule.end("small", Outcome::Passed);
        assert_eq!(names(&schedule.start()), ["large"]);
    }

    #[test]
    fn a_job_that_runs_alone_starts_when_all_cores_are_free_and_delays_other_foreground_jobs() {
        let jobs = vec![
            job("kernel").in_background(),
            job("build").on_cores(1),
            job("cluster").needs(&["kernel"]).alone(),
            job("unit").on_cores(1).needs(&["build"]),
            job("clippy").in_background(),
        ];
        let mut schedule = Schedule::new(2, jobs);
        assert_eq!(names(&schedule.start()), ["kernel", "build"]);
        schedule.end("kernel", Outcome::Passed);
        assert_eq!(names(&schedule.start()), ["clippy"]);
        schedule.end("build", Outcome::Passed);
        assert_eq!(names(&schedule.start()), ["cluster"]);
        assert_eq!(names(&schedule.start()), [""; 0]);
        schedule.end("clippy", Outcome::Passed);
        assert_eq!(names(&schedule.start()), [""; 0]);
        schedule.end("cluster", Outcome::Passed);
        assert_eq!(names(&schedule.start()), ["unit"]);
    }

    #[test]
    fn jobs_that_need_a_failed_job_are_not_run_and_all_other_jobs_are_run() {
        let jobs = vec![
            job("build").on_cores(1),
            job("unit").needs(&["build"]),
            job("report").needs(&["unit"]),
            job("format").on_cores(1),
        ];
        let mut schedule = Schedule::new(1, jobs);
        assert_eq!(names(&schedule.start()), ["build"]);
        let skipped = schedule.end("build", Outcome::Failed("exit status 1".to_owned()));
        assert_eq!(skipped, ["unit", "report"]);
        assert_eq!(
            schedule.outcome("report"),
            Some(&Outcome::NotRun { because_of: "unit" })
        );
        assert_eq!(names(&schedule.start()), ["format"]);
        assert!(!schedule.is_over());
        schedule.end("format", Outcome::Passed);
        assert!(schedule.is_over());
    }
}
