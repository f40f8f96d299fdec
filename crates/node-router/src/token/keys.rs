//! Public keys of the cluster, which are read from a watched file.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use daemon_runtime::{
    Counter, Gauge,
    config_file::{FileWatcher, WatchError},
    error_chain,
};
use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};
use tokio::sync::watch;

use super::signature;

/// Maximum size of the file in bytes. A key of kube-apiserver needs about 500 bytes.
const LARGEST_FILE: u64 = 256 * 1024;

/// Length in octets of the modulus of an RSA key that ring supports.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

const SUGGESTION: &str = "write the output of `kubectl get --raw /openid/v1/jwks` to the file";

/// The usable keys of one version of the file, by key id.
#[derive(Clone, Debug)]
pub(crate) struct TokenKeys {
    keys: BTreeMap<String, (Algorithm, DecodingKey)>,
    /// Parsed content of the file, by which a changed file is recognized.
    set: JwkSet,
}

/// Reason why the file provides no keys.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeysError {
    #[error("cannot read the token keys from {}; {SUGGESTION}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The file is not a key set, contains no usable key, or contains two keys with one key id.
    #[error("{} {problem}; {SUGGESTION}", path.display())]
    Content {
        path: PathBuf,
        /// Problem of the content, as the predicate of a sentence about the file.
        problem: String,
    },
}

/// The watched file of the cluster's public keys. After each change of the file the keys in the
/// file replace the previous keys. If a changed file has no usable keys, the previous keys stay in
/// use.
#[derive(Debug)]
pub(crate) struct KeysFile {
    path: PathBuf,
    watcher: FileWatcher,
    keys: watch::Sender<Arc<TokenKeys>>,
    last_error: String,
    in_use: Gauge,
    rejected: Counter,
}

impl TokenKeys {
    pub(crate) fn read(path: &Path) -> Result<Self, TokenKeysError> {
        let bytes = bounded_io::read_file(path, LARGEST_FILE);
        let bytes = bytes.map_err(|source| TokenKeysError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&bytes).map_err(|problem| TokenKeysError::Content {
            path: path.to_owned(),
            problem,
        })
    }

    /// Parses a JSON Web Key Set. Ignores keys of kinds with which kube-apiserver signs no tokens.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let set: JwkSet = serde_json::from_slice(bytes)
            .map_err(|error| format!("is not a JSON Web Key Set ({error})"))?;
        let mut keys = BTreeMap::new();
        for jwk in &set.keys {
            let (Some(id), Some(key)) = (&jwk.common.key_id, usable(jwk)) else {
                continue;
            };
            if keys.insert(id.clone(), key).is_some() {
                return Err(format!("has two keys with the id {id:?}"));
            }
        }
        if keys.is_empty() {
            return Err("has no key with an id for RS256, ES256 or ES384".to_owned());
        }
        signature::install();
        Ok(Self { keys, set })
    }

    /// Returns the key with this id, and the only algorithm for which the key may be used.
    pub(super) fn find(&self, id: &str) -> Option<(Algorithm, &DecodingKey)> {
        self.keys.get(id).map(|(algorithm, key)| (*algorithm, key))
    }

    fn ids(&self) -> String {
        let ids: Vec<&str> = self.keys.keys().map(String::as_str).collect();
        ids.join(", ")
    }
}

impl KeysFile {
    /// Reads the file and starts watching it. Sets `in_use` to the number of usable keys.
    /// `rejected` counts the later rejections of the file. Successive rejections with an equal
    /// error count once.
    pub(crate) fn open(
        path: PathBuf,
        in_use: Gauge,
        rejected: Counter,
    ) -> Result<(Self, watch::Receiver<Arc<TokenKeys>>), KeysFileError> {
        let watcher = FileWatcher::new(&path)?;
        let keys = TokenKeys::read(&path)?;
        tracing::info!(file = %path.display(), keys = keys.ids(), "read the token keys");
        in_use.set(count(&keys));
        let (sender, receiver) = watch::channel(Arc::new(keys));
        let file = Self {
            path,
            watcher,
            keys: sender,
            last_error: String::new(),
            in_use,
            rejected,
        };
        Ok((file, receiver))
    }

    /// Reads the file after each change. Never returns.
    pub(crate) async fn follow(mut self) {
        loop {
            self.watcher.changed().await;
            match TokenKeys::read(&self.path) {
                Ok(keys) => self.replace(keys),
                Err(error) => self.reject(error_chain(&error)),
            }
        }
    }

    fn replace(&mut self, keys: TokenKeys) {
        self.last_error.clear();
        if keys.set == self.keys.borrow().set {
            return;
        }
        let file = self.path.display();
        tracing::info!(%file, keys = keys.ids(), "read the changed token keys");
        self.in_use.set(count(&keys));
        self.keys.send_replace(Arc::new(keys));
    }

    /// Logs an ERROR and keeps the previous keys. Logs an unchanged error only once, even if the
    /// file is read several times.
    fn reject(&mut self, error: String) {
        if self.last_error != error {
            let keys = self.keys.borrow().ids();
            tracing::error!(
                error,
                keys,
                "rejected the file of token keys; keeping the previous keys"
            );
            self.rejected.inc();
            self.last_error = error;
        }
    }
}

/// Reason why the keys file cannot be used at the start.
#[derive(Debug, thiserror::Error)]
pub enum KeysFileError {
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Read(#[from] TokenKeysError),
}

fn count(keys: &TokenKeys) -> i64 {
    i64::try_from(keys.keys.len()).unwrap_or(i64::MAX)
}

/// Returns the key and its algorithm if kube-apiserver can sign tokens with such a key.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "later versions of the library can add kinds of keys and curves; this code ignores them"
)]
fn usable(jwk: &Jwk) -> Option<(Algorithm, DecodingKey)> {
    if !matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    ) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => Algorithm::ES256,
            EllipticCurve::P384 => Algorithm::ES384,
            _ => return None,
        },
        _ => return None,
    };
    let stated_algorithm = jwk.common.key_algorithm;
    if stated_algorithm.is_some_and(|stated| stated != KeyAlgorithm::from(algorithm)) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let has_valid_length = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => RSA_MODULUS.contains(&n.len()),
        DecodingKeyKind::SecretOrDer(point) => {
            point.len()
                == if algorithm == Algorithm::ES256 {
                    65
                } else {
                    97
                }
        }
    };
    has_valid_length.then_some((algorithm, key))
}
