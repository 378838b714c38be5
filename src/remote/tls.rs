//! Certificates: the server's own, and what a client believes. One provider of cryptography throughout: aws-lc-rs.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use crate::error::{Error, IoContext, Result};
use crate::model::escape;
use crate::model::id::to_hex;
use crate::sys::whole;

/// The file with the certificate that a server makes itself.
pub(crate) const CERTIFICATE: &str = "certificate.pem";

/// SHA-256 of a certificate: what people compare and clients pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut out = [0; 32];
        let hash = digest::digest(&digest::SHA256, certificate);
        out.copy_from_slice(&hash.as_ref()[..32]);
        Fingerprint(out)
    }

    /// Of the first certificate in a PEM file.
    pub fn read(chain: &Path) -> Result<Self> {
        let chain = certificates(chain)?;
        chain.first().map(Fingerprint::of).ok_or_else(|| Error::invalid("there is no certificate"))
    }

    /// Parses 64 hexadecimal digits, with or without colons, in either case.
    pub fn parse(text: &str) -> Result<Self> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text).replace(':', "").to_ascii_lowercase();
        crate::model::id::from_hex(&digits).map(Fingerprint).ok_or_else(|| {
            Error::invalid("--tls-fingerprint is not 64 hexadecimal digits: yester serve prints it when it starts")
        })
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

pub(crate) fn shown(path: &Path) -> String {
    escape(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

fn wrong(what: impl std::fmt::Display, e: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{what}: {e}"))
}

/// The certificates in a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let what = || format!("cannot read the certificates in {}", shown(path));
    let bytes = fs::read(path).at(what)?;
    let chain = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().map_err(|e| wrong(what(), e))?;
    if chain.is_empty() { Err(wrong(what(), "there is none in PEM form")) } else { Ok(chain) }
}

/// What a server shows: a chain of certificates and its key.
#[derive(Debug)]
pub struct TlsIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl TlsIdentity {
    /// Reads a chain and its key from PEM files.
    pub fn read(chain: &Path, key: &Path) -> Result<Self> {
        let chain = certificates(chain)?;
        let what = || format!("cannot read the private key in {}", shown(key));
        let bytes = zeroize::Zeroizing::new(fs::read(key).at(what)?);
        let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| wrong(what(), e))?;
        Ok(TlsIdentity { chain, key })
    }

    /// The files of the identity in `directory`, chain and key; made there (a certificate that it signs itself) when there
    /// is none.
    pub fn made(directory: &Path, names: &[String], addresses: &[IpAddr]) -> Result<(PathBuf, PathBuf)> {
        let (chain, key) = (directory.join(CERTIFICATE), directory.join("key.pem"));
        if !chain.exists() {
            make(directory, (&chain, &key), names, addresses)?;
        }
        Ok((chain, key))
    }

    /// The fingerprint of the server's own certificate.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.chain.first().map(Fingerprint::of)
    }

    /// Ready to be shown. Key and certificate must belong together.
    pub fn certified(self) -> Result<CertifiedKey> {
        CertifiedKey::from_der(self.chain, self.key, &crypto()).map_err(|e| wrong("the certificate cannot be used", e))
    }
}

/// How a server speaks TLS, with what `resolver` shows.
pub fn server_config(resolver: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| wrong("TLS cannot be used", e))?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Makes a key and a certificate for it. The key is durable before the certificate is there.
fn make(directory: &Path, (chain, key): (&Path, &Path), names: &[String], addresses: &[IpAddr]) -> Result<()> {
    let failed = || format!("cannot make a certificate in {}", shown(directory));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).at(failed)?;
    let pair = rcgen::KeyPair::generate().map_err(|e| wrong(failed(), e))?;
    let mut params = rcgen::CertificateParams::new(names.to_vec()).map_err(|e| wrong(failed(), e))?;
    params.subject_alt_names.extend(addresses.iter().map(|a| rcgen::SanType::IpAddress(*a)));
    params.distinguished_name.push(rcgen::DnType::CommonName, "yester serve");
    let certificate = params.self_signed(&pair).map_err(|e| wrong(failed(), e))?;
    whole::replace(key, zeroize::Zeroizing::new(pair.serialize_pem()).as_bytes()).at(failed)?;
    whole::replace(chain, certificate.pem().as_bytes()).at(failed)
}

