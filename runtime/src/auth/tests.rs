use std::{path::PathBuf, time::Duration};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;

const NOW: UnixMillis = UnixMillis(1_800_000_000_500);
const NOW_S: u64 = 1_800_000_000;

fn keys() -> Keys {
    Keys {
        secret: None,
        secret_is_random: false,
        public_key_file: None,
        jwks_file: None,
        issuer: None,
        audience: None,
        leeway: Duration::ZERO,
    }
}

fn with_secret() -> Keys {
    Keys { secret: Some("a secret".to_owned()), ..keys() }
}

fn with_public_key(name: &str) -> Keys {
    Keys { public_key_file: Some(test_file(name)), ..keys() }
}

fn test_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn signed(claims: &Value) -> String {
    sign(Algorithm::HS256, &EncodingKey::from_secret(b"a secret"), claims)
}

fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

fn rsa() -> EncodingKey {
    EncodingKey::from_rsa_pem(include_bytes!("../../testdata/rsa.key.pem")).unwrap()
}

fn ec() -> EncodingKey {
    EncodingKey::from_ec_pem(include_bytes!("../../testdata/ec.key.pem")).unwrap()
}

fn ed() -> EncodingKey {
    EncodingKey::from_ed_pem(include_bytes!("../../testdata/ed.key.pem")).unwrap()
}

#[track_caller]
fn verify(keys: &Keys, token: &str) -> Result<Identity, &'static str> {
    Verifier::new(keys).unwrap().verify_at(token, NOW).map_err(|error| error.0)
}

/// The verdict on claims that are signed well.
#[track_caller]
fn judge(claims: &Value) -> Result<Identity, &'static str> {
    verify(&with_secret(), &signed(claims))
}

#[test]
fn the_user_is_the_first_non_empty_string_of_three_claims() {
    let user = |claims| judge(&claims).map(|identity| identity.user.to_string());
    assert_eq!(user(json!({"user_id": "a", "userId": "b", "sub": "c"})), Ok("a".into()));
    assert_eq!(user(json!({"user_id": "", "userId": "b", "sub": "c"})), Ok("b".into()));
    assert_eq!(user(json!({"user_id": 7, "userId": null, "sub": "c"})), Ok("c".into()));
    assert_eq!(user(json!({"user_id": 7})), Err("names no user"));
    assert_eq!(user(json!({"sub": "x".repeat(129)})), Err("names an invalid user"));
    assert_eq!(user(json!({"sub": "x\ny"})), Err("names an invalid user"));
}

#[test]
fn a_refresh_token_is_refused() {
    assert_eq!(judge(&json!({"sub": "u", "type": "refresh"})), Err("is a refresh token"));
    assert!(judge(&json!({"sub": "u", "type": "access"})).is_ok());
}

#[test]
fn expiry_is_honoured_to_the_second_and_told() {
    let expires = |exp: Value| judge(&json!({"sub": "u", "exp": exp})).map(|who| who.expires);
    assert_eq!(expires(json!(NOW_S + 1)), Ok(Some(NOW_S + 1)));
    assert_eq!(expires(json!(NOW_S as f64 + 1.5)), Ok(Some(NOW_S + 1)));
    assert_eq!(expires(json!(1e300)), Ok(Some(u64::MAX)));
    assert_eq!(expires(json!(NOW_S as f64 + 0.5)), Err("has expired"));
    assert_eq!(expires(json!(NOW_S)), Err("has expired"));
    assert_eq!(expires(json!(-1)), Err("has expired"));
    assert_eq!(expires(json!("tomorrow")), Err("exp is not a number"));
    assert_eq!(judge(&json!({"sub": "u"})).map(|who| who.expires), Ok(None));
}

#[test]
fn a_token_is_not_good_before_its_time() {
    let at = |nbf: Value| judge(&json!({"sub": "u", "nbf": nbf})).map(|_| ());
    assert_eq!(at(json!(NOW_S)), Ok(()));
    assert_eq!(at(json!(NOW_S + 1)), Err("is not valid yet"));
    assert_eq!(at(json!([])), Err("nbf is not a number"));
}

#[test]
fn leeway_moves_both_ends() {
    let keys = Keys { leeway: Duration::from_secs(30), ..with_secret() };
    let at = |claims| verify(&keys, &signed(&claims)).map(|who| who.expires);
    assert_eq!(at(json!({"sub": "u", "exp": NOW_S - 29})), Ok(Some(NOW_S + 1)));
    assert_eq!(at(json!({"sub": "u", "exp": NOW_S - 30})), Err("has expired"));
    assert_eq!(at(json!({"sub": "u", "nbf": NOW_S + 30})), Ok(None));
    assert_eq!(at(json!({"sub": "u", "nbf": NOW_S + 31})), Err("is not valid yet"));
}

