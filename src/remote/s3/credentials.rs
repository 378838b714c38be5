//! Credentials for an object store: from the environment, from `~/.aws`, from web identity, and from the machine.
//!
//! The library knows all but the files. The first of these that is there counts, as with AWS's own programs: keys in the
//! environment, web identity in the environment, the profile in the files, the container's, the machine's.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use object_store::CredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key, AwsCredential};
use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::remote::tls::shown;

/// What the environment and the options say of an object store.
#[derive(Clone, Default)]
pub struct S3Options {
    /// The variables whose names begin with `AWS_`, `GOOGLE_` or `AZURE_`.
    pub variables: BTreeMap<String, String>,
    /// The directory in which `.aws` is.
    pub home: Option<PathBuf>,
    /// The region; without one the variables, the profile and the endpoint are asked.
    pub region: Option<String>,
    /// The bucket is in the host's name instead of in the path.
    pub virtual_hosts: bool,
    /// The storage class of packs that hold content of files.
    pub data_class: Option<String>,
    /// Requests at once.
    pub connections: Option<usize>,
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variables hold secrets.
        let S3Options { region, virtual_hosts, data_class, connections, .. } = self;
        write!(f, "S3Options({region:?}, {virtual_hosts}, {data_class:?}, {connections:?})")
    }
}

/// A builder with credentials, and what the files say besides.
pub(crate) struct FoundCredentials {
    /// Credentials are set.
    pub(crate) builder: AmazonS3Builder,
    /// The region of the profile.
    pub(crate) region: Option<String>,
    /// Whether credentials that have expired may be replaced while one waits.
    pub(crate) renewable: bool,
}

