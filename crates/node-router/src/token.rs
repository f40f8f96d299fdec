//! Verification of the hold tokens of ServiceAccounts.
//!
//! A hold token is a JSON Web Token that the API server signed for one pod and for the audience
//! [`AUDIENCE`]. No code in this module logs or prints a token.

mod keys;
mod signature;

use std::sync::Arc;

use ipnet::IpNet;
use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind, get_current_timestamp};
use serde::Deserialize;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;

use crate::{error::HoldRefusal, namespaces::NamespacePrefixes};
pub(crate) use keys::{KeysFile, TokenKeys};
pub use keys::{KeysFileError, TokenKeysError};

/// Audience that a hold token must name. Tokens for the API server have another audience and are
/// rejected.
pub const AUDIENCE: &str = "portlb";

/// Maximum length of a token in bytes. Tokens of kube-apiserver have 1,000 to 1,500 bytes.
pub const LONGEST_TOKEN: usize = 8 * 1024;

/// Tolerated difference between the clocks of this node and of the API server in seconds.
const LEEWAY_SECONDS: u64 = 30;

/// Maximum number of characters of a key id in an error. The sender of a forged token chooses the
/// key id.
const LONGEST_SHOWN_KEY_ID: usize = 64;

/// Decides by the token of a holder which prefixes the holder may hold.
#[derive(Clone, Debug)]
pub(crate) struct TokenGate {
    pub(crate) keys: watch::Receiver<Arc<TokenKeys>>,
    pub(crate) issuer: String,
    pub(crate) namespaces: NamespacePrefixes,
}

/// Pod for which a verified token was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenHolder {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) pod_uid: String,
    pub(crate) service_account: String,
}

/// A token that has not been verified. The type does not implement `Debug`, so that no log can show
/// the token.
pub(crate) struct UnverifiedToken(String);

/// Reason why a hold token is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenProblem {
    #[error("the hold request has no token; set bgp-announcer --hold-token-file")]
    Missing,
    #[error("the token is longer than {LONGEST_TOKEN} bytes")]
    TooLong,
    #[error("the token is not a JSON Web Token with the algorithm RS256, ES256 or ES384")]
    Malformed,
    #[error(
        "--token-keys-file has no key with the key id {0:?} of the token; after a change of the cluster's \
         keys, write the output of `kubectl get --raw /openid/v1/jwks` to the file"
    )]
    UnknownKey(String),
    #[error("the algorithm of the token differs from the algorithm of its key")]
    Algorithm,
    #[error("the signature of the token does not match its key")]
    Signature,
    #[error("the token has expired; the kubelet renews the file of a projected token")]
    Expired,
    #[error("the token is not valid yet; compare the clocks of this node and of the API server")]
    NotYetValid,
    #[error("the token is not for the audience `{AUDIENCE}`")]
    Audience,
    #[error("the issuer of the token is not {0:?} (--token-issuer)")]
    Issuer(String),
    #[error("the token lacks the claims of a ServiceAccount token that is bound to a pod")]
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
    /// Returns the token in the metadata `authorization: Bearer TOKEN`.
    pub(crate) fn of(metadata: &MetadataMap) -> Result<Self, TokenProblem> {
        let mut values = metadata.get_all("authorization").iter();
        let value = values.next().ok_or(TokenProblem::Missing)?;
        // With several values, a proxy and node-router could use different tokens, so the request
        // is rejected.
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
    /// Verifies the token. Returns the pod of the token if the namespace of this pod may hold the
    /// prefix, otherwise a refusal.
    pub(crate) fn admit(
        &self,
        token: Result<UnverifiedToken, TokenProblem>,
        prefix: IpNet,
    ) -> Result<TokenHolder, HoldRefusal> {
        let keys = Arc::clone(&self.keys.borrow());
        let holder = token.and_then(|token| verify(&token, &keys, &self.issuer))?;
        self.namespaces.check(&holder.namespace, prefix)?;
        Ok(holder)
    }
}

impl TokenProblem {
    /// Returns the value of the label `reason` in metrics.
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

/// Verifies the token and returns the pod for which it was issued. The key determines the
/// algorithm. The algorithm in the token's header is only compared, because a forger chooses it.
fn verify(
    UnverifiedToken(token): &UnverifiedToken,
    keys: &TokenKeys,
    issuer: &str,
) -> Result<TokenHolder, TokenProblem> {
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
    // `jsonwebtoken` checks that `nbf` is not in the future, but does not check `iat`.
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
    Ok(TokenHolder {
        namespace,
        pod: pod.name,
        pod_uid: pod.uid,
        service_account: serviceaccount.name,
    })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "later versions of the library can add errors; all other errors are about the format of the token"
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
