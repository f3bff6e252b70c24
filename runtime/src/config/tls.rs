//! TLS of the gRPC port.

use std::{fs, path::Path};

use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::{ConfigError, GrpcTls};

/// Reads the certificates and keys, and checks that they can be served with.
///
/// # Errors
/// A file is unreadable or is not what it should be; the error names its variable.
pub fn server_tls(tls: &GrpcTls) -> Result<ServerTlsConfig, ConfigError> {
    let identity =
        Identity::from_pem(read("GRPC_TLS_CERT", &tls.cert)?, read("GRPC_TLS_KEY", &tls.key)?);
    let mut config = ServerTlsConfig::new().identity(identity).timeout(HANDSHAKE_TIMEOUT);
    check(
        &config,
        "GRPC_TLS_CERT",
        &tls.cert,
        "a certificate and, in GRPC_TLS_KEY, its key in PEM",
    )?;
    if let Some(path) = &tls.client_ca {
        config = config.client_ca_root(Certificate::from_pem(read("GRPC_TLS_CA", path)?));
        check(&config, "GRPC_TLS_CA", path, "certificates of authorities in PEM")?;
    }
    Ok(config)
}

fn read(variable: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(path).map_err(|error| {
        error_of(variable, path, format!("accepted is a PEM file that can be read: {error}"))
    })
}

fn check(
    config: &ServerTlsConfig,
    variable: &'static str,
    path: &Path,
    accepted: &str,
) -> Result<(), ConfigError> {
    let Err(error) = Server::builder().tls_config(config.clone()) else {
        return Ok(());
    };
    // The cause says more than the error itself; neither quotes the files.
    let cause = std::error::Error::source(&error)
        .map_or_else(|| error.to_string(), |cause| cause.to_string());
    Err(error_of(variable, path, format!("accepted are {accepted}: {cause}")))
}

fn error_of(variable: &'static str, path: &Path, accepted: String) -> ConfigError {
    ConfigError { variable, value: Some(path.display().to_string()), accepted }
}

/// A peer that does not finish its TLS handshake by then is dropped.
const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(cert: &str, key: &str, client_ca: Option<&str>) -> Result<(), &'static str> {
        let file = |name| Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
        let (cert, key) = (file(cert), file(key));
        let tls = GrpcTls { cert, key, client_ca: client_ca.map(file) };
        server_tls(&tls).map(|_| ()).map_err(|error| error.variable)
    }

    #[test]
    fn certificates_are_checked_before_they_are_served() {
        assert_eq!(outcome("server.cert.pem", "server.key.pem", None), Ok(()));
        assert_eq!(outcome("server.cert.pem", "server.key.pem", Some("ca.cert.pem")), Ok(()));
        assert_eq!(outcome("absent.pem", "server.key.pem", None), Err("GRPC_TLS_CERT"));
        assert_eq!(outcome("server.cert.pem", "absent.pem", None), Err("GRPC_TLS_KEY"));
        assert_eq!(outcome("README.md", "server.key.pem", None), Err("GRPC_TLS_CERT"));
        assert_eq!(outcome("server.cert.pem", "README.md", None), Err("GRPC_TLS_CERT"));
        assert_eq!(outcome("server.cert.pem", "client.key.pem", None), Err("GRPC_TLS_CERT"));
        let ca = outcome("server.cert.pem", "server.key.pem", Some("README.md"));
        assert_eq!(ca, Err("GRPC_TLS_CA"));
    }
}
