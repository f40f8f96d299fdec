use std::path::Path;

use serde_json::{Value, json};

use super::*;

#[path = "../../tests/daemon/signer.rs"]
mod signer;

use signer::{ISSUER, SigningKey, claims, claims_with, encode, key_set, message, now};

fn keys(of: &[&SigningKey]) -> TokenKeys {
    TokenKeys::parse(key_set(of).as_bytes()).unwrap()
}

fn verified(token: &str, keys: &TokenKeys) -> Result<TokenHolder, TokenProblem> {
    verify(&UnverifiedToken(token.to_owned()), keys, ISSUER)
}

/// Checks the verification of a token that has these claims and the signature of a P-256 key.
#[track_caller]
fn check(claims: &Value, expected: Result<(), TokenProblem>) {
    let key = SigningKey::p256("one");
    let result = verified(&key.sign(claims), &keys(&[&key]));
    assert_eq!(result.map(|_| ()), expected, "{claims}");
}

#[test]
fn a_token_signed_with_each_kind_of_key_is_verified() {
    let all = [
        SigningKey::rsa("one"),
        SigningKey::p256("two"),
        SigningKey::p384("three"),
    ];
    let set = keys(&all.each_ref());
    for key in &all {
        let holder = verified(&key.sign(&claims("web")), &set).unwrap();
        let expected = TokenHolder {
            namespace: "web".to_owned(),
            pod: "load-balancer-1".to_owned(),
            pod_uid: "0d7a6b0f-7d2b-4b57-9d6d-0a8f5b0a9c22".to_owned(),
            service_account: "load-balancer".to_owned(),
        };
        assert_eq!(holder, expected, "{}", key.id);
    }
}

#[test]
fn the_times_of_a_token_are_checked_with_a_tolerance_of_30_seconds() {
    for (claim, value, expected) in [
        ("/exp", now() - 20, Ok(())),
        ("/exp", now() - 40, Err(TokenProblem::Expired)),
        ("/exp", 0, Err(TokenProblem::Expired)),
        ("/nbf", now() + 20, Ok(())),
        ("/nbf", now() + 40, Err(TokenProblem::NotYetValid)),
        ("/iat", now() + 20, Ok(())),
        ("/iat", now() + 40, Err(TokenProblem::NotYetValid)),
    ] {
        check(&claims_with(claim, json!(value)), expected);
    }
}

#[test]
fn a_token_with_a_missing_claim_or_a_claim_of_a_wrong_type_is_rejected() {
    for claim in [
        "/aud",
        "/exp",
        "/iat",
        "/iss",
        "/nbf",
        "/kubernetes.io",
        "/kubernetes.io/namespace",
        "/kubernetes.io/pod",
        "/kubernetes.io/pod/uid",
        "/kubernetes.io/serviceaccount",
    ] {
        for value in [Value::Null, json!({}), json!([]), json!(true), json!("")] {
            let claims = claims_with(claim, value);
            let key = SigningKey::p256("one");
            let problem = verified(&key.sign(&claims), &keys(&[&key])).unwrap_err();
            let is_expected = matches!(
                problem,
                TokenProblem::Claims | TokenProblem::Audience | TokenProblem::Issuer(_)
            );
            assert!(is_expected, "{claims}: {problem:?}");
        }
    }
}

#[test]
fn a_token_must_name_the_audience_portlb() {
    check(&claims_with("/aud", json!("portlb")), Ok(()));
    check(&claims_with("/aud", json!(["vault", "portlb"])), Ok(()));
    let wrong = Err(TokenProblem::Audience);
    check(&claims_with("/aud", json!(ISSUER)), wrong.clone());
    check(&claims_with("/aud", json!(["portlb2"])), wrong);
}

#[test]
fn a_token_of_another_issuer_is_rejected() {
    let wrong = Err(TokenProblem::Issuer(ISSUER.to_owned()));
    check(&claims_with("/iss", json!(format!("{ISSUER}/"))), wrong);
}

#[test]
fn a_token_with_another_algorithm_than_its_key_is_rejected() {
    let key = SigningKey::rsa("one");
    let set = keys(&[&key]);
    let claims = claims("web");
    let no_signature = format!(
        "{}.",
        message(&json!({"alg": "none", "kid": "one"}), &claims)
    );
    assert_eq!(verified(&no_signature, &set), Err(TokenProblem::Malformed));
    // An attacker knows the public key, and could use it as the secret of an HMAC.
    let header = json!({"alg": "HS256", "kid": "one"});
    let message = message(&header, &claims);
    for secret in [key.jwk()["n"].to_string(), key_set(&[&key])] {
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let signature = ring::hmac::sign(&secret, message.as_bytes());
        let token = format!("{message}.{}", encode(signature.as_ref()));
        assert_eq!(verified(&token, &set), Err(TokenProblem::Algorithm));
    }
    for algorithm in ["ES256", "RS384", "PS256"] {
        let header = json!({"alg": algorithm, "kid": "one"});
        let token = key.sign_with(&header, &claims);
        assert_eq!(verified(&token, &set), Err(TokenProblem::Algorithm));
    }
}

#[test]
fn a_token_with_the_signature_of_another_key_or_changed_claims_is_rejected() {
    let set = keys(&[&SigningKey::p256("one")]);
    let other = SigningKey::p256("one");
    let token = other.sign(&claims("web"));
    assert_eq!(verified(&token, &set), Err(TokenProblem::Signature));

    let key = SigningKey::rsa("one");
    let token = key.sign(&claims("web"));
    let (_, signature) = token.rsplit_once('.').unwrap();
    let other_claims = message(&key.header(), &claims("shop"));
    for changed in [
        format!("{other_claims}.{signature}"),
        format!("{other_claims}."),
        format!("{other_claims}.{}", encode(&[0; 256])),
    ] {
        assert_eq!(
            verified(&changed, &keys(&[&key])),
            Err(TokenProblem::Signature)
        );
    }
}