/// What a client believes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trust {
    /// Only the certificate with this fingerprint, signed by anybody.
    pub fingerprint: Option<Fingerprint>,
    /// Only what the authorities in this PEM file have signed; without it and a fingerprint, those of the system.
    pub authorities: Option<PathBuf>,
}

impl Trust {
    /// How a client connects.
    pub fn config(&self) -> Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(crypto())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| wrong("TLS cannot be used", e))?;
        let mut config = match self.fingerprint {
            Some(pinned) => {
                let verifier = Arc::new(Pinned { pinned, provider: crypto() });
                builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
            }
            None => {
                let roots = self.roots()?;
                let known = match roots.is_empty() {
                    true => None,
                    false => Some(
                        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto())
                            .build()
                            .map_err(|e| wrong("the certificate authorities cannot be used", e))?,
                    ),
                };
                let verifier = Arc::new(Signed { known, provider: crypto() });
                builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The authorities that are believed; of a system that has no list of them, none.
    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &self.authorities else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        };
        let what = || format!("cannot read the certificates in {}", shown(path));
        let bytes = fs::read(path).at(what)?;
        for certificate in CertificateDer::pem_slice_iter(&bytes) {
            let certificate = certificate.map_err(|e| wrong(what(), e))?;
            roots.add(certificate).map_err(|e| wrong(what(), e))?;
        }
        if roots.is_empty() { Err(wrong(what(), "there is none in PEM form")) } else { Ok(roots) }
    }
}

/// Believes one certificate. That the server has its key is checked as for any other.
#[derive(Debug)]
struct Pinned {
    pinned: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Fingerprint::of(end_entity);
        if found == self.pinned {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!("its certificate has the fingerprint {found}, not the one of --tls-fingerprint")))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Neither side speaks it.
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts certificates that an authority has signed. A refusal shows the fingerprint to pin.
#[derive(Debug)]
struct Signed {
    /// `None`: there are no authorities.
    known: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Signed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let fault = match &self.known {
            Some(known) => match known.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
                Err(rustls::Error::InvalidCertificate(fault)) => certificate_fault(&fault),
                other => return other,
            },
            None => "this system has no list of certificate authorities".to_owned(),
        };
        let offered = Fingerprint::of(end_entity);
        Err(rustls::Error::General(format!(
            "{fault}. It has the fingerprint {offered}. If `yester serve fingerprint` prints the same on the server, trust it \
             with --tls-fingerprint {offered} (or YESTER_TLS_FINGERPRINT); --cacert names an authority of your own"
        )))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What is wrong with a certificate.
fn certificate_fault(fault: &rustls::CertificateError) -> String {
    use rustls::CertificateError as C;
    match fault {
        C::Expired | C::ExpiredContext { .. } => "its certificate has expired".to_owned(),
        C::NotValidForName | C::NotValidForNameContext { .. } => {
            "its certificate is for another name: use the name that it is for".to_owned()
        }
        C::UnknownIssuer | C::BadSignature => "its certificate is signed by nobody that this system knows".to_owned(),
        // One that signs itself and is no authority: the usual one of a server that made its own.
        C::Other(_) => "its certificate is signed by nobody that this system knows".to_owned(),
        other => format!("its certificate is no good: {other}"),
    }
}

/// What is wrong with a TLS connection, and what to do about it; `None` where TLS is not what is wrong.
pub(crate) fn explain(e: &io::Error) -> Option<String> {
    use rustls::Error as E;
    let cause = e.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match cause {
        E::InvalidCertificate(fault) => certificate_fault(fault),
        E::General(text) => text.clone(),
        E::InvalidMessage(_) => "what answers there does not speak TLS: it is not yester serve, or another port".to_owned(),
        E::PeerIncompatible(_) | E::AlertReceived(rustls::AlertDescription::ProtocolVersion) => {
            "it does not speak TLS 1.3, which is the least that is used here".to_owned()
        }
        _ => return None,
    })
}

/// Whether it is about whom to trust: then trying again does not help.
pub(crate) fn is_about_trust(e: &io::Error) -> bool {
    let cause = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::General(_)))
}
