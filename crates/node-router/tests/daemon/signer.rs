//! Signs tokens like kube-apiserver, with keys that exist only for tests.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

pub(crate) struct SigningKey {
    pub(crate) id: &'static str,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, &'static str, &'static str),
}

impl SigningKey {
    /// ring cannot generate RSA keys, so this key is stored in a file.
    pub(crate) fn rsa(id: &'static str) -> Self {
        let pair = RsaKeyPair::from_pkcs8(include_bytes!("rsa-key-for-tests-only.der"));
        let pair = Pair::Rsa(pair.unwrap());
        Self { id, pair }
    }

    pub(crate) fn p256(id: &'static str) -> Self {
        Self::ec(id, &ECDSA_P256_SHA256_FIXED_SIGNING, "ES256", "P-256")
    }

    pub(crate) fn p384(id: &'static str) -> Self {
        Self::ec(id, &ECDSA_P384_SHA384_FIXED_SIGNING, "ES384", "P-384")
    }

    fn ec(
        id: &'static str,
        kind: &'static EcdsaSigningAlgorithm,
        algorithm: &'static str,
        curve: &'static str,
    ) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).unwrap();
        let pair = Pair::Ec(pair, algorithm, curve);
        Self { id, pair }
    }

    fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_, algorithm, _) => algorithm,
        }
    }

    /// Returns the public key in the format in which kube-apiserver publishes it.
    pub(crate) fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Rsa(pair) => {
                let RsaPublicKeyComponents { n, e } =
                    RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({
                    "use": "sig", "kty": "RSA", "kid": self.id, "alg": "RS256",
                    "n": encode(&n), "e": encode(&e),
                })
            }
            Pair::Ec(pair, algorithm, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({
                    "use": "sig", "kty": "EC", "kid": self.id, "alg": algorithm, "crv": curve,
                    "x": encode(x), "y": encode(y),
                })
            }
        }
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": self.algorithm(), "kid": self.id})
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_with(&self.header(), claims)
    }

    pub(crate) fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let signed = pair.sign(
                    &RSA_PKCS1_SHA256,
                    &random,
                    message.as_bytes(),
                    &mut signature,
                );
                signed.unwrap();
                signature
            }
            Pair::Ec(pair, ..) => {
                let signature = pair.sign(&random, message.as_bytes()).unwrap();
                signature.as_ref().to_vec()
            }
        };
        format!("{message}.{}", encode(&signature))
    }
}

/// Returns the JSON Web Key Set that the API server would publish at `/openid/v1/jwks`.
pub(crate) fn key_set(keys: &[&SigningKey]) -> String {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// Returns the signed part of a token: header and claims.
pub(crate) fn message(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| encode(value.to_string().as_bytes());
    format!("{}.{}", part(header), part(claims))
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn now() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    now.as_secs()
}

/// Returns the claims of a token for a pod in this namespace, as kube-apiserver 1.34 issues them
/// for a projected volume.
pub(crate) fn claims(namespace: &str) -> Value {
    let now = now();
    json!({
        "aud": ["portlb"],
        "exp": now + 3607,
        "iat": now,
        "iss": ISSUER,
        "jti": "7e2d3c52-0b2f-4b45-8d0e-3a2d5c3ab0b1",
        "kubernetes.io": {
            "namespace": namespace,
            "node": {"name": "node-1", "uid": "b2d0e9a5-7d3f-4a5f-9d44-5a2b4f0a7a11"},
            "pod": {"name": "load-balancer-1", "uid": "0d7a6b0f-7d2b-4b57-9d6d-0a8f5b0a9c22"},
            "serviceaccount": {"name": "load-balancer", "uid": "5a1b3c1d-8c5e-4a0b-8e0d-1b2c3d4e5f33"},
        },
        "nbf": now,
        "sub": format!("system:serviceaccount:{namespace}:load-balancer"),
    })
}

/// Returns the claims with the claim at `pointer` replaced by `value`. `null` removes the claim.
pub(crate) fn claims_with(pointer: &str, value: Value) -> Value {
    let mut claims = claims("web");
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = claims.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value.is_null() {
        parent.remove(name).unwrap();
    } else {
        parent.insert(name.to_owned(), value);
    }
    claims
}
