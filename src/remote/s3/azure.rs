//! Azure Blob Storage, by its REST API: a repository's objects are block blobs of a container.
//!
//! A create carries `If-None-Match: *`. Who was first is told by the mark in the blob, as everywhere.

use std::sync::Arc;

use hyper::Request;
use hyper::header::CONTENT_LENGTH;
use object_store::azure::{AzureAuthorizer, AzureConfigKey as Key, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::client::{HttpRequestBody, HttpService};
use object_store::list::{PaginatedListOptions, PaginatedListResult};
use object_store::path::Path;
use object_store::{GetOptions, GetResult, PutOptions, PutPayload, PutResult};

use crate::error::{Error, ErrorKind, Result};
use crate::remote::client::RemoteOptions;
use crate::remote::s3::address::StoreAddress;
use crate::remote::s3::api::StoreApi;
use crate::remote::s3::http::{HttpContext, Service};
use crate::remote::s3::{Connector, google, no_retries};

/// What the variables give. Of two that give the same, the later one counts.
const VARIABLES: [(&str, Key); 13] = [
    ("AZURE_STORAGE_KEY", Key::AccessKey),
    ("AZURE_STORAGE_ACCESS_KEY", Key::AccessKey),
    ("AZURE_STORAGE_ACCOUNT_KEY", Key::AccessKey),
    ("AZURE_STORAGE_SAS_KEY", Key::SasKey),
    ("AZURE_STORAGE_SAS_TOKEN", Key::SasKey),
    ("AZURE_TENANT_ID", Key::AuthorityId),
    ("AZURE_CLIENT_ID", Key::ClientId),
    ("AZURE_CLIENT_SECRET", Key::ClientSecret),
    ("AZURE_AUTHORITY_HOST", Key::AuthorityHost),
    ("AZURE_FEDERATED_TOKEN_FILE", Key::FederatedTokenFile),
    ("AZURE_MSI_ENDPOINT", Key::MsiEndpoint),
    ("AZURE_OBJECT_ID", Key::ObjectId),
    ("AZURE_MSI_RESOURCE_ID", Key::MsiResourceId),
];

/// A container.
struct AzureStore {
    blobs: MicrosoftAzure,
    account: String,
    /// Its address.
    container: String,
    service: Service,
}

/// What speaks to the container at `address`, which names its account. Credentials are those of the environment, or of the
/// machine.
pub(super) fn store(address: &StoreAddress, options: &RemoteOptions, shared: &Arc<HttpContext>) -> Result<Arc<dyn StoreApi>> {
    let account = address.account().unwrap_or_default().to_owned();
    let url = address.account_url();
    let mut builder = MicrosoftAzureBuilder::new()
        .with_retry(no_retries())
        .with_http_connector(Connector(shared.clone()))
        .with_account(&account)
        .with_endpoint(url.clone())
        .with_container_name(&address.bucket)
        .with_disable_tagging(true);
    for (name, key) in VARIABLES {
        if let Some(value) = options.s3.variables.get(name).filter(|value| !value.is_empty()) {
            builder = builder.with_config(key, value);
        }
    }
    let blobs = builder.build().map_err(|e| {
        let text = "the credentials for Azure's store cannot be used (AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN)";
        Error::new(ErrorKind::Key, format!("{text}: {}", google::cause(&e)))
    })?;
    let service = Service { shared: shared.clone(), connecting: shared.timeout / 2 };
    Ok(Arc::new(AzureStore { blobs, account, container: format!("{url}/{}", address.bucket), service }))
}

fn failed(e: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic { store: "Azure", source: Box::new(e) }
}

#[async_trait::async_trait]
impl StoreApi for AzureStore {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        StoreApi::put_opts(&self.blobs, key, payload, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        StoreApi::get_opts(&self.blobs, key, options).await
    }

    async fn list_paginated(&self, prefix: &str, options: PaginatedListOptions) -> object_store::Result<PaginatedListResult> {
        StoreApi::list_paginated(&self.blobs, prefix, options).await
    }

    /// One request for one blob. The library would send a batch of one, whose answer is a document with the answer in it.
    async fn delete(&self, key: &Path) -> object_store::Result<()> {
        let request = Request::delete(format!("{}/{key}", self.container)).header(CONTENT_LENGTH, 0);
        let mut request = request.body(HttpRequestBody::empty()).map_err(failed)?;
        let credential = self.blobs.credentials().get_credential().await?;
        AzureAuthorizer::new(&credential, &self.account).try_authorize(&mut request)?;
        let answer = self.service.call(request).await.map_err(failed)?;
        answer.into_body().bytes().await.map(drop).map_err(failed)
    }
}
