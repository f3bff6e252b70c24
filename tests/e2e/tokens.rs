//! Tokens: which are good, and what happens when their time is up.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData as _};
use serde_json::{Value, json};

use crate::common::{
    TempDir,
    client::Client,
    grpc,
    http::upgrade,
    server::{Server, Setup},
    token::{SECRET, forged, mint, mint_hmac, sign, token, token_with_rooms, unsigned},
    unix_now,
};

#[tokio::test]
async fn a_bad_token_is_401_even_where_anonymous_connections_are_allowed() {
    let server = Setup::embedded().set("WS_ALLOW_ANONYMOUS", "true").start().await;
    let now = unix_now();
    let good = token("a");
    let bad = [
        ("nonsense", "x".to_owned()),
        ("two parts", "a.b".to_owned()),
        ("forged", forged(&good)),
        ("unsigned", unsigned(&good)),
        ("no signature", good.rsplit_once('.').unwrap().0.to_owned() + "."),
        ("another secret", mint_hmac(Algorithm::HS256, b"another", json!({"sub": "a"}))),
        ("expired", mint(json!({"sub": "a", "exp": now - 5}))),
        ("expires as text", mint(json!({"sub": "a", "exp": "tomorrow"}))),
        ("not yet", mint(json!({"sub": "a", "nbf": now + 600}))),
        ("refresh", mint(json!({"sub": "a", "type": "refresh"}))),
        ("nobody", mint(json!({"exp": now + 600}))),
        ("empty", mint(json!({"user_id": "", "userId": "", "sub": ""}))),
        ("a number", mint(json!({"user_id": 7}))),
        ("too long", mint(json!({"sub": "a", "filler": "x".repeat(9000)}))),
    ];
    for (what, token) in bad {
        let answer = upgrade(&server, &format!("/ws?token={token}"), &[]).await;
        assert_eq!(answer.status, 401, "{what}");
        answer.assert_refused(401);
    }
}

#[tokio::test]
async fn the_user_is_the_first_claim_that_names_one() {
    let server = Setup::embedded().start().await;
    let cases = [
        (json!({"user_id": "a", "userId": "b", "sub": "c"}), "a"),
        (json!({"userId": "b", "sub": "c"}), "b"),
        (json!({"sub": "c"}), "c"),
        (json!({"user_id": "", "userId": "b", "sub": "c"}), "b"),
        (json!({"user_id": "", "sub": "c", "type": "access"}), "c"),
        (json!({"sub": "c", "nbf": unix_now() - 5}), "c"),
    ];
    for (claims, user) in cases {
        let client = Client::connect(&server, &mint(claims)).await;
        assert_eq!(client.greeting["user_id"], user);
    }
}

#[tokio::test]
async fn a_shared_secret_verifies_every_hmac() {
    let server = Setup::embedded().start().await;
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = mint_hmac(algorithm, SECRET.as_bytes(), json!({"sub": "a"}));
        assert_accepted(&server, &token, true).await;
    }
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let key = EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap();
    let token = sign(&Header::new(Algorithm::RS256), json!({"sub": "a"}), &key);
    assert_accepted(&server, &token, false).await;
}

#[tokio::test]
async fn a_public_key_verifies_its_own_algorithm_and_is_never_taken_for_a_secret() {
    let directory = TempDir::new();
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let keys = [
        (Algorithm::RS256, &rsa, EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes())),
        (Algorithm::ES256, &p256, EncodingKey::from_ec_pem(p256.serialize_pem().as_bytes())),
        (Algorithm::EdDSA, &ed25519, EncodingKey::from_ed_pem(ed25519.serialize_pem().as_bytes())),
    ];
    for (algorithm, pair, key) in &keys {
        let public = pair.public_key_pem();
        let file = directory.file("public.pem", &public);
        let setup = Setup::embedded().unset("JWT_SECRET").set("JWT_PUBLIC_KEY_FILE", &file);
        let server = setup.start().await;
        let good = sign(&Header::new(*algorithm), json!({"sub": "a"}), key.as_ref().unwrap());
        assert_accepted(&server, &good, true).await;
        assert_accepted(&server, &forged(&good), false).await;
        assert_accepted(&server, &unsigned(&good), false).await;
        for secret in [public.as_bytes(), public.trim().as_bytes(), SECRET.as_bytes()] {
            let confused = mint_hmac(Algorithm::HS256, secret, json!({"sub": "a"}));
            assert_accepted(&server, &confused, false).await;
        }
        for (other, _, key) in keys.iter().filter(|(other, ..)| other != algorithm) {
            let token = sign(&Header::new(*other), json!({"sub": "a"}), key.as_ref().unwrap());
            assert_accepted(&server, &token, false).await;
        }
    }
}

