//! Tokens: who a connection is. The algorithm is pinned by the configured key; what the header of a
//! token says can only agree with it or lead to a refusal.

use std::{collections::BTreeMap, fmt, fs, io::Read as _, path::Path, sync::Arc};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk};
use realtime_core::{
    shard::{Identity, VerifyError},
    stream::{USER_BYTES_MAX, check},
    time::UnixMillis,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{clock::Clock, config::Keys};

/// Verifies tokens. Made once; threads share it.
pub struct Verifier {
    keys: KeySet,
    issuer: Option<String>,
    audience: Option<String>,
    leeway_s: f64,
}

/// A key file that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct KeyError {
    /// The variable that names the file.
    pub variable: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Verifier {
    /// Reads the configured keys. Without any, every token is refused.
    ///
    /// # Errors
    /// A key file is unreadable, or is not a key that one of the accepted algorithms takes.
    pub fn new(keys: &Keys) -> Result<Self, KeyError> {
        let set = if let Some(path) = &keys.public_key_file {
            let error = |problem| KeyError { variable: "JWT_PUBLIC_KEY_FILE", problem };
            KeySet::One(read_key_file(path).and_then(|pem| public_key(&pem)).map_err(error)?)
        } else if let Some(path) = &keys.jwks_file {
            let error = |problem| KeyError { variable: "JWKS_FILE", problem };
            KeySet::ById(read_key_file(path).and_then(|json| key_set(&json)).map_err(error)?)
        } else if let Some(secret) = &keys.secret {
            let key = DecodingKey::from_secret(secret.as_bytes());
            let hmac = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
            KeySet::One(PinnedKey::new(key, hmac.to_vec()))
        } else {
            KeySet::None
        };
        Ok(Self {
            keys: set,
            issuer: keys.issuer.clone(),
            audience: keys.audience.clone(),
            leeway_s: keys.leeway.as_secs_f64(),
        })
    }

    /// Tells whom `token` names. The expiry of the identity includes the leeway.
    ///
    /// # Errors
    /// The token is no good; the reason is for the log.
    pub fn verify(&self, token: &str, clock: Clock) -> Result<Identity, VerifyError> {
        self.verify_at(token, clock.unix())
    }

    fn verify_at(&self, token: &str, now: UnixMillis) -> Result<Identity, VerifyError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(VerifyError("longer than 8 KiB"));
        }
        let key = self.key_of(token)?;
        let token = decode::<Claims>(token, &key.key, &key.validation)
            .map_err(|error| VerifyError(reason(error.kind())))?;
        if token.header.crit.is_some() {
            return Err(VerifyError("has critical headers"));
        }
        self.identity(token.claims, now)
    }

    fn key_of(&self, token: &str) -> Result<&PinnedKey, VerifyError> {
        match &self.keys {
            KeySet::None => Err(VerifyError("no key is configured")),
            KeySet::One(key) => Ok(key),
            KeySet::ById(keys) => {
                let header =
                    decode_header(token).map_err(|error| VerifyError(reason(error.kind())))?;
                let id = header.kid.ok_or(VerifyError("names no key"))?;
                keys.get(&id).ok_or(VerifyError("names an unknown key"))
            }
        }
    }

    fn identity(&self, claims: Claims, now: UnixMillis) -> Result<Identity, VerifyError> {
        if claims.kind.as_ref().and_then(Value::as_str) == Some("refresh") {
            return Err(VerifyError("is a refresh token"));
        }
        // Times are compared as floats, since `exp` may have a fraction; milliseconds of this
        // century are exact in them.
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 ms")]
        let now_s = now.0 as f64 / 1_000.0;
        let expires_s =
            time(claims.exp.as_ref(), "exp is not a number")?.map(|s| s + self.leeway_s);
        if expires_s.is_some_and(|expires_s| now_s >= expires_s) {
            return Err(VerifyError("has expired"));
        }
        let not_before_s = time(claims.nbf.as_ref(), "nbf is not a number")?;
        if not_before_s.is_some_and(|not_before_s| now_s < not_before_s - self.leeway_s) {
            return Err(VerifyError("is not valid yet"));
        }
        if let Some(issuer) = &self.issuer
            && claims.iss.as_ref().and_then(Value::as_str) != Some(issuer)
        {
            return Err(VerifyError("has another issuer"));
        }
        if let Some(audience) = &self.audience
            && !claims.aud.as_ref().is_some_and(|claim| names(claim, audience))
        {
            return Err(VerifyError("has another audience"));
        }
        let user = [&claims.user_id, &claims.user_id_camel, &claims.sub]
            .into_iter()
            .find_map(|claim| claim.as_ref()?.as_str().filter(|user| !user.is_empty()))
            .ok_or(VerifyError("names no user"))?;
        check(user, USER_BYTES_MAX).map_err(|_| VerifyError("names an invalid user"))?;
        Ok(Identity {
            user: user.into(),
            rooms: room_patterns(claims.rooms.as_ref())?,
            // A float that is out of range saturates.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "saturates"
            )]
            expires: expires_s.map(|expires_s| expires_s as u64),
        })
    }
}

