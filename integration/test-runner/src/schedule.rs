//! Which job starts next: pure, so that every order can be tested.

use crate::job::{Job, Load, Outcome};

/// The state of every job of a run.
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
    /// All jobs wait. Earlier jobs go first where two could start.
    pub(crate) fn new(cores: usize, jobs: Vec<Job>) -> Self {
        let entries = jobs.into_iter().map(|job| (job, State::Waiting)).collect();
        Self { cores, entries }
    }

    /// The jobs that start at this moment; they count as running from then on.
    ///
    /// A foreground job that waits for cores holds back the later ones, so that small jobs cannot
    /// starve it.
    pub(crate) fn start(&mut self) -> Vec<Job> {
        let mut started = Vec::new();
        let mut free = self.free_cores();
        let mut background_is_free = !self.is_running(|job| job.load == Load::Background);
        for index in 0..self.entries.len() {
            let (job, state) = &self.entries[index];
            if *state != State::Waiting || !self.needs_are_met(job) {
                continue;
            }
            match job.load {
                Load::Background if background_is_free => background_is_free = false,
                Load::Background => continue,
                Load::Cores(_) | Load::Alone if self.taken(job) <= free => free -= self.taken(job),
                Load::Cores(_) => {
                    free = 0;
                    continue;
                }
                // The jobs on cores end by themselves, and those that wait may go before.
                Load::Alone => continue,
            }
            started.push(job.clone());
            self.entries[index].1 = State::Running;
        }
        started
    }

    /// Records the end of a job, and of all those that can never start because of it. Returns the
    /// names of the latter.
    pub(crate) fn end(&mut self, name: &'static str, outcome: Outcome) -> Vec<&'static str> {
        let mut lost = match outcome {
            Outcome::Passed => Vec::new(),
            Outcome::Failed(_) | Outcome::NotRun { .. } => vec![name],
        };
        if let Some((_, state)) = self.entries.iter_mut().find(|(job, _)| job.name == name) {
            *state = State::Ended(outcome);
        }
        let mut skipped = Vec::new();
        while let Some(because_of) = lost.pop() {
            for (job, state) in &mut self.entries {
                if *state == State::Waiting && job.needs.contains(&because_of) {
                    *state = State::Ended(Outcome::NotRun { because_of });
                    skipped.push(job.name);
                    lost.push(job.name);
                }
            }
        }
        skipped
    }

    /// Whether every job has ended.
    pub(crate) fn is_over(&self) -> bool {
        let has_ended = |state: &State| matches!(state, State::Ended(_));
        self.entries.iter().all(|(_, state)| has_ended(state))
    }

    /// How a job ended, where it has.
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

    fn is_running(&self, is_it: impl Fn(&Job) -> bool) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|(job, state)| *state == State::Running && is_it(job))
    }

    fn free_cores(&self) -> usize {
        let running = self
            .entries
            .iter()
            .filter(|(_, state)| *state == State::Running);
        let taken = running.map(|(job, _)| self.taken(job)).sum();
        self.cores.saturating_sub(taken)
    }

    /// A job that wants more cores than there are takes them all, and so does one that runs alone.
    fn taken(&self, job: &Job) -> usize {
        match job.load {
            Load::Cores(cores) => cores.min(self.cores),
            Load::Alone => self.cores,
            Load::Background => 0,
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
    fn a_background_job_starts_at_once_beside_a_job_that_takes_all_cores() {
        let jobs = vec![job("build"), job("kernel").in_background()];
        let mut schedule = Schedule::new(2, jobs);
        assert_eq!(names(&schedule.start()), ["build", "kernel"]);
        assert_eq!(names(&schedule.start()), [""; 0]);
    }

    #[test]
    fn background_jobs_run_one_at_a_time_in_order() {
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
    fn a_large_job_is_not_overtaken_for_ever_by_small_ones() {
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
    fn a_job_that_runs_alone_waits_for_jobs_on_cores_and_holds_back_all_but_the_background() {
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
    fn what_needs_a_failed_job_is_not_run_and_all_else_is() {
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
