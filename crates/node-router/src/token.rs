//! ServiceAccount tokens of holders, verified with the keys of the cluster.
//!
//! A token is a JSON Web Token that the API server signed for one pod and for the audience
//! [`AUDIENCE`]. Nothing here logs or prints a token.

mod keys;
mod signature;

use std::sync::Arc;

use ipnet::IpNet;
use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind, get_current_timestamp};
use serde::Deserialize;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;

use crate::{error::Refusal, namespaces::NamespacePrefixes};
pub(crate) use keys::{KeysFile, TokenKeys};
pub use keys::{KeysFileError, TokenKeysError};

/// Audience that a token must name. A token for the API server proves nothing here.
pub const AUDIENCE: &str = "portlb";

/// Most bytes of a token. Those of kube-apiserver have 1,000 to 1,500.
pub const LONGEST_TOKEN: usize = 8 * 1024;

/// Difference between the clocks of this node and of the API server that is tolerated, in seconds.
const LEEWAY_SECONDS: u64 = 30;

/// Most characters of a key id in a message: the sender of a bad token chooses it.
const LONGEST_SHOWN_KEY_ID: usize = 64;

/// Decides by its token which prefixes a holder may hold.
#[derive(Clone, Debug)]
pub(crate) struct TokenGate {
    pub(crate) keys: watch::Receiver<Arc<TokenKeys>>,
    pub(crate) issuer: String,
    pub(crate) namespaces: NamespacePrefixes,
}

/// The pod that a token was issued for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) pod_uid: String,
    pub(crate) service_account: String,
}

/// A token that is not verified yet. It has no `Debug`, so that no log can show it.
pub(crate) struct UnverifiedToken(String);

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenProblem {
    #[error("the hold carries none; give bgp-announcer --hold-token-file")]
    Missing,
    #[error("it is longer than {LONGEST_TOKEN} bytes")]
    TooLong,
    #[error("it is no JSON Web Token with one of the algorithms RS256, ES256 and ES384")]
    Malformed,
    #[error(
        "no key of --token-keys-file has its key id {0:?}; after a change of the cluster's keys write \
         the answer of `kubectl get --raw /openid/v1/jwks` into the file"
    )]
    UnknownKey(String),
    #[error("its algorithm is not that of the key that it names")]
    Algorithm,
    #[error("its signature is not by the key that it names")]
    Signature,
    #[error("it has expired; the kubelet renews the file of a projected token")]
    Expired,
    #[error("it is not valid yet; compare the clocks of this node and of the API server")]
    NotYetValid,
    #[error("it is not for the audience `{AUDIENCE}`")]
    Audience,
    #[error("its issuer is not {0:?} (--token-issuer)")]
    Issuer(String),
    #[error("its claims are not those of a ServiceAccount token that is bound to a pod")]
    Claims,
}

#[derive(Deserialize)]
struct Claims {
    iat: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: KubernetesClaims,
}

#[derive(Deserialize)]
struct KubernetesClaims {
    namespace: String,
    pod: ObjectClaims,
    serviceaccount: ObjectClaims,
}

#[derive(Deserialize)]
struct ObjectClaims {
    name: String,
    uid: String,
}

impl UnverifiedToken {
    /// Takes the token of `authorization: Bearer TOKEN`.
    pub(crate) fn of(metadata: &MetadataMap) -> Result<Self, TokenProblem> {
        let mut values = metadata.get_all("authorization").iter();
        let value = values.next().ok_or(TokenProblem::Missing)?;
        // Of several, each reader could take another one.
        if values.next().is_some() {
            return Err(TokenProblem::Malformed);
        }
        let value = value.to_str().map_err(|_| TokenProblem::Malformed)?;
        let (scheme, token) = value.split_once(' ').ok_or(TokenProblem::Malformed)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(TokenProblem::Malformed);
        }
        if token.len() > LONGEST_TOKEN {
            return Err(TokenProblem::TooLong);
        }
        Ok(Self(token.to_owned()))
    }
}

impl TokenGate {
    /// Verifies the token, and decides whether its namespace may hold the prefix.
    pub(crate) fn admit(
        &self,
        token: Result<UnverifiedToken, TokenProblem>,
        prefix: IpNet,
    ) -> Result<Holder, Refusal> {
        let keys = Arc::clone(&self.keys.borrow());
        let holder = token.and_then(|token| verify(&token, &keys, &self.issuer))?;
        self.namespaces.check(&holder.namespace, prefix)?;
        Ok(holder)
    }
}

impl TokenProblem {
    /// One word for metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::TooLong | Self::Malformed => "token_malformed",
            Self::UnknownKey(_) => "token_unknown_key",
            Self::Algorithm => "token_algorithm",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Audience => "token_audience",
            Self::Issuer(_) => "token_issuer",
            Self::Claims => "token_claims",
        }
    }
}

/// Returns the pod that the token was issued for. The key decides on the algorithm, never the token.
fn verify(
    UnverifiedToken(token): &UnverifiedToken,
    keys: &TokenKeys,
    issuer: &str,
) -> Result<Holder, TokenProblem> {
    let header = decode_header(token).map_err(|_| TokenProblem::Malformed)?;
    let key_id = header.kid.unwrap_or_default();
    let Some((algorithm, key)) = keys.find(&key_id) else {
        let shown = key_id.chars().take(LONGEST_SHOWN_KEY_ID);
        return Err(TokenProblem::UnknownKey(shown.collect()));
    };
    let mut validation = Validation::new(algorithm);
    validation.set_required_spec_claims(&["aud", "exp", "iss", "nbf"]);
    validation.set_audience(&[AUDIENCE]);
    validation.set_issuer(&[issuer]);
    validation.validate_nbf = true;
    validation.leeway = LEEWAY_SECONDS;
    let decoded = decode::<serde_json::Value>(token, key, &validation);
    let claims = decoded
        .map_err(|error| problem(error.kind(), issuer))?
        .claims;
    let claims: Claims = serde_json::from_value(claims).map_err(|_| TokenProblem::Claims)?;
    // The library checks `nbf` alone.
    if claims.iat > get_current_timestamp() + LEEWAY_SECONDS {
        return Err(TokenProblem::NotYetValid);
    }
    let KubernetesClaims {
        namespace,
        pod,
        serviceaccount,
    } = claims.kubernetes;
    let names = [&namespace, &pod.name, &pod.uid, &serviceaccount.name];
    if names.iter().any(|name| name.is_empty()) || serviceaccount.uid.is_empty() {
        return Err(TokenProblem::Claims);
    }
    Ok(Holder {
        namespace,
        pod: pod.name,
        pod_uid: pod.uid,
        service_account: serviceaccount.name,
    })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's errors may become more; each other one is about the form of the token"
)]
fn problem(kind: &ErrorKind, issuer: &str) -> TokenProblem {
    match kind {
        ErrorKind::InvalidAlgorithm => TokenProblem::Algorithm,
        ErrorKind::InvalidSignature => TokenProblem::Signature,
        ErrorKind::ExpiredSignature => TokenProblem::Expired,
        ErrorKind::ImmatureSignature => TokenProblem::NotYetValid,
        ErrorKind::InvalidAudience => TokenProblem::Audience,
        ErrorKind::InvalidIssuer => TokenProblem::Issuer(issuer.to_owned()),
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => {
            TokenProblem::Claims
        }
        _ => TokenProblem::Malformed,
    }
}

#[cfg(test)]
mod tests;