impl fmt::Debug for Verifier {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

/// The keys that tokens may be signed with.
enum KeySet {
    None,
    One(PinnedKey),
    ById(BTreeMap<String, PinnedKey>),
}

/// A key and the only algorithms it is used with.
struct PinnedKey {
    key: DecodingKey,
    validation: Validation,
}

impl PinnedKey {
    /// Only the signature is left to the library: it reads the system's clock, and accepts less of
    /// the claims than is promised.
    fn new(key: DecodingKey, algorithms: Vec<Algorithm>) -> Self {
        let mut validation = Validation::default();
        validation.algorithms = algorithms;
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Self { key, validation }
    }
}

/// What is read of a token. Claims of an unexpected type are judged one by one.
#[derive(Deserialize)]
struct Claims {
    user_id: Option<Value>,
    #[serde(rename = "userId")]
    user_id_camel: Option<Value>,
    sub: Option<Value>,
    #[serde(rename = "type")]
    kind: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    iss: Option<Value>,
    aud: Option<Value>,
    rooms: Option<Value>,
}

/// A time claim, in seconds, with or without a fraction.
fn time(claim: Option<&Value>, problem: &'static str) -> Result<Option<f64>, VerifyError> {
    match claim {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(VerifyError(problem)),
    }
}

/// Whether an `aud` claim, a string or an array of strings, names `audience`.
fn names(claim: &Value, audience: &str) -> bool {
    match claim {
        Value::String(one) => one == audience,
        Value::Array(several) => several.iter().any(|one| one.as_str() == Some(audience)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

fn room_patterns(claim: Option<&Value>) -> Result<Arc<[Box<str>]>, VerifyError> {
    let Some(claim) = claim else {
        return Ok(Arc::default());
    };
    let patterns = claim.as_array().ok_or(VerifyError("rooms is not an array"))?;
    if patterns.len() > PATTERNS_MAX {
        return Err(VerifyError("has more than 100 room patterns"));
    }
    let pattern = |value: &Value| match value.as_str() {
        None => Err(VerifyError("a room pattern is not a string")),
        Some(text) if text.len() > PATTERN_BYTES_MAX => {
            Err(VerifyError("a room pattern is longer than 200 bytes"))
        }
        Some(text) => Ok(text.into()),
    };
    patterns.iter().map(pattern).collect()
}

/// Reads a key file; the path is in the message, since it is what the operator can check.
fn read_key_file(path: &Path) -> Result<String, String> {
    let problem = |error| format!("{}: {error}", path.display());
    let mut text = String::new();
    let file = fs::File::open(path).map_err(problem)?;
    file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(problem)?;
    if text.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(format!("{}: larger than 1 MiB", path.display()));
    }
    Ok(text)
}

/// A public key in PEM: what it is decides the algorithm.
fn public_key(pem: &str) -> Result<PinnedKey, String> {
    if !pem.contains("-----BEGIN PUBLIC KEY-----")
        && !pem.contains("-----BEGIN RSA PUBLIC KEY-----")
    {
        return Err("not a PEM file with a PUBLIC KEY".to_owned());
    }
    let pem = pem.as_bytes();
    // An RSA key is taken last: a PKCS#1 file has no inner type to tell it by.
    let (key, algorithm) = if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        (key, Algorithm::ES256)
    } else if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        (key, Algorithm::EdDSA)
    } else if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        (key, Algorithm::RS256)
    } else {
        return Err(ACCEPTED_KEYS.to_owned());
    };
    check_key(&key, algorithm)?;
    Ok(PinnedKey::new(key, vec![algorithm]))
}

/// A JSON Web Key Set: keys are found by their `kid`; those for other uses than signatures are left
/// out.
fn key_set(json: &str) -> Result<BTreeMap<String, PinnedKey>, String> {
    let set: jwk::JwkSet =
        serde_json::from_str(json).map_err(|error| format!("not a JSON Web Key Set: {error}"))?;
    let mut keys = BTreeMap::new();
    for key in &set.keys {
        if matches!(&key.common.public_key_use, Some(usage) if *usage != jwk::PublicKeyUse::Signature)
        {
            continue;
        }
        let id = key.common.key_id.clone().ok_or("a key has no kid")?;
        let algorithm = jwk_algorithm(key).map_err(|problem| format!("key {id:?}: {problem}"))?;
        let decoding =
            DecodingKey::from_jwk(key).map_err(|_| format!("key {id:?}: malformed parameters"))?;
        check_key(&decoding, algorithm).map_err(|problem| format!("key {id:?}: {problem}"))?;
        if keys.insert(id.clone(), PinnedKey::new(decoding, vec![algorithm])).is_some() {
            return Err(format!("two keys have the kid {id:?}"));
        }
    }
    if keys.is_empty() || keys.len() > KEYS_MAX {
        return Err(format!(
            "{} keys for signatures; from 1 to {KEYS_MAX} are accepted",
            keys.len()
        ));
    }
    Ok(keys)
}

