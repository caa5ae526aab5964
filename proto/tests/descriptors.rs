//! Our .proto files against the incumbents': whatever goes over the wire has the same name, number and type.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::error::Error;
use std::process::{Command, Stdio};

use envoy_runtime_proto::FILE_DESCRIPTOR_SET;
use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn ours() -> Result<DescriptorPool> {
    Ok(DescriptorPool::decode(FILE_DESCRIPTOR_SET)?)
}

// ---- Dapr: the Python SDK as the reference ----

/// Every name in the packages `dapr.proto.*` and what it stands for must be the same on both sides.
#[test]
fn the_dapr_api_is_that_of_the_python_sdk() -> Result<()> {
    let ours = facts(&ours()?);
    let theirs = facts(&sdk()?);
    assert!(theirs.len() > 1000, "the SDK has only {} names: is it complete?", theirs.len());

    let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let differences: Vec<_> = names
        .into_iter()
        .filter_map(|name| match (ours.get(name), theirs.get(name)) {
            (Some(ours), Some(theirs)) if ours == theirs => None,
            (Some(ours), Some(theirs)) => Some(format!("{name}: ours is\n    {ours}\n  the SDK's\n    {theirs}")),
            (Some(_), None) => Some(format!("{name}: not in the SDK")),
            (None, _) => Some(format!("{name}: missing in ours")),
        })
        .collect();
    assert!(differences.is_empty(), "{} differences:\n  {}", differences.len(), differences.join("\n  "));
    Ok(())
}

/// The descriptors that the Dapr SDK ships, as Python itself loads them.
fn sdk() -> Result<DescriptorPool> {
    let python = env::var_os("RUNTIME_TEST_PYTHON").ok_or(
        "RUNTIME_TEST_PYTHON is not set: run this test through `make test`, \
         which makes a Python environment with the Dapr SDK",
    )?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dump_descriptors.py");
    let output = Command::new(&python).arg(script).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{} {script}: {}", python.display(), output.status).into());
    }
    Ok(DescriptorPool::decode(output.stdout.as_slice())?)
}

/// All names of the Dapr packages, each with a line that says everything about it that others rely on.
fn facts(pool: &DescriptorPool) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    for message in pool.all_messages().filter(|message| message.package_name().starts_with("dapr.proto.")) {
        facts.insert(message.full_name().into(), "message".into());
        facts.extend(message.fields().map(|field| (field.full_name().into(), field_fact(&field))));
    }
    for one in pool.all_enums().filter(|one| one.package_name().starts_with("dapr.proto.")) {
        facts.insert(one.full_name().into(), "enum".into());
        let values = one.values();
        facts.extend(
            values.map(|value| (format!("{}.{}", one.full_name(), value.name()), format!("= {}", value.number()))),
        );
    }
    for service in pool.services().filter(|service| service.package_name().starts_with("dapr.proto.")) {
        facts.insert(service.full_name().into(), "service".into());
        facts.extend(service.methods().map(|method| (method.full_name().into(), method_fact(&method))));
    }
    facts
}

fn field_fact(field: &FieldDescriptor) -> String {
    format!(
        "{:?} {} = {}, JSON name {}, oneof {:?}, presence {}, packed {}",
        field.cardinality(),
        type_name(&field.kind()),
        field.number(),
        field.json_name(),
        field.containing_oneof().map(|oneof| oneof.name().to_owned()),
        field.supports_presence(),
        field.is_packed(),
    )
}

fn type_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.full_name().into(),
        Kind::Enum(one) => one.full_name().into(),
        scalar => format!("{scalar:?}"),
    }
}

fn method_fact(method: &MethodDescriptor) -> String {
    let stream = |is_stream| if is_stream { "stream " } else { "" };
    format!(
        "({}{}) returns ({}{})",
        stream(method.is_client_streaming()),
        method.input().full_name(),
        stream(method.is_server_streaming()),
        method.output().full_name()
    )
}

// ---- Layotto: no SDK that carries descriptors, so the facts stand here ----

const LAYOTTO: &str = "spec.proto.runtime.v1";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Streams {
    Neither,
    Client,
    Server,
    Both,
}

impl Streams {
    fn of(method: &MethodDescriptor) -> Self {
        match (method.is_client_streaming(), method.is_server_streaming()) {
            (false, false) => Self::Neither,
            (true, false) => Self::Client,
            (false, true) => Self::Server,
            (true, true) => Self::Both,
        }
    }
}

