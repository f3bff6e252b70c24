use super::*;

const SYSTEM: System = System { cores: 3, files: 65_536 };

/// Parses `variables` and nothing else.
fn parsed(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let lookup = |name: &str| {
        let known = variables.iter().find(|(known, _)| *known == name);
        known.map(|(_, value)| (*value).to_owned())
    };
    parse(&Reader { lookup: &lookup }, &SYSTEM)
}

#[track_caller]
fn ok(variables: &[(&str, &str)]) -> Config {
    parsed(variables).unwrap()
}

/// The variable that an error names.
#[track_caller]
fn blamed(variables: &[(&str, &str)]) -> &'static str {
    parsed(variables).map(|_| ()).expect_err("must be refused").variable
}

fn test_file(name: &str) -> String {
    format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_example_lists_every_variable_with_its_default() {
    let example = include_str!("../../../../env.example");
    let listed: Vec<(&str, &str)> = example
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_once('=').unwrap())
        .collect();
    let sorted = |mut variables: Vec<(&'static str, &'static str)>| {
        variables.sort_unstable();
        variables
    };
    assert_eq!(sorted(listed), sorted(VARIABLES.to_vec()));
    ok(&sorted(VARIABLES.to_vec()));
}

#[test]
fn defaults_are_those_that_are_promised() {
    let config = ok(&[]);
    assert_eq!((config.http_port, config.grpc_port), (3003, 50057));
    assert_eq!(config.metrics_port, Some(9057));
    assert_eq!(config.workers, 3);
    assert_eq!(config.bind_address.to_string(), "0.0.0.0");
    assert_eq!(config.ws.connections_max, 65_536 - 512);
    assert_eq!(config.ws.pong_timeout, Duration::from_secs(60));
    assert_eq!(config.ws.message_burst, 200);
    assert_eq!(config.ws.public_rooms, ["event:*"]);
    assert_eq!(config.ws.outbox_total_bytes_max, 64 << 20);
    assert_eq!(config.retention.user_entries_max, 256);
    assert_eq!(config.retention.position_ttl, Duration::from_secs(86_400));
    assert_eq!(config.receipt_timeout, Duration::from_millis(250));
    assert!(config.redis.is_none() && config.grpc_tls.is_none());
    assert!(config.ws.allow_anonymous && config.ingress && config.log_json);
    assert!(config.latest_types.is_empty());
}

#[test]
fn redis_is_used_when_it_has_a_host() {
    let config = ok(&[
        ("REDIS_HOST", "redis.internal"),
        ("REDIS_PORT", "6380"),
        ("REDIS_PASSWORD", " p w "),
        ("JWT_SECRET", "secret"),
        ("WORKERS", "8"),
    ]);
    let redis = config.redis.unwrap();
    assert_eq!((&*redis.host, redis.port, redis.db), ("redis.internal", 6380, 0));
    assert_eq!(redis.password.as_deref(), Some(" p w "));
    assert_eq!(redis.connections, 4);
    assert_eq!(redis.prefix, "realtime:");
    assert!(ok(&[("REDIS_HOST", " ")]).redis.is_none());
    let two = ok(&[("REDIS_HOST", "r"), ("JWT_SECRET", "s"), ("REDIS_POOL_SIZE", "2")]);
    assert_eq!(two.redis.unwrap().connections, 2);
}

#[test]
fn a_secret_is_made_up_only_without_redis_and_other_keys() {
    let keys = ok(&[]).keys;
    assert!(keys.secret_is_random && keys.secret.as_ref().unwrap().len() == 64);
    assert_ne!(keys.secret, ok(&[]).keys.secret);
    let keys = ok(&[("JWT_SECRET", "secret")]).keys;
    assert!(!keys.secret_is_random && keys.secret.as_deref() == Some("secret"));
    let keys = ok(&[("JWT_PUBLIC_KEY_FILE", &test_file("ec.pub.pem"))]).keys;
    assert!(!keys.secret_is_random && keys.secret.is_none());
    assert_eq!(blamed(&[("REDIS_HOST", "r")]), "JWT_SECRET");
    assert_eq!(blamed(&[("REDIS_HOST", "r"), ("WS_ALLOW_ANONYMOUS", "false")]), "JWT_SECRET");
    let anonymous = ok(&[("REDIS_HOST", "r"), ("WS_ALLOW_ANONYMOUS", "true")]).keys;
    assert!(anonymous.secret.is_none() && !anonymous.secret_is_random);
}

