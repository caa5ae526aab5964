//! Random messages of every method, by the descriptors: a method or a field that is new takes part by itself.

use std::collections::HashMap;

use bytes::Bytes;
use envoy_runtime_proto as proto;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use super::ground::{Ground, MOST_BYTES};

/// Keys, names of locks and the like: few, so that clients meet.
pub(super) const KEYS: [&str; 12] =
    ["k0", "k1", "k2", "k3", "k4", "large", "ünïcödé", "a b", "a/b/c", "%s%n", "-", "k\u{0}\r\n"];
const ODD: [&str; 12] = ["", " ", "0", "-1", "*", "a||b", "||", "nowhere", "\u{feff}", "true", "1e999", "../.."];
const NUMBERS: [i64; 14] =
    [0, 1, -1, 2, 5, 60, 1000, 100_000, i32::MAX as i64, i32::MIN as i64, i64::MAX, i64::MIN, u32::MAX as i64, 1 << 53];
const METADATA: [(&str, &[&str]); 7] = [
    ("ttlInSeconds", &["1", "5", "60", "0", "-1", "x", "99999999999999999999", "2147483647"]),
    ("contentType", &["application/json", "text/plain"]),
    ("group", &["", "g", "a/b"]),
    ("label", &["", "l"]),
    ("partitionKey", &["p"]),
    ("version_id", &["1", "x"]),
    ("rawPayload", &["true", "no"]),
];

/// Makes messages.
pub(super) struct Messages {
    pool: DescriptorPool,
    stores: Vec<&'static str>,
}

impl Messages {
    pub(super) fn new() -> Self {
        let mut pool = DescriptorPool::new();
        for method in proto::METHODS {
            add(&mut pool, proto::file_of(method.service).expect("a service is in a file"));
        }
        Self { pool, stores: Ground::stores() }
    }

    /// A request of a method, encoded. As a rule it is small; it is never larger than what the runtime takes.
    pub(super) fn request(&self, method: &proto::Method, random: &mut StdRng) -> Vec<u8> {
        let service = self.pool.get_service_by_name(method.service).expect("a service of the table");
        let descriptor = service.methods().find(|known| known.name() == method.name).expect("a method of the table");
        let mut budget = match random.random_range(0..100) {
            0..80 => 1000,
            80..97 => 50_000,
            _ => MOST_BYTES,
        };
        self.message(&descriptor.input(), random, &mut budget, 0).encode_to_vec()
    }

    /// The same, small, and to the component `store`.
    pub(super) fn request_of(&self, method: &proto::Method, store: &'static str, random: &mut StdRng) -> Vec<u8> {
        let service = self.pool.get_service_by_name(method.service).expect("a service of the table");
        let descriptor = service.methods().find(|known| known.name() == method.name).expect("a method of the table");
        let one = Self { pool: self.pool.clone(), stores: vec![store] };
        one.message(&descriptor.input(), random, &mut 1000, 0).encode_to_vec()
    }

    fn message(&self, of: &MessageDescriptor, random: &mut StdRng, budget: &mut usize, depth: u32) -> DynamicMessage {
        let mut message = DynamicMessage::new(of.clone());
        // Most are as an app would send them; the others lack what they need, or have what they should not.
        let density = if depth == 0 && random.random_bool(0.05) { 0.3 } else { 0.9 };
        for field in of.fields() {
            if depth > 4 || !random.random_bool(density) {
                continue;
            }
            if let Some(value) = self.value(&field, random, budget, depth) {
                // It fails for a kind that a field has not, which `value` does not make.
                let _ = message.try_set_field(&field, value);
            }
        }
        message
    }

    fn value(&self, field: &FieldDescriptor, random: &mut StdRng, budget: &mut usize, depth: u32) -> Option<Value> {
        if field.is_map() {
            let (name, values) = METADATA.choose(random)?;
            let mut map = HashMap::new();
            if random.random_bool(0.4) {
                let entry = field.kind().as_message()?.map_entry_value_field();
                let value = match entry.kind() {
                    Kind::String => Value::String((*values.choose(random)?).to_owned()),
                    _ => self.one(&entry, random, budget, depth)?,
                };
                map.insert(MapKey::String((*name).to_owned()), value);
            }
            return Some(Value::Map(map));
        }
        if !field.is_list() {
            return self.one(field, random, budget, depth);
        }
        let count = match random.random_range(0..100) {
            0..5 => 0,
            5..90 => random.random_range(1..5),
            90..99 => random.random_range(5..100),
            _ => random.random_range(100..3000),
        };
        let mut list = Vec::new();
        for _ in 0..count {
            *budget = budget.saturating_sub(8);
            if *budget == 0 {
                break;
            }
            list.push(self.one(field, random, budget, depth)?);
        }
        Some(Value::List(list))
    }