const LAYOTTO_METHODS: &[(&str, &str, Streams)] = &[
    ("AppCallback", "ListTopicSubscriptions", Streams::Neither),
    ("AppCallback", "OnTopicEvent", Streams::Neither),
    ("Lifecycle", "ApplyConfiguration", Streams::Neither),
    ("Runtime", "DelFile", Streams::Neither),
    ("Runtime", "DeleteBulkState", Streams::Neither),
    ("Runtime", "DeleteConfiguration", Streams::Neither),
    ("Runtime", "DeleteState", Streams::Neither),
    ("Runtime", "ExecuteStateTransaction", Streams::Neither),
    ("Runtime", "GetBulkSecret", Streams::Neither),
    ("Runtime", "GetBulkState", Streams::Neither),
    ("Runtime", "GetConfiguration", Streams::Neither),
    ("Runtime", "GetFile", Streams::Server),
    ("Runtime", "GetFileMeta", Streams::Neither),
    ("Runtime", "GetNextId", Streams::Neither),
    ("Runtime", "GetSecret", Streams::Neither),
    ("Runtime", "GetState", Streams::Neither),
    ("Runtime", "InvokeBinding", Streams::Neither),
    ("Runtime", "InvokeService", Streams::Neither),
    ("Runtime", "ListFile", Streams::Neither),
    ("Runtime", "LockKeepAlive", Streams::Neither),
    ("Runtime", "PublishEvent", Streams::Neither),
    ("Runtime", "PutFile", Streams::Client),
    ("Runtime", "SaveConfiguration", Streams::Neither),
    ("Runtime", "SaveState", Streams::Neither),
    ("Runtime", "SayHello", Streams::Neither),
    ("Runtime", "SubscribeConfiguration", Streams::Both),
    ("Runtime", "SubscribeTopicEvents", Streams::Both),
    ("Runtime", "TryLock", Streams::Neither),
    ("Runtime", "Unlock", Streams::Neither),
];

#[test]
fn the_layotto_api_has_its_methods() -> Result<()> {
    let pool = ours()?;
    let mut methods = Vec::new();
    for service in pool.services().filter(|service| service.package_name() == LAYOTTO) {
        methods.extend(service.methods().map(|method| {
            let names = (service.name().to_owned(), method.name().to_owned());
            (names.0, names.1, Streams::of(&method))
        }));
    }
    methods.sort();
    let expected: Vec<_> =
        LAYOTTO_METHODS.iter().map(|(service, name, streams)| ((*service).into(), (*name).into(), *streams)).collect();
    assert_eq!(methods, expected);
    Ok(())
}

/// Messages in which Layotto and Dapr differ, or which only Layotto has; for the rest see the next test.
const LAYOTTO_FIELDS: &[(&str, &str)] = &[
    ("ConfigurationItem", "key 1, content 2, group 3, label 4, tags 5, metadata 6"),
    ("GetConfigurationRequest", "store_name 1, app_id 2, group 3, label 4, keys 5, metadata 6, subscribe_update 7"),
    ("SubscribeConfigurationRequest", "store_name 1, app_id 2, group 3, label 4, keys 5, metadata 6"),
    ("SubscribeConfigurationResponse", "store_name 1, app_id 2, items 3"),
    ("SaveConfigurationRequest", "store_name 1, app_id 2, items 3, metadata 4"),
    ("DeleteConfigurationRequest", "store_name 1, app_id 2, group 3, label 4, keys 5, metadata 6"),
    (
        "TopicEventRequest",
        "id 1, source 2, type 3, spec_version 4, data_content_type 5, topic 6, data 7, pubsub_name 8, metadata 10",
    ),
    ("TopicSubscription", "pubsub_name 1, topic 2, metadata 3"),
    ("LockKeepAliveRequest", "store_name 1, resource_id 2, lock_owner 3, expire 4"),
    ("GetNextIdRequest", "store_name 1, key 2, options 3, metadata 4"),
    ("GetNextIdResponse", "next_id 1"),
    ("FileRequest", "store_name 1, name 2, metadata 3"),
    ("PutFileRequest", "store_name 1, name 2, data 3, metadata 4"),
    ("ListFileRequest", "request 1, page_size 2, marker 3"),
    ("ListFileResp", "files 1, marker 2, is_truncated 3"),
    ("FileInfo", "file_name 1, size 2, last_modified 3, metadata 4"),
    ("GetFileMetaResponse", "size 1, last_modified 2, response 3"),
    ("SayHelloRequest", "service_name 1, name 2, data 3"),
    ("SayHelloResponse", "hello 1, data 2"),
    ("ComponentConfig", "kind 1, name 2, metadata 3"),
];

