//! Which pod writes: one Lease, and who holds it.
//!
//! ```text
//!             nobody holds it, or the holder
//!             has not renewed it for its duration
//!   Follower ────────────────────────────────────► Leader
//!      ▲                                             │
//!      └─────────────────────────────────────────────┘
//!        another one holds it, or it could not be renewed in time
//! ```
//!
//! Whether a holder still renews is seen by the local clock: from when its last change was noticed,
//! not from the time that it wrote. A leader stops earlier than others may begin.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, api::PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    client::{self, Asked},
    grant::Resource,
    lease_duration::{self, Believed},
    writes::{ApiServer, Problems},
};

/// A holder that has not renewed for this long has lost it.
const DURATION: Duration = Duration::from_secs(15);

/// A holder that could not renew for this long stops to write.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// From one look at the Lease to the next.
const PERIOD: Duration = Duration::from_secs(3);

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait until the Lease is given up.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(2);

/// What the Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Empty: nobody.
    pub(crate) holder: String,
    pub(crate) renewed: Option<MicroTime>,
    pub(crate) duration: Duration,
}

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It does not exist.
    Create,
    /// Nobody holds it any more.
    Take,
    /// We hold it.
    Renew,
    /// Another one holds it.
    Wait,
}

/// Who holds the Lease, as far as we know.
#[derive(Debug)]
pub(crate) struct Election {
    identity: String,
    /// What was seen last, and since when it has been so.
    seen: Option<(Record, Instant)>,
    /// We lead until then.
    leads_until: Option<Instant>,
    /// The duration out of bounds that was told of last, in seconds.
    told_duration: Option<i32>,
}

impl Election {
    pub(crate) fn new(identity: String) -> Self {
        Self {
            identity,
            seen: None,
            leads_until: None,
            told_duration: None,
        }
    }

    /// Returns the duration out of bounds that is to be told of: each once, until another holder
    /// writes a duration that is believed.
    fn duration_to_tell(&mut self, believed: Believed) -> Option<i32> {
        let before = std::mem::replace(&mut self.told_duration, believed.written);
        believed.written.filter(|written| before != Some(*written))
    }

    /// What the Lease is, and what follows.
    pub(crate) fn observe(&mut self, record: Option<Record>, now: Instant) -> Step {
        let Some(record) = record else {
            self.seen = None;
            self.leads_until = None;
            return Step::Create;
        };
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != record) {
            self.seen = Some((record.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        if record.holder == self.identity {
            return Step::Renew;
        }
        self.leads_until = None;
        if record.holder.is_empty() || now >= since + record.duration {
            Step::Take
        } else {
            Step::Wait
        }
    }

    /// We have written ourselves into it; `asked` is when the request was sent.
    pub(crate) fn written(&mut self, asked: Instant) {
        self.leads_until = Some(asked + RENEW_DEADLINE);
    }

    pub(crate) fn leads_until(&self) -> Option<Instant> {
        self.leads_until
    }
}

/// The one task that takes part in the election.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) server: ApiServer,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) identity: String,
    /// Until when we lead, if we do.
    pub(crate) leads: watch::Sender<Option<Instant>>,
}

impl Candidate {
    /// Takes part until nothing is to be written any more, then gives the Lease up.
    pub(crate) async fn run(mut self, written: CancellationToken) {
        let mut election = Election::new(self.identity.clone());
        let resource = Resource::of::<Lease>(Some(self.namespace.clone()));
        let mut problems = Problems::new("lease");
        loop {
            tokio::select! {
                () = self.period(&mut election, &resource, &mut problems) => {}
                () = written.cancelled() => break,
            }
        }
        let led = self.leads.send_replace(None).is_some();
        self.server.metrics.lease_held.set(0);
        if led {
            // The next one need not wait for the end of its duration.
            let release = self.release();
            match tokio::time::timeout(END_TIMEOUT, release).await {
                Ok(Ok(())) => tracing::info!(lease = self.name, "given up"),
                Ok(Err(error)) => {
                    tracing::info!(
                        error = client::innermost(&error),
                        "the Lease runs out by itself"
                    );
                }
                Err(_) => tracing::info!("the Lease runs out by itself"),
            }
        }
    }