    fn one(&self, field: &FieldDescriptor, random: &mut StdRng, budget: &mut usize, depth: u32) -> Option<Value> {
        let number = *NUMBERS.choose(random)?;
        let small = random.random_bool(0.7);
        let number = if small { random.random_range(0..10) } else { number };
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "any number will do"
        )]
        Some(match field.kind() {
            Kind::Double => Value::F64(number as f64),
            Kind::Float => Value::F32(number as f32),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(number as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(number),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(number as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(number as u64),
            Kind::Bool => Value::Bool(random.random()),
            Kind::String => {
                let text = self.text(field.name(), random);
                *budget = budget.saturating_sub(text.len());
                Value::String(text)
            }
            Kind::Bytes => Value::Bytes(bytes(random, budget)),
            Kind::Message(of) => Value::Message(self.message(&of, random, budget, depth + 1)),
            Kind::Enum(of) => {
                let known: Vec<_> = of.values().map(|value| value.number()).collect();
                Value::EnumNumber(if small { *known.choose(random)? } else { number as i32 })
            }
        })
    }

    /// A text that fits a field of this name, most of the time.
    fn text(&self, name: &str, random: &mut StdRng) -> String {
        if random.random_bool(0.06) {
            return ODD.choose(random).map(|odd| (*odd).to_owned()).unwrap_or_default();
        }
        let choices: &[&str] = match name {
            _ if name.ends_with("store_name") || name.ends_with("storeName") || name == "component_name" => {
                &self.stores
            }
            "key" | "keys" | "resource_id" => &KEYS,
            "lock_owner" | "owner" => &["me", "you"],
            "operationType" | "operation_type" => &["upsert", "delete", "upsert", "delete", "increment"],
            "value" | "etag" => &["", "1", "2", "0", "x", "18446744073709551615"],
            "group" | "label" | "app_id" | "appId" => &["", "", "", "g", "hostile"],
            "content" => &["", "text", "{\"a\":1}"],
            "service" => &["", "runtime", "grpc.health.v1.Health", "dapr.proto.runtime.v1.Dapr"],
            "file_by_filename" => &["dapr/proto/runtime/v1/dapr.proto", "google/protobuf/any.proto", "no.proto"],
            _ => &["", "text", "HOSTILE_SECRET", "dapr.proto.runtime.v1.Dapr", "id"],
        };
        choices.choose(random).map(|text| (*text).to_owned()).unwrap_or_default()
    }
}

fn bytes(random: &mut StdRng, budget: &mut usize) -> Bytes {
    let size = match random.random_range(0..20) {
        0 => 0,
        1..15 => random.random_range(0..100),
        15..18 => random.random_range(0..5000),
        // All that there may be.
        _ => usize::MAX,
    };
    let size = size.min(*budget);
    *budget -= size;
    let mut bytes = vec![b'x'; size];
    let noise = size.min(1000);
    random.fill_bytes(&mut bytes[..noise]);
    bytes.into()
}

/// Adds a file, after those that it imports.
fn add(pool: &mut DescriptorPool, file: &proto::File) {
    if pool.get_file_by_name(file.name).is_some() {
        return;
    }
    let descriptor = file.descriptor().expect("a descriptor can be inflated");
    let descriptor = prost_types::FileDescriptorProto::decode(&*descriptor).expect("a descriptor can be decoded");
    for imported in &descriptor.dependency {
        add(pool, proto::file(imported).expect("what is imported is there"));
    }
    pool.add_file_descriptor_proto(descriptor).expect("a file is right");
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_method_gets_messages_that_can_be_decoded_and_differ() {
        let messages = Messages::new();
        let mut random = StdRng::seed_from_u64(1);
        for method in proto::METHODS {
            let service = messages.pool.get_service_by_name(method.service).unwrap();
            let input = service.methods().find(|known| known.name() == method.name).unwrap().input();
            let requests: Vec<_> = (0..20).map(|_| messages.request(method, &mut random)).collect();
            for request in &requests {
                DynamicMessage::decode(input.clone(), request.as_slice()).unwrap();
                assert!(request.len() < 2 * MOST_BYTES, "{}", request.len());
            }
            let some = requests.iter().any(|request| !request.is_empty());
            assert!(some || input.fields().next().is_none(), "{method:?}");
        }
    }
}
