//! The cluster's keys for tokens, from a file that is read again when it changes.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use daemon_runtime::{
    Counter, Gauge,
    config_file::{FileWatcher, WatchError},
    in_words,
};
use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};
use tokio::sync::watch;

use super::signature;

/// Most bytes of the file. A key of kube-apiserver takes 500.
const LARGEST_FILE: u64 = 256 * 1024;

/// Octets of the modulus of an RSA key that ring verifies with.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

const SUGGESTION: &str = "write the answer of `kubectl get --raw /openid/v1/jwks` into it";

/// The keys of one version of the file, by their ids.
#[derive(Clone, Debug)]
pub(crate) struct TokenKeys {
    keys: BTreeMap<String, (Algorithm, DecodingKey)>,
    /// What the file says, to tell versions apart.
    set: JwkSet,
}

/// Why a file gives no keys.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeysError {
    /// The file cannot be read.
    #[error("cannot read the keys of tokens from {}; {SUGGESTION}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// The file holds no keys that can be used.
    #[error("{} {problem}; {SUGGESTION}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        problem: String,
    },
}

/// Reads the file again when it changes; the last usable keys stay.
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
    /// Reads the file.
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

    /// Reads a JSON Web Key Set. Keys that no token of a ServiceAccount is signed with are left out.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let set: JwkSet = serde_json::from_slice(bytes)
            .map_err(|error| format!("is no JSON Web Key Set ({error})"))?;
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

    /// Returns the key with this id, and the one algorithm that it is for.
    pub(super) fn find(&self, id: &str) -> Option<(Algorithm, &DecodingKey)> {
        self.keys.get(id).map(|(algorithm, key)| (*algorithm, key))
    }

    fn ids(&self) -> String {
        let ids: Vec<&str> = self.keys.keys().map(String::as_str).collect();
        ids.join(", ")
    }
}

impl KeysFile {
    /// Reads the file, and begins to watch it. `in_use` shows the number of keys, `rejected` counts states
    /// of the file that cannot be used.
    pub(crate) fn open(
        path: PathBuf,
        in_use: Gauge,
        rejected: Counter,
    ) -> Result<(Self, watch::Receiver<Arc<TokenKeys>>), KeysFileError> {
        let watcher = FileWatcher::new(&path)?;
        let keys = TokenKeys::read(&path)?;
        tracing::info!(file = %path.display(), keys = keys.ids(), "read the keys of tokens");
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

    /// Follows the file for ever.
    pub(crate) async fn follow(mut self) {
        loop {
            self.watcher.changed().await;
            match TokenKeys::read(&self.path) {
                Ok(keys) => self.replace(keys),
                Err(error) => self.keep(in_words(&error)),
            }
        }
    }

    fn replace(&mut self, keys: TokenKeys) {
        self.last_error.clear();
        if keys.set == self.keys.borrow().set {
            return;
        }
        let file = self.path.display();
        tracing::info!(%file, keys = keys.ids(), "read changed keys of tokens");
        self.in_use.set(count(&keys));
        self.keys.send_replace(Arc::new(keys));
    }

    /// Logs one error for one state of the file, however often it is seen.
    fn keep(&mut self, error: String) {
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

/// Why the keys cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum KeysFileError {
    /// The file cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The file gives no keys.
    #[error(transparent)]
    Read(#[from] TokenKeysError),
}

fn count(keys: &TokenKeys) -> i64 {
    i64::try_from(keys.keys.len()).unwrap_or(i64::MAX)
}

/// Returns a key that can verify signatures of kube-apiserver, and its algorithm.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's kinds of keys and curves may become more; those that are unknown are not used"
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
    let named = jwk.common.key_algorithm;
    if named.is_some_and(|named| named != KeyAlgorithm::from(algorithm)) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let has_its_length = match key.kind() {
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
    has_its_length.then_some((algorithm, key))
}