    /// Looks at the Lease once. A leader that cannot renew it stops in time, whatever becomes of
    /// the request.
    async fn period(
        &mut self,
        election: &mut Election,
        resource: &Resource,
        problems: &mut Problems,
    ) {
        let begun = Instant::now();
        let mut limit = begun + ANSWER_TIMEOUT;
        if let Some(end) = election.leads_until().filter(|end| *end > begun) {
            limit = limit.min(end);
        }
        let round = self.round(election, resource, problems);
        if tokio::time::timeout_at(limit.into(), round).await.is_err() {
            problems.note(&self.server.metrics, "silent", || {
                format!(
                    "the API server has not answered for {} s",
                    ANSWER_TIMEOUT.as_secs()
                )
            });
        }
        self.tell(election);
        let wake = begun + PERIOD;
        if let Some(end) = election.leads_until().filter(|end| *end < wake) {
            tokio::time::sleep_until(end.into()).await;
            self.tell(election);
        }
        tokio::time::sleep_until(wake.into()).await;
    }

    fn tell(&self, election: &Election) {
        let until = election
            .leads_until()
            .filter(|until| Instant::now() < *until);
        let leads = until.is_some();
        let before = self.leads.send_replace(until);
        if before.is_some() != leads {
            tracing::info!(lease = self.name, leads, "who writes status has changed");
        }
        self.server.metrics.lease_held.set(i64::from(leads));
    }

    async fn round(
        &mut self,
        election: &mut Election,
        resource: &Resource,
        problems: &mut Problems,
    ) {
        let mut verb = "get";
        match self.look_and_write(election, &mut verb).await {
            Ok(()) => problems.solved(),
            // Another one was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => problems.solved(),
            Err(error) => {
                let asked = Asked {
                    verb,
                    resource,
                    subresource: None,
                    verbs: &["get", "list", "watch", "create", "update", "patch"],
                };
                self.server.failed(&error).await;
                let url = self.server.url();
                problems.note(&self.server.metrics, &client::label(&error), || {
                    client::in_words(&error, &url, &asked)
                });
            }
        }
    }

    async fn look_and_write(
        &mut self,
        election: &mut Election,
        verb: &mut &'static str,
    ) -> kube::Result<()> {
        let api = self.api().await?;
        let asked = Instant::now();
        let lease = api.get_opt(&self.name).await?;
        if let Some(lease) = &lease {
            let believed = duration(lease);
            if let Some(written) = election.duration_to_tell(believed) {
                lease_duration::warn(&self.name, believed, written);
            }
        }
        let step = election.observe(lease.as_ref().map(record), asked);
        let asked = Instant::now();
        match (step, lease) {
            (Step::Create, _) | (_, None) => {
                *verb = "create";
                let lease = self.lease(None, &self.identity, DURATION);
                api.create(&PostParams::default(), &lease).await?;
            }
            (Step::Take | Step::Renew, Some(lease)) => {
                *verb = "update";
                let lease = self.lease(Some(lease), &self.identity, DURATION);
                api.replace(&self.name, &PostParams::default(), &lease)
                    .await?;
            }
            (Step::Wait, Some(_)) => return Ok(()),
        }
        election.written(asked);
        self.server.metrics.wrote("lease");
        Ok(())
    }

    async fn release(&mut self) -> kube::Result<()> {
        let api = self.api().await?;
        let Some(lease) = api.get_opt(&self.name).await? else {
            return Ok(());
        };
        if record(&lease).holder == self.identity {
            let lease = self.lease(Some(lease), "", Duration::from_secs(1));
            api.replace(&self.name, &PostParams::default(), &lease)
                .await?;
        }
        Ok(())
    }