/// Finds credentials.
pub(crate) fn find(options: &S3Options, builder: AmazonS3Builder) -> Result<FoundCredentials> {
    let get = |name: &str| options.variables.get(name).filter(|value| !value.is_empty()).cloned();
    let files = Files::of(options);
    let named = get("AWS_PROFILE").or_else(|| get("AWS_DEFAULT_PROFILE"));
    let profile = named.clone().unwrap_or_else(|| "default".to_owned());
    let region = files.value(&profile, "region")?;
    match (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => {
            let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            let builder = get("AWS_SESSION_TOKEN").into_iter().fold(builder, AmazonS3Builder::with_token);
            return Ok(FoundCredentials { builder, region, renewable: false });
        }
        (None, None) => {}
        _ => return Err(Error::new(ErrorKind::Key, "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither")),
    }
    let renewable = |builder| Ok(FoundCredentials { builder, region: region.clone(), renewable: true });
    let web = get("AWS_WEB_IDENTITY_TOKEN_FILE").zip(get("AWS_ROLE_ARN"));
    if let Some((file, role)) = web {
        return renewable(web_identity(builder, file, role, get("AWS_ROLE_SESSION_NAME"), get("AWS_ENDPOINT_URL_STS")));
    }
    if files.read(&profile)?.is_some() {
        return renewable(builder.with_credentials(Arc::new(Profile { files, profile, cached: Mutex::default() })));
    }
    let file = files.value(&profile, "web_identity_token_file")?.zip(files.value(&profile, "role_arn")?);
    if let Some((file, role)) = file {
        let session = files.value(&profile, "role_session_name")?;
        return renewable(web_identity(builder, file, role, session, get("AWS_ENDPOINT_URL_STS")));
    }
    if let Some(named) = named {
        let text = "has no aws_access_key_id: profiles of sso, of credential_process and of other profiles are not read; \
                    aws configure export-credentials --format env prints keys for the environment";
        return Err(Error::new(ErrorKind::Key, format!("the profile {named:?} in {} {text}", shown(&files.credentials))));
    }
    let container = [
        (Key::ContainerCredentialsRelativeUri, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        (Key::ContainerCredentialsFullUri, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        (Key::ContainerAuthorizationTokenFile, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        (Key::MetadataEndpoint, "AWS_METADATA_ENDPOINT"),
    ];
    let set = container.into_iter().filter_map(|(key, name)| get(name).map(|value| (key, value)));
    renewable(set.fold(builder, |builder, (key, value)| builder.with_config(key, value)))
}

fn web_identity(
    builder: AmazonS3Builder,
    file: String,
    role: String,
    session: Option<String>,
    endpoint: Option<String>,
) -> AmazonS3Builder {
    let builder = builder.with_config(Key::WebIdentityTokenFile, file).with_config(Key::RoleArn, role);
    let more = [(Key::RoleSessionName, session), (Key::StsEndpoint, endpoint)];
    more.into_iter().filter_map(|(key, value)| Some((key, value?))).fold(builder, |b, (key, value)| b.with_config(key, value))
}

/// When each of the files was changed.
type FileTimes = [Option<SystemTime>; 2];

/// The two files of AWS's programs.
#[derive(Debug, Clone)]
struct Files {
    credentials: PathBuf,
    config: PathBuf,
}

impl Files {
    fn of(options: &S3Options) -> Files {
        let directory = options.home.clone().unwrap_or_default().join(".aws");
        let path = |name: &str, usual: &str| options.variables.get(name).map_or_else(|| directory.join(usual), PathBuf::from);
        Files { credentials: path("AWS_SHARED_CREDENTIALS_FILE", "credentials"), config: path("AWS_CONFIG_FILE", "config") }
    }

    fn value(&self, profile: &str, key: &str) -> Result<Option<String>> {
        let sections = [(&self.credentials, profile.to_owned()), (&self.config, section_of_config(profile))];
        for (file, section) in sections {
            let found = text(file)?.and_then(|text| value(&text, &section, key));
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn read(&self, profile: &str) -> Result<Option<AwsCredential>> {
        let id = self.value(profile, "aws_access_key_id")?;
        let Some((key_id, secret_key)) = id.zip(self.value(profile, "aws_secret_access_key")?) else { return Ok(None) };
        Ok(Some(AwsCredential { key_id, secret_key, token: self.value(profile, "aws_session_token")? }))
    }

    /// When they were changed.
    fn stamp(&self) -> FileTimes {
        [&self.credentials, &self.config].map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
    }
}

fn section_of_config(profile: &str) -> String {
    if profile == "default" { profile.to_owned() } else { format!("profile {profile}") }
}

fn text(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        // Where nobody's home is, there is no file either.
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(Error::io(format!("cannot read {}", shown(path)), e)),
    }
}

/// The value of a key in a section of an INI file.
fn value(text: &str, section: &str, key: &str) -> Option<String> {
    let mut here = false;
    for line in text.lines() {
        if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            here = name.split_whitespace().eq(section.split_whitespace());
        } else if here
            // What is indented belongs to the key before it.
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((found, value)) = line.split_once('=')
            && found.trim() == key
        {
            return Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    None
}

/// Keys in the files, read again when these have changed: other programs renew them there.
struct Profile {
    files: Files,
    profile: String,
    cached: Mutex<Option<(FileTimes, Arc<AwsCredential>)>>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Profile({})", self.profile)
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Profile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let stamp = self.files.stamp();
        let mut cached = self.cached.lock();
        if let Some((_, credential)) = cached.as_ref().filter(|(then, _)| *then == stamp) {
            return Ok(credential.clone());
        }
        let lost = || Error::new(ErrorKind::Key, format!("the profile {:?} has no keys any more", self.profile));
        let read = self.files.read(&self.profile).and_then(|found| found.ok_or_else(lost));
        let credential = Arc::new(read.map_err(|e| object_store::Error::Generic { store: "S3", source: Box::new(e) })?);
        *cached = Some((stamp, credential.clone()));
        Ok(credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read() {
        let text = "# comment\n[default]\naws_access_key_id = A\naws_secret_access_key=B=\n\n[ other ]\nregion = x\n  s3 =\n";
        assert_eq!(value(text, "default", "aws_access_key_id").as_deref(), Some("A"));
        assert_eq!(value(text, "default", "aws_secret_access_key").as_deref(), Some("B="));
        assert_eq!(value(text, "other", "region").as_deref(), Some("x"));
        assert_eq!(value(text, "default", "region"), None);
        assert_eq!(value("[profile  web]\nregion=r", "profile web", "region").as_deref(), Some("r"));
    }
}