#[test]
fn issuer_and_audience_are_checked_when_configured() {
    let keys =
        Keys { issuer: Some("login".into()), audience: Some("push".into()), ..with_secret() };
    let at = |claims| verify(&keys, &signed(&claims)).map(|_| ());
    assert_eq!(at(json!({"sub": "u", "iss": "login", "aud": "push"})), Ok(()));
    assert_eq!(at(json!({"sub": "u", "iss": "login", "aud": ["a", "push"]})), Ok(()));
    assert_eq!(at(json!({"sub": "u", "aud": "push"})), Err("has another issuer"));
    assert_eq!(at(json!({"sub": "u", "iss": "login"})), Err("has another audience"));
    assert_eq!(at(json!({"sub": "u", "iss": "login", "aud": ["a"]})), Err("has another audience"));
    assert!(judge(&json!({"sub": "u", "iss": "x", "aud": "y"})).is_ok());
}

#[test]
fn room_patterns_are_bounded_strings() {
    let rooms = |rooms: Value| judge(&json!({"sub": "u", "rooms": rooms})).map(|who| who.rooms);
    assert_eq!(*rooms(json!(["vip:*", "a"])).unwrap(), ["vip:*", "a"].map(Box::from));
    assert_eq!(rooms(json!(null)).unwrap().len(), 0);
    assert_eq!(rooms(json!("vip:*")), Err("rooms is not an array"));
    assert_eq!(rooms(json!([1])), Err("a room pattern is not a string"));
    assert_eq!(rooms(json!(["x".repeat(201)])), Err("a room pattern is longer than 200 bytes"));
    assert_eq!(rooms(json!(vec!["x"; 100])).unwrap().len(), 100);
    assert_eq!(rooms(json!(vec!["x"; 101])), Err("has more than 100 room patterns"));
}

#[test]
fn every_hmac_of_the_secret_is_accepted_and_no_other_signature() {
    let claims = json!({"sub": "u"});
    let key = EncodingKey::from_secret(b"a secret");
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        assert!(verify(&with_secret(), &sign(algorithm, &key, &claims)).is_ok());
    }
    let other = sign(Algorithm::HS256, &EncodingKey::from_secret(b"guess"), &claims);
    assert_eq!(verify(&with_secret(), &other), Err("has a wrong signature"));
    let foreign = sign(Algorithm::RS256, &rsa(), &claims);
    assert_eq!(verify(&with_secret(), &foreign), Err("has another algorithm than the key"));
    assert_eq!(verify(&keys(), &signed(&claims)), Err("no key is configured"));
}

#[test]
fn unsigned_and_tampered_tokens_are_refused() {
    let good = signed(&json!({"sub": "u"}));
    let (signed_part, signature) = good.rsplit_once('.').unwrap();
    let claims = signed_part.split_once('.').unwrap().1;
    // {"alg":"none"}, {"alg":"NONE"}, and a header that is not JSON.
    for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJOT05FIn0", "bm90IGpzb24"] {
        assert_eq!(verify(&with_secret(), &format!("{header}.{claims}.")), Err("is malformed"));
    }
    let cut = &good[..good.len() - 4];
    assert!(verify(&with_secret(), cut).is_err());
    let other = signed(&json!({"sub": "v"}));
    let swapped = format!("{}.{signature}", other.rsplit_once('.').unwrap().0);
    assert_eq!(verify(&with_secret(), &swapped), Err("has a wrong signature"));
    for garbage in ["", ".", "..", "...", "a.b.c", "\u{0}", "é.é.é"] {
        assert_eq!(verify(&with_secret(), garbage), Err("is malformed"), "{garbage:?}");
    }
    assert_eq!(verify(&with_secret(), &"x".repeat(8193)), Err("longer than 8 KiB"));
}

#[test]
fn a_token_with_critical_headers_is_refused() {
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["exp".to_owned()]);
    let key = EncodingKey::from_secret(b"a secret");
    let token = encode(&header, &json!({"sub": "u"}), &key).unwrap();
    assert_eq!(verify(&with_secret(), &token), Err("has critical headers"));
}

#[test]
fn a_public_key_takes_its_own_algorithm_only() {
    let claims = json!({"sub": "u"});
    let cases = [
        ("rsa.pub.pem", Algorithm::RS256, rsa()),
        ("ec.pub.pem", Algorithm::ES256, ec()),
        ("ed.pub.pem", Algorithm::EdDSA, ed()),
    ];
    for (file, _, _) in &cases {
        for (signer, algorithm, key) in &cases {
            let verdict = verify(&with_public_key(file), &sign(*algorithm, key, &claims));
            assert_eq!(verdict.is_ok(), file == signer, "{file} on a token of {signer}");
        }
    }
    let padded = sign(Algorithm::PS256, &rsa(), &claims);
    let verdict = verify(&with_public_key("rsa.pub.pem"), &padded);
    assert_eq!(verdict, Err("has another algorithm than the key"));
}