    /// `former` keeps its resourceVersion, so that only one of two writers succeeds.
    fn lease(&self, former: Option<Lease>, holder: &str, duration: Duration) -> Lease {
        let mut lease = former.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_deref() != Some(holder) {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
        }
        spec.holder_identity = Some(holder.to_owned());
        spec.lease_duration_seconds = i32::try_from(duration.as_secs()).ok();
        spec.renew_time = Some(now);
        lease
    }

    async fn api(&mut self) -> kube::Result<Api<Lease>> {
        let client = self.server.client().await?;
        Ok(Api::namespaced(client, &self.namespace))
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        renewed: spec.renew_time,
        duration: duration(lease).duration,
    }
}

fn duration(lease: &Lease) -> Believed {
    let spec = lease.spec.as_ref();
    lease_duration::believed(spec.and_then(|spec| spec.lease_duration_seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(holder: &str, renewed_second: i64) -> Option<Record> {
        Some(Record {
            holder: holder.to_owned(),
            renewed: Timestamp::from_second(renewed_second).ok().map(MicroTime),
            duration: DURATION,
        })
    }

    #[test]
    fn a_lease_that_nobody_holds_is_taken() {
        let now = Instant::now();
        let mut election = Election::new("a".to_owned());
        assert_eq!(election.observe(None, now), Step::Create);
        assert_eq!(election.observe(held("", 1), now), Step::Take);
        assert_eq!(election.leads_until(), None);
        election.written(now);
        assert_eq!(election.leads_until(), Some(now + RENEW_DEADLINE));
        assert_eq!(election.observe(held("a", 1), now), Step::Renew);
    }

    #[test]
    fn a_holder_that_renews_keeps_it_and_one_that_does_not_loses_it() {
        let now = Instant::now();
        let mut election = Election::new("b".to_owned());
        assert_eq!(election.observe(held("a", 1), now), Step::Wait);
        let later = now + DURATION - PERIOD;
        assert_eq!(election.observe(held("a", 2), later), Step::Wait);
        let end = later + DURATION;
        let before = end - Duration::from_millis(1);
        assert_eq!(election.observe(held("a", 2), before), Step::Wait);
        assert_eq!(election.observe(held("a", 2), end), Step::Take);
    }

    #[test]
    fn a_holder_that_writes_a_duration_out_of_bounds_keeps_the_lease_for_the_longest_one() {
        let lease = |seconds: i32| Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some("a".to_owned()),
                lease_duration_seconds: Some(seconds),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        let now = Instant::now();
        let mut election = Election::new("b".to_owned());
        let endless = lease(i32::MAX);
        let longest = Duration::from_secs(60);
        assert_eq!(election.observe(Some(record(&endless)), now), Step::Wait);
        let before = now + longest - Duration::from_millis(1);
        assert_eq!(election.observe(Some(record(&endless)), before), Step::Wait);
        let end = now + longest;
        assert_eq!(election.observe(Some(record(&endless)), end), Step::Take);
        // The log has one line about it.
        assert_eq!(
            election.duration_to_tell(duration(&endless)),
            Some(i32::MAX)
        );
        assert_eq!(election.duration_to_tell(duration(&endless)), None);
        assert_eq!(election.duration_to_tell(duration(&lease(15))), None);
        assert_eq!(election.duration_to_tell(duration(&lease(61))), Some(61));
    }

    #[test]
    fn a_holder_stops_when_another_has_taken_it_and_before_another_may() {
        let now = Instant::now();
        let mut election = Election::new("a".to_owned());
        election.written(now);
        assert!(election.leads_until().unwrap() < now + DURATION);
        assert_eq!(election.observe(held("b", 9), now), Step::Wait);
        assert_eq!(election.leads_until(), None);
    }

    #[test]
    fn a_restarted_holder_goes_on_with_its_own_lease() {
        let mut election = Election::new("a".to_owned());
        let step = election.observe(held("a", 1), Instant::now());
        assert_eq!(step, Step::Renew);
    }
}