#[test]
fn a_token_with_an_unknown_key_id_is_rejected_and_the_error_shortens_the_key_id() {
    let key = SigningKey::p256("one");
    let set = keys(&[&key]);
    for (header, shown) in [
        (json!({"alg": "ES256"}), ""),
        (json!({"alg": "ES256", "kid": "two"}), "two"),
        (
            json!({"alg": "ES256", "kid": "x".repeat(4000)}),
            &"x".repeat(64),
        ),
        // A key inside of the token is ignored.
        (json!({"alg": "ES256", "kid": "", "jwk": key.jwk()}), ""),
    ] {
        let token = key.sign_with(&header, &claims("web"));
        let expected = Err(TokenProblem::UnknownKey(shown.to_owned()));
        assert_eq!(verified(&token, &set), expected);
    }
}

#[test]
fn a_text_that_is_not_a_token_is_rejected() {
    let set = keys(&[&SigningKey::p256("one")]);
    for text in [
        "",
        ".",
        "..",
        "a.b.c",
        "e30.e30.e30",
        "\u{e4}.\u{e4}.\u{e4}",
        "a.b.c.d",
    ] {
        assert_eq!(
            verified(text, &set),
            Err(TokenProblem::Malformed),
            "{text:?}"
        );
    }
}

#[test]
fn the_authorization_metadata_must_have_one_bearer_token_of_limited_length() {
    let of = |values: &[&str]| {
        let mut metadata = MetadataMap::new();
        for value in values {
            metadata.append("authorization", value.parse().unwrap());
        }
        UnverifiedToken::of(&metadata).map(|UnverifiedToken(token)| token)
    };
    assert_eq!(of(&["Bearer a.b.c"]), Ok("a.b.c".to_owned()));
    assert_eq!(of(&["bearer a.b.c"]), Ok("a.b.c".to_owned()));
    assert_eq!(of(&[]), Err(TokenProblem::Missing));
    for values in [&["a.b.c"][..], &["Basic a.b.c"], &["Bearer a", "Bearer b"]] {
        assert_eq!(of(values), Err(TokenProblem::Malformed), "{values:?}");
    }
    let longest = "a".repeat(LONGEST_TOKEN);
    assert!(of(&[&format!("Bearer {longest}")]).is_ok());
    let problem = of(&[&format!("Bearer {longest}a")]);
    assert_eq!(problem, Err(TokenProblem::TooLong));
}

#[track_caller]
fn check_keys(text: &str, part: &str) {
    let problem = TokenKeys::parse(text.as_bytes()).unwrap_err();
    assert!(problem.contains(part), "{text}: {problem}");
}

#[test]
fn a_key_set_without_usable_keys_is_rejected() {
    let none = "no key with an id for RS256, ES256 or ES384";
    check_keys("", "not a JSON Web Key Set");
    check_keys("keys: []", "not a JSON Web Key Set");
    check_keys("{}", "missing field `keys`");
    check_keys(r#"{"keys": []}"#, none);
    check_keys(
        r#"{"keys": [{"kty": "oct", "kid": "one", "k": "c2VjcmV0"}]}"#,
        none,
    );
    let mut short = SigningKey::rsa("one").jwk();
    short["n"] = json!(encode(&[255; 128]));
    let mut no_point = SigningKey::p256("one").jwk();
    no_point["x"] = json!("");
    let mut no_id = SigningKey::p256("one").jwk();
    no_id.as_object_mut().unwrap().remove("kid");
    let mut encryption = SigningKey::rsa("one").jwk();
    encryption["use"] = json!("enc");
    let mut other_algorithm = SigningKey::rsa("one").jwk();
    other_algorithm["alg"] = json!("PS256");
    for key in [short, no_point, no_id, encryption, other_algorithm] {
        check_keys(&json!({"keys": [key]}).to_string(), none);
    }
    let doubled = key_set(&[&SigningKey::p256("one"), &SigningKey::p256("one")]);
    check_keys(&doubled, "two keys with the id \"one\"");
}

#[test]
fn keys_of_unsupported_kinds_are_ignored() {
    let key = SigningKey::p256("one");
    let set = json!({"keys": [
        {"kty": "OKP", "crv": "Ed25519", "kid": "two", "x": encode(&[1; 32])},
        {"kty": "EC", "crv": "P-521", "alg": "ES512", "use": "sig", "kid": "three",
         "x": encode(&[1; 66]), "y": encode(&[1; 66])},
        {"kty": "new", "kid": "four"},
        key.jwk(),
    ]});
    let set = TokenKeys::parse(set.to_string().as_bytes()).unwrap();
    assert!(verified(&key.sign(&claims("web")), &set).is_ok());
    for id in ["two", "three", "four"] {
        assert!(set.find(id).is_none(), "{id}");
    }
}

#[test]
fn the_error_of_an_unreadable_keys_file_contains_a_suggestion() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let check_refused = |path: &Path, cause: &str| {
        let error = TokenKeys::read(path).unwrap_err();
        assert!(error.to_string().contains("kubectl get --raw"), "{error}");
        assert!(format!("{error:?}").contains(cause), "{cause}: {error:?}");
    };
    check_refused(&path, "NotFound");
    std::fs::write(&path, "{}").unwrap();
    check_refused(&path, "Content");
    std::fs::write(&path, vec![b' '; 256 * 1024 + 1]).unwrap();
    check_refused(&path, "262144 bytes");
    check_refused(folder.path(), "a directory is not a regular file");
}
