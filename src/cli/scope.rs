//! Flags that say which part of storage a command is about.

use clap::Args;

use crate::compaction::Scope;
use crate::partition::PartitionId;

/// Which part of storage a command is about.
#[derive(Debug, Clone, Default, Args)]
pub struct ScopeArgs {
    /// Only this database
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,

    /// Only this measurement
    #[arg(long, value_name = "NAME")]
    pub measurement: Option<String>,

    /// Only this partition: database/measurement/YYYY/MM/DD/HH
    #[arg(long, value_name = "PATH", conflicts_with_all = ["database", "measurement"])]
    pub partition: Option<PartitionId>,
}

impl ScopeArgs {
    #[must_use]
    pub fn to_scope(&self) -> Scope {
        Scope {
            database: self.database.clone(),
            measurement: self.measurement.clone(),
            partition: self.partition.clone(),
            ..Scope::default()
        }
    }
}