#[test]
fn values_that_can_not_be_read_are_blamed() {
    for (name, value) in [
        ("BIND_ADDRESS", "localhost"),
        ("HTTP_PORT", "65536"),
        ("HTTP_PORT", "-1"),
        ("HTTP_PORT", "+80"),
        ("HTTP_READ_TIMEOUT", "15"),
        ("HTTP_WRITE_TIMEOUT", "0"),
        ("GRPC_PORT", "tcp://10.0.0.1:50057"),
        ("GRPC_TLS_ENABLED", "yes"),
        ("METRICS_PORT", "x"),
        ("METRICS_ENABLED", "on"),
        ("METRICS_MAX_ROOMS", "10001"),
        ("WORKERS", "0"),
        ("WORKERS", "65"),
        ("WS_MAX_CONNECTIONS", "many"),
        ("WS_MAX_CONNECTIONS_PER_USER", "0"),
        ("WS_ACCEPT_RATE", "-1"),
        ("WS_MAX_ROOMS", "0"),
        ("WS_ALLOW_ANONYMOUS", "TRUE"),
        ("WS_ALLOWED_ORIGINS", "https://a.example,b.example"),
        ("WS_ALLOWED_ORIGINS", "https://a.example/"),
        ("WS_ALLOWED_ORIGINS", "https://*.example"),
        ("WS_PUBLIC_ROOMS", "a\u{7}"),
        ("WS_PING_INTERVAL", "0s"),
        ("WS_PONG_TIMEOUT", "1 minute"),
        ("WS_JOIN_TIMEOUT", "5"),
        ("WS_CLOSE_TIMEOUT", "0s"),
        ("WS_SLOW_TIMEOUT", "0s"),
        ("WS_MAX_MESSAGE_SIZE", "64kb"),
        ("WS_MESSAGE_RATE", "20/s"),
        ("WS_MESSAGE_BURST", "0"),
        ("WS_MAX_ERRORS", "0"),
        ("WS_OUTBOX_BYTES", "1"),
        ("OUTBOX_TOTAL_BYTES", "lots"),
        ("TOKEN_EXPIRY_NOTICE", "2h"),
        ("JWT_LEEWAY", "60"),
        ("JWT_PUBLIC_KEY_FILE", "/nowhere/key.pem"),
        ("JWKS_FILE", "/nowhere/keys.json"),
        ("REDIS_PORT", "0"),
        ("REDIS_DB", "-1"),
        ("REDIS_POOL_SIZE", "0"),
        ("REDIS_PREFIX", "a{b}"),
        ("REDIS_HOST", "redis://r"),
        ("REDIS_WAIT_REPLICAS", "x"),
        ("MEMORY_BROKER_BYTES", "1"),
        ("HISTORY_SIZE", "-1"),
        ("HISTORY_SIZE_ROOM", "0"),
        ("HISTORY_BYTES", "0"),
        ("HISTORY_TTL", "10"),
        ("POSITION_TTL", "0s"),
        ("POSITION_CHECK", "1ms"),
        ("LATEST_TTL", "x"),
        ("IDEMPOTENCY_TTL", "x"),
        ("DELIVERY_LATEST", "ticket:availability,system:ping"),
        ("INGRESS_ENABLED", "2"),
        ("RECEIPT_TIMEOUT", "1h"),
        ("ACK_TIMEOUT", "0"),
        ("MAX_PAYLOAD_SIZE", "1"),
        ("READY_REDIS_GRACE", "x"),
        ("DRAIN_DELAY", "5"),
        ("DRAIN_TIMEOUT", "2h"),
        ("LOG_LEVEL", "verbose"),
        ("LOG_LEVEL", "a=b=c"),
        ("LOG_FORMAT", "xml"),
    ] {
        assert_eq!(blamed(&[(name, value)]), name, "{name}={value}");
    }
}