#[test]
fn the_layotto_messages_have_their_fields() -> Result<()> {
    let pool = ours()?;
    for (name, expected) in LAYOTTO_FIELDS {
        let mut fields: Vec<_> = message(&pool, LAYOTTO, name)?.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        let fields: Vec<_> = fields.iter().map(|field| format!("{} {}", field.name(), field.number())).collect();
        assert_eq!(&fields.join(", "), expected, "{name}");
    }
    Ok(())
}

// ---- Both dialects: one decoder serves them ----

/// Dapr's name of a message, and Layotto's. The first ten are those of the state API.
const SAME_ON_THE_WIRE: &[(&str, &str)] = &[
    ("GetStateRequest", "GetStateRequest"),
    ("GetStateResponse", "GetStateResponse"),
    ("GetBulkStateRequest", "GetBulkStateRequest"),
    ("GetBulkStateResponse", "GetBulkStateResponse"),
    ("SaveStateRequest", "SaveStateRequest"),
    ("DeleteStateRequest", "DeleteStateRequest"),
    ("DeleteBulkStateRequest", "DeleteBulkStateRequest"),
    ("ExecuteStateTransactionRequest", "ExecuteStateTransactionRequest"),
    ("TransactionalStateOperation", "TransactionalStateOperation"),
    ("BulkStateItem", "BulkStateItem"),
    ("PublishEventRequest", "PublishEventRequest"),
    ("SubscribeTopicEventsRequestAlpha1", "SubscribeTopicEventsRequest"),
    ("TopicEventResponse", "TopicEventResponse"),
    ("TryLockRequest", "TryLockRequest"),
    ("TryLockResponse", "TryLockResponse"),
    ("UnlockRequest", "UnlockRequest"),
    ("UnlockResponse", "UnlockResponse"),
    ("InvokeServiceRequest", "InvokeServiceRequest"),
    ("InvokeBindingRequest", "InvokeBindingRequest"),
    ("InvokeBindingResponse", "InvokeBindingResponse"),
    ("GetSecretRequest", "GetSecretRequest"),
    ("GetSecretResponse", "GetSecretResponse"),
    ("GetBulkSecretRequest", "GetBulkSecretRequest"),
    ("GetBulkSecretResponse", "GetBulkSecretResponse"),
];

#[test]
fn what_the_dialects_share_is_the_same_on_the_wire() -> Result<()> {
    let pool = ours()?;
    for (dapr, layotto) in SAME_ON_THE_WIRE {
        let dapr = message(&pool, "dapr.proto.runtime.v1", dapr)?;
        let layotto = message(&pool, LAYOTTO, layotto)?;
        assert_eq!(message_shape(&dapr), message_shape(&layotto), "{}", layotto.full_name());
    }
    Ok(())
}

fn message(pool: &DescriptorPool, package: &str, name: &str) -> Result<MessageDescriptor> {
    let full_name = format!("{package}.{name}");
    pool.get_message_by_name(&full_name).ok_or_else(|| format!("there is no message {full_name}").into())
}

/// All that a decoder must know: numbers, labels and types, down to the leaves. Names are left out.
fn message_shape(message: &MessageDescriptor) -> String {
    if message.package_name().starts_with("google.") {
        return message.full_name().into();
    }
    let mut fields: Vec<_> = message.fields().collect();
    fields.sort_by_key(FieldDescriptor::number);
    let fields: Vec<_> = fields
        .iter()
        .map(|field| {
            let shape = match field.kind() {
                Kind::Message(message) => message_shape(&message),
                Kind::Enum(one) => enum_shape(&one),
                scalar => format!("{scalar:?}"),
            };
            format!("{}: {:?} {shape}", field.number(), field.cardinality())
        })
        .collect();
    format!("{{{}}}", fields.join(", "))
}

fn enum_shape(one: &EnumDescriptor) -> String {
    format!("enum {:?}", one.values().map(|value| value.number()).collect::<Vec<_>>())
}