#[tokio::test]
async fn a_key_set_verifies_by_key_id() {
    let directory = TempDir::new();
    let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let public = base64_url(pair.der_bytes());
    let set = json!({"keys": [{
        "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "one", "x": public,
    }]});
    let file = directory.file("jwks.json", &set.to_string());
    let setup = Setup::embedded().unset("JWT_SECRET").set("JWKS_FILE", &file);
    let server = setup.start().await;
    let key = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap();
    let with_kid = |kid: Option<&str>| {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = kid.map(str::to_owned);
        sign(&header, json!({"sub": "a"}), &key)
    };
    assert_accepted(&server, &with_kid(Some("one")), true).await;
    assert_accepted(&server, &with_kid(Some("two")), false).await;
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("one".to_owned());
    let confused = sign(&header, json!({"sub": "a"}), &EncodingKey::from_secret(public.as_bytes()));
    assert_accepted(&server, &confused, false).await;
}

#[tokio::test]
async fn issuer_audience_and_leeway_are_checked_where_they_are_set() {
    let server = Setup::embedded()
        .set("JWT_ISSUER", "auth")
        .set("JWT_AUDIENCE", "realtime")
        .set("JWT_LEEWAY", "1m")
        .start()
        .await;
    let now = unix_now();
    let cases = [
        (json!({"sub": "a", "iss": "auth", "aud": "realtime"}), true),
        (json!({"sub": "a", "iss": "auth", "aud": ["shop", "realtime"]}), true),
        (json!({"sub": "a", "iss": "auth", "aud": "realtime", "exp": now - 10}), true),
        (json!({"sub": "a", "iss": "auth", "aud": "realtime", "nbf": now + 10}), true),
        (json!({"sub": "a", "iss": "auth", "aud": "realtime", "exp": now - 120}), false),
        (json!({"sub": "a", "iss": "auth", "aud": "realtime", "nbf": now + 120}), false),
        (json!({"sub": "a", "iss": "other", "aud": "realtime"}), false),
        (json!({"sub": "a", "iss": "auth", "aud": "shop"}), false),
        (json!({"sub": "a", "aud": "realtime"}), false),
        (json!({"sub": "a", "iss": "auth"}), false),
    ];
    for (claims, good) in cases {
        assert_accepted(&server, &mint(claims), good).await;
    }
}

#[tokio::test]
async fn a_connection_is_told_before_its_token_expires_and_closed_when_it_does() {
    let server = Setup::embedded().set("TOKEN_EXPIRY_NOTICE", "1s").start().await;
    let token = mint(json!({"sub": "a", "exp": unix_now() + 3}));
    let mut client = Client::connect(&server, &token).await;
    let notice = client.expect("system:token_expiring").await;
    let left = notice["payload"]["expires_in_ms"].as_u64().unwrap();
    assert!(left <= 1000, "{notice}");
    client.expect_close(4401).await;
}

#[tokio::test]
async fn a_token_that_expires_soon_is_told_so_at_once() {
    let server = Setup::embedded().start().await;
    let token = mint(json!({"sub": "a", "exp": unix_now() + 30}));
    let mut client = Client::connect(&server, &token).await;
    let notice = client.expect("system:token_expiring").await;
    let left = notice["payload"]["expires_in_ms"].as_u64().unwrap();
    assert!((1..=30_000).contains(&left), "{notice}");
    client.assert_quiet().await;
}