#[test]
fn unsafe_combinations_are_refused() {
    let rsa = test_file("rsa.pub.pem");
    let (cert, key) = (test_file("server.cert.pem"), test_file("server.key.pem"));
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("WS_PING_INTERVAL", "60s")], "WS_PONG_TIMEOUT"),
        (&[("WS_PONG_TIMEOUT", "30s")], "WS_PONG_TIMEOUT"),
        (&[("WS_PONG_WAIT", "30s")], "WS_PONG_WAIT"),
        (&[("WS_PONG_WAIT", "50s"), ("WS_PONG_TIMEOUT", "40s")], "WS_PONG_WAIT"),
        (&[("GRPC_TLS_CA", &cert)], "GRPC_TLS_CA"),
        (&[("GRPC_TLS_ENABLED", "true")], "GRPC_TLS_CERT"),
        (&[("GRPC_TLS_ENABLED", "true"), ("GRPC_TLS_CERT", &cert)], "GRPC_TLS_KEY"),
        (
            &[("GRPC_TLS_ENABLED", "true"), ("GRPC_TLS_CERT", "/nowhere"), ("GRPC_TLS_KEY", &key)],
            "GRPC_TLS_CERT",
        ),
        (&[("HTTP_PORT", "50057")], "GRPC_PORT"),
        (&[("METRICS_PORT", "3003")], "METRICS_PORT"),
        (&[("METRICS_PORT", "50057")], "METRICS_PORT"),
        (&[("JWT_SECRET", "s"), ("JWT_PUBLIC_KEY_FILE", &rsa)], "JWT_PUBLIC_KEY_FILE"),
        (&[("JWT_SECRET", "s"), ("JWKS_FILE", &rsa)], "JWKS_FILE"),
        (&[("JWT_PUBLIC_KEY_FILE", &rsa), ("JWKS_FILE", &rsa)], "JWKS_FILE"),
        (&[("JWKS_FILE", &rsa)], "JWKS_FILE"),
        (&[("WS_OUTBOX_BYTES", "2MiB"), ("OUTBOX_TOTAL_BYTES", "1MiB")], "WS_OUTBOX_BYTES"),
        (&[("WS_OUTBOX_BYTES", "64KiB")], "WS_OUTBOX_BYTES"),
        (&[("MAX_PAYLOAD_SIZE", "256KiB")], "WS_OUTBOX_BYTES"),
    ];
    for (variables, expected) in cases {
        assert_eq!(blamed(variables), *expected, "{variables:?}");
    }
}

#[test]
fn combinations_that_only_look_alike_are_accepted() {
    let zero = ok(&[("HTTP_PORT", "0"), ("GRPC_PORT", "0"), ("METRICS_PORT", "0")]);
    assert_eq!(zero.metrics_port, Some(0));
    let off = ok(&[("METRICS_ENABLED", "false"), ("METRICS_PORT", "3003")]);
    assert_eq!(off.metrics_port, None);
    let wait = ok(&[("WS_PONG_WAIT", "90s"), ("WS_PONG_TIMEOUT", "1m30s")]);
    assert_eq!(wait.ws.pong_timeout, Duration::from_secs(90));
    assert_eq!(ok(&[("WS_PONG_WAIT", "90s")]).ws.pong_timeout, Duration::from_secs(90));
    let tls = ok(&[
        ("GRPC_TLS_ENABLED", "1"),
        ("GRPC_TLS_CERT", &test_file("server.cert.pem")),
        ("GRPC_TLS_KEY", &test_file("server.key.pem")),
        ("GRPC_TLS_CA", &test_file("ca.cert.pem")),
    ]);
    assert!(tls.grpc_tls.unwrap().client_ca.is_some());
    assert_eq!(ok(&[("BIND_ADDRESS", "[::]")]).bind_address.to_string(), "::");
    assert_eq!(ok(&[("LOG_LEVEL", "info,realtime_runtime=debug")]).log_level.len(), 27);
    assert_eq!(ok(&[("LOG_LEVEL", "WARN")]).log_level, "warn");
    let lists = ok(&[("WS_ALLOWED_ORIGINS", " https://a.example , http://b.example:8080,")]);
    assert_eq!(lists.ws.allowed_origins, ["https://a.example", "http://b.example:8080"]);
}

