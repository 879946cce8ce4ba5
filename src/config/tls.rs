//! TLS material: PEM files into rustls configurations, checked before any port is bound.
//!
//! rustls with aws-lc-rs, named explicitly: which provider is the process's default is decided elsewhere and may not
//! have been yet. TLS 1.2 and 1.3 only (RFC 9325).

use std::{fs::File, io::Read, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use super::settings::{ClientTls, ServerTls};

/// Largest PEM file, bytes; a bundle of every public root is about 250 KiB.
const MAX_PEM: u64 = 4 * 1024 * 1024;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A PEM file, read once: what is checked is what is used.
pub(super) struct Pem {
    path: PathBuf,
    content: Vec<u8>,
}

impl Pem {
    pub(super) fn read(path: PathBuf) -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
        let mut content = Vec::new();
        // Measured as it is read: what a device or a growing file is long, nobody knows beforehand.
        let read = File::open(&path).and_then(|file| file.take(MAX_PEM + 1).read_to_end(&mut content));
        if read.map_err(cannot)? as u64 > MAX_PEM {
            return Err(format!("{} is larger than 4 MiB", path.display()));
        }
        Ok(Self { path, content })
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }
}

/// The certificates of a PEM file; at least one.
pub(super) fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, String> {
    let path = pem.path.display();
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem.content).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(format!("{path} holds no certificate")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{path} is not PEM: {error}")),
    }
}

/// The first private key of a PEM file.
pub(super) fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>, String> {
    // The library's error for a broken body could quote it.
    PrivateKeyDer::from_pem_slice(&pem.content)
        .map_err(|_| format!("{} holds no unencrypted private key", pem.path.display()))
}

/// The public listener's TLS: the certificate and the key belong together.
pub(super) fn server(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerTls, String> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let mut config =
        builder.with_no_client_auth().with_single_cert(certificates, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => "the private key does not belong to the certificate".to_owned(),
            error => format!("certificate and key cannot be used: {error}"),
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(ServerTls { config: Arc::new(config) })
}

/// The roots of a CA file.
pub(super) fn roots_of_file(pem: &Pem) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("{} holds a certificate that is no root: {error}", pem.path.display()))?;
    }
    Ok(roots)
}

/// The roots the operating system trusts. Odd ones are skipped; none at all is an error.
pub(super) fn system_roots() -> Result<RootCertStore, String> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        return Err("the operating system has no root certificates; name them with tls.ca_file".to_owned());
    }
    Ok(roots)
}

/// TLS towards a cluster. HTTP/1.1 only: the upstream client speaks nothing else.
pub(super) fn client(roots: RootCertStore, server_name: Option<ServerName<'static>>) -> Result<ClientTls, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(ClientTls { config: Arc::new(config), server_name })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn put(&self, name: &str, text: &str) -> Pem {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            Pem::read(path).unwrap()
        }
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["gateway.test".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_and_its_key_serve_h2_and_http1() {
        let (files, (certificate, key)) = (Files::new(), pair());
        let certificates = certificates(&files.put("c.pem", &certificate)).unwrap();
        let tls = server(certificates, private_key(&files.put("k.pem", &key)).unwrap()).unwrap();
        assert_eq!(tls.config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (files, (certificate, _), (_, key)) = (Files::new(), pair(), pair());
        let certificates = certificates(&files.put("c.pem", &certificate)).unwrap();
        let refused = server(certificates, private_key(&files.put("k.pem", &key)).unwrap()).unwrap_err();
        assert_eq!(refused, "the private key does not belong to the certificate");
    }

    #[test]
    fn files_that_hold_something_else_are_refused() {
        let (files, (certificate, key)) = (Files::new(), pair());
        let key_file = files.put("k.pem", &key);
        assert!(certificates(&key_file).unwrap_err().ends_with("holds no certificate"));
        let certificate_file = files.put("c.pem", &certificate);
        assert!(private_key(&certificate_file).unwrap_err().ends_with("holds no unencrypted private key"));
        let broken = files.put("b.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
        assert!(certificates(&broken).unwrap_err().contains("is not PEM"));
        let missing = Pem::read(files.folder.path().join("none.pem")).err().unwrap();
        assert!(missing.starts_with("cannot read "), "{missing}");
        assert!(Pem::read(files.folder.path().to_owned()).is_err());
    }

    #[test]
    fn a_ca_file_gives_the_roots() {
        let (files, (certificate, _)) = (Files::new(), pair());
        let roots = roots_of_file(&files.put("ca.pem", &certificate)).unwrap();
        assert_eq!(roots.len(), 1);
        assert_eq!(client(roots, None).unwrap().config.alpn_protocols, [b"http/1.1".to_vec()]);
    }

    #[test]
    fn a_key_never_prints() {
        let (files, (certificate, key)) = (Files::new(), pair());
        let certificates = certificates(&files.put("c.pem", &certificate)).unwrap();
        let tls = server(certificates, private_key(&files.put("k.pem", &key)).unwrap()).unwrap();
        assert_eq!(format!("{tls:?}"), "ServerTls(…)");
    }
}
