//! What is asked of a store, whatever that speaks.

use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::path::Path;
use object_store::{GetOptions, GetResult, ObjectStore, ObjectStoreExt, PutOptions, PutPayload, PutResult, Result};

/// A store, spoken to by the library. Nothing is repeated.
#[async_trait::async_trait]
pub(super) trait StoreApi: Send + Sync {
    /// Sends an object.
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult>;

    /// Asks for an object, a part of it, or what is known of it.
    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult>;

    /// Asks for a page of a list.
    async fn list_paginated(&self, prefix: &str, options: PaginatedListOptions) -> Result<PaginatedListResult>;

    /// Deletes an object.
    async fn delete(&self, key: &Path) -> Result<()>;
}

#[async_trait::async_trait]
impl<T: ObjectStore + PaginatedListStore> StoreApi for T {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        ObjectStore::put_opts(self, key, payload, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        ObjectStore::get_opts(self, key, options).await
    }

    async fn list_paginated(&self, prefix: &str, options: PaginatedListOptions) -> Result<PaginatedListResult> {
        PaginatedListStore::list_paginated(self, Some(prefix), options).await
    }

    async fn delete(&self, key: &Path) -> Result<()> {
        ObjectStoreExt::delete(self, key).await
    }
}