/// The algorithm of a JSON Web Key: its `alg`, which must fit, or what its type stands for.
fn jwk_algorithm(key: &jwk::Jwk) -> Result<Algorithm, &'static str> {
    use jsonwebtoken::AlgorithmFamily::{Ec, Ed, Hmac, Rsa};

    let (family, usual) = match &key.algorithm {
        jwk::AlgorithmParameters::RSA(_) => (Rsa, Some(Algorithm::RS256)),
        jwk::AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            jwk::EllipticCurve::P256 => (Ec, Some(Algorithm::ES256)),
            jwk::EllipticCurve::P384 => (Ec, Some(Algorithm::ES384)),
            _ => return Err("the curve is neither P-256 nor P-384"),
        },
        jwk::AlgorithmParameters::OctetKeyPair(parameters) => match parameters.curve {
            jwk::EllipticCurve::Ed25519 => (Ed, Some(Algorithm::EdDSA)),
            _ => return Err("the curve is not Ed25519"),
        },
        jwk::AlgorithmParameters::OctetKey(_) => (Hmac, None),
        _ => return Err("the type of the key is unknown"),
    };
    let algorithm = match key.common.key_algorithm {
        Some(name) => Algorithm::try_from(name).map_err(|_| "alg is not one of a signature")?,
        None => usual.ok_or("a symmetric key must have an alg")?,
    };
    if algorithm.family() != family || (family == Ec && Some(algorithm) != usual) {
        return Err("alg does not fit the key");
    }
    Ok(algorithm)
}

/// Refuses keys that could be configured but would refuse every token.
fn check_key(key: &DecodingKey, algorithm: Algorithm) -> Result<(), &'static str> {
    use jsonwebtoken::DecodingKeyKind::{RsaModulusExponent, SecretOrDer};

    let fits = match (algorithm, key.kind()) {
        (Algorithm::ES256, SecretOrDer(point)) => point.len() == 65,
        (Algorithm::ES384, SecretOrDer(point)) => point.len() == 97,
        (Algorithm::EdDSA, SecretOrDer(point)) => point.len() == 32,
        (Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512, SecretOrDer(secret)) => {
            !secret.is_empty()
        }
        (_, SecretOrDer(der)) => der.len() > RSA_MODULUS_BYTES_MIN,
        (_, RsaModulusExponent { n, .. }) => n.len() >= RSA_MODULUS_BYTES_MIN,
    };
    if fits { Ok(()) } else { Err(ACCEPTED_KEYS) }
}

/// Why the library refused a token, without what the token says.
fn reason(kind: &jsonwebtoken::errors::ErrorKind) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;

    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not exhaustive")]
    match kind {
        ErrorKind::InvalidSignature => "has a wrong signature",
        ErrorKind::InvalidAlgorithm => "has another algorithm than the key",
        _ => "is malformed",
    }
}

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Most room patterns of a token.
const PATTERNS_MAX: usize = 100;

/// Longest room pattern: no room name is longer.
const PATTERN_BYTES_MAX: usize = realtime_core::stream::ROOM_BYTES_MAX;

/// Most keys of a set.
const KEYS_MAX: usize = 100;

/// Largest key file.
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;

/// 2048 bits: signatures of smaller RSA keys are refused.
const RSA_MODULUS_BYTES_MIN: usize = 256;

const ACCEPTED_KEYS: &str = "accepted are RSA keys of 2048 bits or more, EC keys on P-256 (in a set \
                             also P-384) and Ed25519 keys";

#[cfg(test)]
mod tests {
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
        EncodingKey::from_rsa_pem(include_bytes!("../testdata/rsa.key.pem")).unwrap()
    }

    fn ec() -> EncodingKey {
        EncodingKey::from_ec_pem(include_bytes!("../testdata/ec.key.pem")).unwrap()
    }

    fn ed() -> EncodingKey {
        EncodingKey::from_ed_pem(include_bytes!("../testdata/ed.key.pem")).unwrap()
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
        assert_eq!(
            at(json!({"sub": "u", "iss": "login", "aud": ["a"]})),
            Err("has another audience")
        );
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
}