#[test]
fn an_error_is_one_line_that_names_variable_value_and_what_is_accepted() {
    let error = parsed(&[("WS_PING_INTERVAL", "3\n0")]).unwrap_err().to_string();
    assert_eq!(
        error,
        "WS_PING_INTERVAL=\"3\\n0\": accepted is a duration such as 500ms, 30s, 2m or 1h, \
         from 10ms to 3600s"
    );
    let error = parsed(&[("GRPC_TLS_ENABLED", "true")]).unwrap_err().to_string();
    assert_eq!(error, "GRPC_TLS_CERT is not set: needed with GRPC_TLS_ENABLED=true: a PEM file");
}

#[test]
fn an_operator_is_warned_of_a_short_secret_and_of_no_key_at_all() {
    let warned = |variables: &[(&str, &str)], of: &str| {
        ok(variables).warnings().iter().any(|warning| warning.contains(of))
    };
    let redis = ("REDIS_HOST", "redis");
    let key = ("JWT_PUBLIC_KEY_FILE", &*test_file("ec.pub.pem"));
    assert!(warned(&[("JWT_SECRET", "short")], "JWT_SECRET has 5 bytes"));
    assert!(warned(&[redis, ("WS_ALLOW_ANONYMOUS", "true")], "every token is refused"));
    for good in [&[][..], &[redis, key]] {
        assert!(!warned(good, "JWT_"), "{good:?}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let jwks = test_file("README.md");
    let error = parsed(&[("JWT_SECRET", "hunter2"), ("JWKS_FILE", &jwks)]).unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let variables = [("JWT_SECRET", "hunter2"), ("REDIS_PASSWORD", "hunter2"), ("REDIS_HOST", "r")];
    assert!(!format!("{:?}", ok(&variables)).contains("hunter2"));
    let lookup = |_: &str| Some("hunter2".to_owned());
    let reader = Reader { lookup: &lookup };
    assert!(!reader.error("JWT_SECRET", "").to_string().contains("hunter2"));
    assert!(!reader.error("REDIS_PASSWORD", "").to_string().contains("hunter2"));
}

#[test]
fn the_file_limit_bounds_connections() {
    assert_eq!(connections_of(1_024), 512);
    assert_eq!(connections_of(100), 1);
    assert_eq!(connections_of(u64::MAX), CONNECTIONS_MAX);
    assert_eq!(ok(&[("WS_MAX_CONNECTIONS", "7")]).ws.connections_max, 7);
}

#[test]
fn misspelt_variables_are_noticed() {
    let warned = |name: &str| unknown_variables([name.to_owned()].into_iter());
    assert_eq!(
        warned("REDIS_PASWORD"),
        ["REDIS_PASWORD is not a variable of this service; is REDIS_PASSWORD meant?"]
    );
    assert_eq!(warned("WS_PONG_TIMEOUTS").len(), 1);
    for name in
        ["WS_PONG_TIMEOUT", "HTTP_PROXY_HOST", "REDIS_SERVICE_HOST", "PATH", "REDIS_PORT_6379_TCP"]
    {
        assert_eq!(warned(name), [""; 0], "{name}");
    }
}