#[tokio::test]
async fn a_refreshed_token_keeps_the_connection() {
    let server = Setup::embedded().set("TOKEN_EXPIRY_NOTICE", "1s").start().await;
    let exp = unix_now() + 2;
    let mut client = Client::connect(&server, &mint(json!({"sub": "a", "exp": exp}))).await;
    let later = unix_now() + 4;
    let fresh = mint(json!({"sub": "a", "exp": later}));
    let answer = client.ask(refresh(&fresh), "auth:refreshed").await;
    assert_eq!(answer["payload"]["expires_at"], later);
    assert_eq!(answer["ref"], "r");
    // The next things said are about the new token: the notice comes a second before its end.
    client.expect("system:token_expiring").await;
    assert!(unix_now() >= exp, "the old token still counted");
    client.expect_close(4401).await;
    assert!(unix_now() >= later, "closed before the new token expired");
}

#[tokio::test]
async fn a_refresh_that_is_no_good_changes_nothing() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token_with_rooms("a", &["vip:*"])).await;
    client.join("vip:1").await;
    let now = unix_now();
    let bad = [
        token("b"),
        forged(&token("a")),
        unsigned(&token("a")),
        mint(json!({"sub": "a", "exp": now - 5})),
        mint(json!({"sub": "a", "type": "refresh"})),
    ];
    for token in bad {
        client.send(refresh(&token)).await;
        let error = client.expect_error("UNAUTHORIZED").await;
        assert_eq!(error["ref"], "r");
    }
    client.send(json!({"type": "auth:refresh", "payload": {}})).await;
    client.expect("system:error").await;
    assert_eq!(grpc::broadcast(&server, "vip:1", "x", "{}").await.unwrap().recipients, 1);
    client.expect("x").await;
    let mut anonymous = Client::anonymous(&server).await;
    anonymous.send(refresh(&token("a"))).await;
    anonymous.expect_error("UNAUTHORIZED").await;
}

#[tokio::test]
async fn rooms_that_a_new_token_does_not_grant_are_left() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token_with_rooms("a", &["vip:*", "x:*"])).await;
    for room in ["vip:1", "x:1", "event:1"] {
        client.join(room).await;
    }
    client.send(refresh(&token_with_rooms("a", &["x:*"]))).await;
    let mut messages: Vec<Value> = Vec::new();
    messages.push(client.next_of(&["auth:refreshed", "room:left"]).await);
    messages.push(client.next_of(&["auth:refreshed", "room:left"]).await);
    messages.sort_by_key(|message| message["type"].to_string());
    assert_eq!(messages[0]["type"], "auth:refreshed");
    assert_eq!(messages[1]["payload"], json!({"room": "vip:1", "reason": "forbidden"}));
    for (room, recipients) in [("vip:1", 0), ("x:1", 1), ("event:1", 1)] {
        let answer = grpc::broadcast(&server, room, "x", "{}").await.unwrap();
        assert_eq!(answer.recipients, recipients, "{room}");
    }
    client.expect("x").await;
    client.expect("x").await;
    client.send(json!({"type": "room:join", "payload": {"room": "vip:1"}})).await;
    client.expect_error("FORBIDDEN").await;
}

fn refresh(token: &str) -> Value {
    json!({"type": "auth:refresh", "ref": "r", "payload": {"token": token}})
}

async fn assert_accepted(server: &Server, token: &str, good: bool) {
    let answer = upgrade(server, &format!("/ws?token={token}"), &[]).await;
    assert_eq!(answer.status, if good { 101 } else { 401 }, "{token}");
}

/// Unpadded base64 with the URL alphabet (RFC 4648 §5).
fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|at| u32::from(chunk.get(at).copied().unwrap_or(0)));
        let bits = a << 16 | b << 8 | c;
        for at in 0..=chunk.len() {
            let index = bits >> (18 - 6 * at) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}
