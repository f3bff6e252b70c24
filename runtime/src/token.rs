//! Makes tokens, for trying things out.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use realtime_core::time::UnixMillis;
use serde::Serialize;

use crate::config::Keys;

/// Whom a token is to name.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The user.
    pub user: String,
    /// Room patterns.
    pub rooms: Vec<String>,
    /// How long it is good.
    pub ttl: Duration,
}

/// Makes a token with `JWT_SECRET`, in HS256. None without a secret: private keys are not
/// configured anywhere.
pub fn mint(keys: &Keys, grant: &Grant, now: UnixMillis) -> Option<String> {
    #[derive(Serialize)]
    struct Claims<'a> {
        user_id: &'a str,
        iat: u64,
        exp: u64,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        rooms: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        iss: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        aud: Option<&'a str>,
    }
    let claims = Claims {
        user_id: &grant.user,
        iat: now.seconds(),
        exp: now.seconds().saturating_add(grant.ttl.as_secs()),
        rooms: &grant.rooms,
        iss: keys.issuer.as_deref(),
        aud: keys.audience.as_deref(),
    };
    let key = EncodingKey::from_secret(keys.secret.as_ref()?.as_bytes());
    let token = encode(&Header::new(Algorithm::HS256), &claims, &key);
    Some(token.expect("HMAC takes every key and the claims are plain"))
}
