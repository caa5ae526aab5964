//! Failures and the statuses that tell an app of them, one module per building block: the only place that knows gRPC
//! codes and the texts of the incumbents, which apps and their tests compare.

mod configuration;
mod lock;
mod secrets;
mod sequencer;
mod state;

use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::pb;

pub(super) use configuration::ConfigurationFailure;
pub(super) use lock::LockFailure;
pub(super) use secrets::{SecretTexts, SecretsFailure};
pub(super) use sequencer::SequencerFailure;
pub(super) use state::StateFailure;

use super::dialect::Dialect;
use crate::component::Block;

/// Puts texts into the places of a template that are named in braces. It is walked once: what is put in is not looked
/// into.
fn fill(template: &str, texts: &[(&str, &str)]) -> String {
    let mut pieces = template.split('{');
    let mut filled = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (place, rest) = piece.split_once('}').unwrap_or((piece, ""));
        filled.push_str(texts.iter().find(|(name, _)| *name == place).map_or("", |(_, text)| text));
        filled.push_str(rest);
    }
    filled
}

/// What is said when no component of a block is configured at all; `store` is the one that was asked for.
pub(super) fn not_configured(dialect: &Dialect, block: Block, store: &str) -> Status {
    match block {
        Block::State => StateFailure::NotConfigured(store).status(dialect),
        Block::Configuration => ConfigurationFailure::NotConfigured(store).status(dialect),
        Block::Lock => LockFailure::NotConfigured(store).status(dialect),
        Block::Sequencer => SequencerFailure::NotConfigured.status(),
        Block::Secrets => SecretsFailure::NotConfigured.status(dialect),
    }
}

/// A status with details, where the dialect has them: `grpc-status-details-bin` then carries a google.rpc.Status with
/// ErrorInfo and ResourceInfo.
fn with_details(
    dialect: &Dialect,
    code: Code,
    text: String,
    reason: &str,
    (block, component): (Block, &str),
) -> Status {
    let Some(domain) = dialect.error_domain else { return Status::new(code, text) };
    let any = |name: &str, message: Vec<u8>| Any {
        type_url: format!("type.googleapis.com/google.rpc.{name}"),
        value: message,
    };
    let info = pb::ErrorInfo { reason: reason.to_owned(), domain: domain.to_owned(), ..Default::default() };
    let resource = pb::ResourceInfo {
        resource_type: block.name().to_owned(),
        resource_name: component.to_owned(),
        ..Default::default()
    };
    let details = vec![any("ErrorInfo", info.encode_to_vec()), any("ResourceInfo", resource.encode_to_vec())];
    let details = pb::Status { code: code.into(), message: text.clone(), details }.encode_to_vec();
    Status::with_details(code, text, details.into())
}
