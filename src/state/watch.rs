//! What may stand between the users of the database and the database: the counterpart of a store around a store.

use std::fmt;

use async_trait::async_trait;

use super::StateError;

/// What a piece of work does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It changes nothing.
    Read,
    /// It may change something, in one transaction.
    Write,
}

/// Is told of every piece of work, and may hold it up or fail it.
#[async_trait]
pub trait Watch: Send + Sync + fmt::Debug {
    /// Right before a piece of work. An error replaces it: it is not done.
    async fn before(&self, access: Access) -> Result<(), StateError>;

    /// Right after it was done, well or badly. An error replaces its answer.
    async fn after(&self, access: Access) -> Result<(), StateError>;
}