#[test]
fn a_public_key_used_as_a_secret_forges_nothing() {
    for file in ["rsa.pub.pem", "ec.pub.pem", "ed.pub.pem"] {
        let secret = fs::read(test_file(file)).unwrap();
        let key = EncodingKey::from_secret(&secret);
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let forged = sign(algorithm, &key, &json!({"sub": "u"}));
            let verdict = verify(&with_public_key(file), &forged);
            assert_eq!(verdict, Err("has another algorithm than the key"));
        }
    }
}

#[test]
fn a_key_set_is_searched_by_kid_and_pins_the_algorithm() {
    let key = |id: &str, key: &EncodingKey, algorithm| {
        let mut key = jwk::Jwk::from_encoding_key(key, algorithm).unwrap();
        key.common.key_id = Some(id.to_owned());
        key
    };
    let set = jwk::JwkSet {
        keys: vec![key("r", &rsa(), Algorithm::RS256), key("e", &ec(), Algorithm::ES256)],
    };
    let found = key_set(&serde_json::to_string(&set).unwrap()).unwrap();
    let verifier =
        Verifier { keys: KeySet::ById(found), issuer: None, audience: None, leeway_s: 0.0 };
    let verdict = |id: Option<&str>, algorithm, key: &EncodingKey| {
        let mut header = Header::new(algorithm);
        header.kid = id.map(str::to_owned);
        let token = encode(&header, &json!({"sub": "u"}), key).unwrap();
        verifier.verify_at(&token, NOW).map(|_| ()).map_err(|error| error.0)
    };
    assert_eq!(verdict(Some("r"), Algorithm::RS256, &rsa()), Ok(()));
    assert_eq!(verdict(Some("e"), Algorithm::ES256, &ec()), Ok(()));
    let mismatch = Err("has another algorithm than the key");
    assert_eq!(verdict(Some("e"), Algorithm::RS256, &rsa()), mismatch);
    assert_eq!(verdict(Some("r"), Algorithm::RS512, &rsa()), mismatch);
    assert_eq!(verdict(Some("x"), Algorithm::RS256, &rsa()), Err("names an unknown key"));
    assert_eq!(verdict(None, Algorithm::RS256, &rsa()), Err("names no key"));
}

#[test]
fn unusable_keys_are_found_at_the_start() {
    let refused =
        |name: &str| Verifier::new(&with_public_key(name)).err().map(|error| error.problem);
    assert_eq!(refused("rsa.pub.pem"), None);
    assert_eq!(refused("rsa1024.pub.pem"), Some(ACCEPTED_KEYS.to_owned()));
    let pem = Some("not a PEM file with a PUBLIC KEY".to_owned());
    assert_eq!(refused("rsa.key.pem"), pem);
    assert_eq!(refused("README.md"), pem);
    assert!(refused("absent.pem").unwrap().contains("absent.pem"));
    for set in [
        "",
        "[]",
        r#"{"keys":[]}"#,
        r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#,
        r#"{"keys":[{"kty":"oct","kid":"a","k":"AAAA"}]}"#,
        r#"{"keys":[{"kty":"oct","kid":"a","alg":"HS256","k":""}]}"#,
        r#"{"keys":[{"kty":"oct","kid":"a","alg":"RS256","k":"AAAA"}]}"#,
        r#"{"keys":[{"kty":"RSA","kid":"a","n":"AQAB","e":"AQAB"}]}"#,
        r#"{"keys":[{"kty":"EC","kid":"a","crv":"P-256","x":"AQAB","y":"AQAB"}]}"#,
        r#"{"keys":[{"kty":"oct","kid":"a","alg":"HS256","k":"AAAA"},
                    {"kty":"oct","kid":"a","alg":"HS256","k":"BBBB"}]}"#,
    ] {
        assert!(key_set(set).is_err(), "{set}");
    }
    assert!(key_set(r#"{"keys":[{"kty":"oct","kid":"a","alg":"HS256","k":"AAAA"}]}"#).is_ok());
}

#[test]
fn a_minted_token_is_accepted() {
    let keys = Keys { issuer: Some("i".into()), audience: Some("a".into()), ..with_secret() };
    let grant = crate::token::Grant {
        user: "user-1".to_owned(),
        rooms: vec!["vip:*".to_owned()],
        ttl: Duration::from_secs(60),
    };
    let token = crate::token::mint(&keys, &grant, NOW).unwrap();
    let identity = verify(&keys, &token).unwrap();
    assert_eq!(&*identity.user, "user-1");
    assert_eq!(*identity.rooms, ["vip:*"].map(Box::from));
    assert_eq!(identity.expires, Some(NOW_S + 60));
    assert_eq!(crate::token::mint(&self::keys(), &grant, NOW), None);
}
