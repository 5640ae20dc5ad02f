//! `arc token create`, `arc token list` and `arc token revoke`: they work on the state database, also while a server runs.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::globals::GlobalArgs;
use crate::auth::{Role, Tokens};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::state::StateDb;

/// `arc token …`
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it, this once
    Create {
        /// Who it is for: letters, digits, dots, dashes, underscores
        #[arg(long)]
        name: String,
        /// What it may do: look (GET only), or everything
        #[arg(long, value_enum, default_value_t = RoleArg::Read)]
        role: RoleArg,
    },
    /// List the tokens, without their texts, which nobody knows
    List,
    /// Take a token's rights away, at once, also from a server that runs
    Revoke {
        /// The name of the token
        name: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleArg {
    Read,
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Read => Self::Read,
            RoleArg::Admin => Self::Admin,
        }
    }
}

/// Runs the command.
pub async fn run(args: &TokenArgs, globals: &GlobalArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let tokens = Tokens::new(StateDb::open(&config.state.db_path)?, None);
    match &args.command {
        TokenCommand::Create { name, role } => create(&tokens, name, (*role).into(), globals).await?,
        TokenCommand::List => list(&tokens, globals).await?,
        TokenCommand::Revoke { name } => {
            tokens.revoke(name).await?;
            let mut out = io::stdout();
            if globals.json {
                writeln!(out, "{:#}", json!({ "revoked": name }))?;
            } else {
                writeln!(out, "revoked {name}")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The token alone on standard output, so that a script can take it from there.
async fn create(tokens: &Tokens, name: &str, role: Role, globals: &GlobalArgs) -> anyhow::Result<()> {
    let new = tokens.create(name, role, SystemClock.now()).await?;
    let mut out = io::stdout();
    if globals.json {
        let token = new.token.reveal();
        let created_at = new.created_at;
        writeln!(out, "{:#}", json!({ "name": name, "role": role, "token": token, "created_at": created_at }))?;
    } else {
        writeln!(out, "{}", new.token.reveal())?;
        writeln!(io::stderr(), "the token {name} ({role}) is shown this once, keep it safe")?;
    }
    Ok(())
}

async fn list(tokens: &Tokens, globals: &GlobalArgs) -> anyhow::Result<()> {
    let tokens = tokens.list().await?;
    let mut out = io::stdout().lock();
    if globals.json {
        writeln!(out, "{:#}", json!({ "tokens": tokens }))?;
        return Ok(());
    }
    if tokens.is_empty() {
        writeln!(out, "there are no tokens: `arc token create --name N` makes one")?;
    }
    let width = tokens.iter().map(|token| token.name.len()).max().unwrap_or(0);
    for token in tokens {
        writeln!(out, "{:width$}  {:5}  {}", token.name, token.role.as_str(), token.created_at)?;
    }
    Ok(())
}
