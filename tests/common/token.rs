//! Tokens, good and bad.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::unix_now;

/// `JWT_SECRET` of every server that is not told otherwise.
pub const SECRET: &str = "a secret that is only used by the tests";

/// A token of `user` that is good for an hour.
pub fn token(user: &str) -> String {
    mint(json!({"user_id": user, "exp": unix_now() + 3600}))
}

/// A token of `user` that also grants room patterns.
pub fn token_with_rooms(user: &str, rooms: &[&str]) -> String {
    mint(json!({"user_id": user, "exp": unix_now() + 3600, "rooms": rooms}))
}

/// A token with these claims, signed as the servers expect it.
pub fn mint(claims: Value) -> String {
    mint_hmac(Algorithm::HS256, SECRET.as_bytes(), claims)
}

/// A token signed with a shared secret.
pub fn mint_hmac(algorithm: Algorithm, secret: &[u8], claims: Value) -> String {
    sign(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret))
}

/// A token signed with any key.
pub fn sign(header: &Header, claims: Value, key: &EncodingKey) -> String {
    jsonwebtoken::encode(header, &claims, key).expect("the key fits the algorithm")
}

/// The same claims under `{"alg":"none","typ":"JWT"}`, without a signature.
pub fn unsigned(token: &str) -> String {
    let claims = token.split('.').nth(1).expect("a token has three parts");
    format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.")
}

/// The same token with its signature tampered with.
pub fn forged(token: &str) -> String {
    let (claims, signature) = token.rsplit_once('.').expect("a token has three parts");
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{claims}.{first}{}", &signature[1..])
}
