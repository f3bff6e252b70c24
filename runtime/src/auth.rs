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
            let key = read_key_file(path).and_then(|pem| public_key(&pem)).map_err(error)?;
            KeySet::One(Box::new(key))
        } else if let Some(path) = &keys.jwks_file {
            let error = |problem| KeyError { variable: "JWKS_FILE", problem };
            KeySet::ById(read_key_file(path).and_then(|json| key_set(&json)).map_err(error)?)
        } else if let Some(secret) = &keys.secret {
            let key = DecodingKey::from_secret(secret.as_bytes());
            let hmac = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
            KeySet::One(Box::new(PinnedKey::new(key, hmac.to_vec())))
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
    One(Box<PinnedKey>),
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
        let mut validation = Validation {
            algorithms,
            validate_exp: false,
            validate_nbf: false,
            validate_aud: false,
            ..Validation::default()
        };
        validation.required_spec_claims.clear();
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
        let usage = key.common.public_key_use.as_ref();
        if usage.is_some_and(|usage| *usage != jwk::PublicKeyUse::Signature) {
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
#[expect(clippy::wildcard_enum_match_arm, reason = "what the library learns later is refused")]
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

const ACCEPTED_KEYS: &str = "accepted are RSA keys of 2048 bits or more, EC keys on P-256 (in a \
                             set also P-384) and Ed25519 keys";

#[cfg(test)]
mod tests;
