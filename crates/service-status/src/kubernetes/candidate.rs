//! Election of the pod that writes the status.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, api::PostParams};
use kubernetes_client::{
    client::root_cause,
    grant::{ApiRequest, Resource},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    api_server::{ApiServer, FailureLog, silent_for},
    warn_about_duration,
};
use crate::{
    election::{DURATION, Election, LeaseAction, LeaseRecord},
    lease_duration::{self, BoundedDuration},
};

/// Shortest time from the start of one read of the Lease to the start of the next read. The next
/// read starts later if the API server answers more slowly.
const PERIOD: Duration = Duration::from_secs(3);

/// Longest wait for all answers of the API server in one round: the answers to the read and to the
/// write of the Lease.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time for releasing the Lease when this daemon ends.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// The task that takes part in the election.
#[derive(Debug)]
pub(crate) struct LeaseCandidate {
    pub(crate) server: ApiServer,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) identity: String,
    /// The time at which this pod stops leading unless it renews the Lease. `None` if it does not
    /// lead.
    pub(crate) leads: watch::Sender<Option<Instant>>,
}

impl LeaseCandidate {
    /// Takes part in the election until `written` is cancelled, because the status writer has
    /// ended. Then releases the Lease, if this pod leads.
    pub(crate) async fn run(mut self, written: CancellationToken) {
        let mut election = Election::new(self.identity.clone());
        let resource = Resource::of::<Lease>(Some(self.namespace.clone()));
        let mut failures = FailureLog::new("lease");
        loop {
            tokio::select! {
                () = self.period(&mut election, &resource, &mut failures) => {}
                () = written.cancelled() => break,
            }
        }
        let led = self.leads.send_replace(None).is_some();
        self.server.metrics.lease_held.set(0);
        if led {
            // After the release another pod can take the Lease immediately, without waiting for its
            // expiry.
            let release = self.release();
            match tokio::time::timeout(SHUTDOWN_TIMEOUT, release).await {
                Ok(Ok(())) => tracing::info!(lease = self.name, "released the Lease"),
                Ok(Err(error)) => {
                    tracing::info!(
                        error = root_cause(&error),
                        "cannot release the Lease; the Lease expires after its duration"
                    );
                }
                Err(_) => {
                    tracing::info!(
                        "cannot release the Lease; the Lease expires after its duration"
                    );
                }
            }
        }
    }

    /// Reads the Lease, and takes or renews it if possible. Returns when the next period begins. A
    /// leader whose renewal does not succeed stops leading at its deadline, even if a request is
    /// still running.
    async fn period(
        &mut self,
        election: &mut Election,
        resource: &Resource,
        failures: &mut FailureLog,
    ) {
        let started = Instant::now();
        let mut limit = started + ANSWER_TIMEOUT;
        if let Some(end) = election.leads_until().filter(|end| *end > started) {
            limit = limit.min(end);
        }
        let round = self.round(election, resource, failures);
        if tokio::time::timeout_at(limit.into(), round).await.is_err() {
            failures.log_failure(&self.server.metrics, "silent", || {
                silent_for(ANSWER_TIMEOUT)
            });
        }
        self.publish(election);
        let wake = started + PERIOD;
        if let Some(end) = election.leads_until().filter(|end| *end < wake) {
            tokio::time::sleep_until(end.into()).await;
            self.publish(election);
        }
        tokio::time::sleep_until(wake.into()).await;
    }

    fn publish(&self, election: &Election) {
        let until = election
            .leads_until()
            .filter(|until| Instant::now() < *until);
        let leads = until.is_some();
        let before = self.leads.send_replace(until);
        if before.is_some() != leads {
            tracing::info!(
                lease = self.name,
                leads,
                "the leadership of this pod has changed"
            );
        }
        self.server.metrics.lease_held.set(i64::from(leads));
    }

    async fn round(
        &mut self,
        election: &mut Election,
        resource: &Resource,
        failures: &mut FailureLog,
    ) {
        let mut verb = "get";
        match self.read_and_write(election, &mut verb).await {
            Ok(()) => failures.log_recovery(),
            // 409: another pod wrote the Lease after this pod read it.
            Err(kube::Error::Api(status)) if status.code == 409 => failures.log_recovery(),
            Err(error) => {
                let asked = ApiRequest {
                    verb,
                    resource,
                    subresource: None,
                    verbs: &["get", "list", "watch", "create", "update", "patch"],
                };
                self.server.refused(&error, &asked, failures).await;
            }
        }
    }

    async fn read_and_write(
        &mut self,
        election: &mut Election,
        verb: &mut &'static str,
    ) -> kube::Result<()> {
        let api = self.api().await?;
        let asked = Instant::now();
        let lease = api.get_opt(&self.name).await?;
        if let Some(lease) = &lease {
            let bounded = duration(lease);
            if election.duration_to_log(bounded).is_some() {
                warn_about_duration(&self.name, bounded);
            }
        }
        let step = election.observe(lease.as_ref().map(record), asked);
        let asked = Instant::now();
        match (step, lease) {
            (LeaseAction::Create, _) | (_, None) => {
                *verb = "create";
                let lease = self.lease(None, &self.identity, DURATION);
                api.create(&PostParams::default(), &lease).await?;
            }
            (LeaseAction::Take | LeaseAction::Renew, Some(lease)) => {
                *verb = "update";
                let lease = self.lease(Some(lease), &self.identity, DURATION);
                api.replace(&self.name, &PostParams::default(), &lease)
                    .await?;
            }
            (LeaseAction::Wait, Some(_)) => return Ok(()),
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

    /// Returns the Lease to write. It keeps the resourceVersion of the Lease that was read
    /// (`former`), so that only one of two concurrent writers succeeds.
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

fn record(lease: &Lease) -> LeaseRecord {
    let spec = lease.spec.clone().unwrap_or_default();
    LeaseRecord {
        holder: spec.holder_identity.unwrap_or_default(),
        renewed: spec.renew_time.map(|time| time.0),
        duration: duration(lease).duration,
    }
}

fn duration(lease: &Lease) -> BoundedDuration {
    let spec = lease.spec.as_ref();
    lease_duration::bounded(spec.and_then(|spec| spec.lease_duration_seconds))
}
