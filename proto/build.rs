//! Compiles the .proto files beside it: to messages, services (feature `clients`), a table of all methods, descriptors.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::DeflateEncoder;
use prost::Message as _;
use prost_types::FileDescriptorSet;

/// The roots; what they import comes along.
const FILES: &[&str] = &[
    "dapr/proto/runtime/v1/appcallback.proto",
    "dapr/proto/runtime/v1/dapr.proto",
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
    "grpc/reflection/v1alpha/reflection.proto",
    "spec/proto/runtime/v1/appcallback.proto",
    "spec/proto/runtime/v1/lifecycle.proto",
    "spec/proto/runtime/v1/runtime.proto",
];

/// What reflection hands out besides: messages within `Any`, which no file imports. There is no code of them here.
const SHOWN: &[&str] = &["google/rpc/error_details.proto"];

/// APIs that the runtime calls: messages alone. They are not part of the API that it serves, so not in its table of
/// methods and not in its descriptors.
const CALLED: &[&str] = &["etcd/rpc.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let source = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for directory in ["build.rs", "dapr", "etcd", "google", "grpc", "spec"] {
        println!("cargo:rerun-if-changed={directory}");
    }

    let descriptors = protox::compile(FILES, [&source])?;
    fs::write(out.join("methods.rs"), method_table(&descriptors)?)?;
    let bare = without_comments(&protox::compile([FILES, SHOWN].concat(), [&source])?);
    fs::write(out.join("descriptors.bin"), bare.encode_to_vec())?;
    fs::write(out.join("files.rs"), file_table(&bare, &out)?)?;
    generate(descriptors, &out)?;
    generate(protox::compile(CALLED, [&source])?, &out)
}

fn generate(descriptors: FileDescriptorSet, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut config = prost_build::Config::new();
    config.out_dir(out).bytes(["."]).btree_map(["."]);
    // The transport is the caller's choice: DaprClient::new takes any.
    #[cfg(feature = "clients")]
    config.service_generator(tonic_prost_build::configure().build_transport(false).service_generator());
    Ok(config.compile_fds(descriptors)?)
}

fn without_comments(descriptors: &FileDescriptorSet) -> FileDescriptorSet {
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    bare
}

/// Rust source of a sorted array of `Method`.
fn method_table(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut methods = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                methods.push((
                    format!("{}.{}", file.package(), service.name()),
                    method.name(),
                    method.client_streaming(),
                    method.server_streaming(),
                ));
            }
        }
    }
    methods.sort();

    let mut table = String::from("&[\n");
    for (service, name, client_streaming, server_streaming) in methods {
        writeln!(
            table,
            "    Method {{ service: {service:?}, name: {name:?}, \
             client_streaming: {client_streaming}, server_streaming: {server_streaming} }},"
        )?;
    }
    table.push(']');
    Ok(table)
}

/// Rust source of an array of `File`, and of the sorted names of what they declare at their top levels.
fn file_table(descriptors: &FileDescriptorSet, out: &Path) -> Result<String, Box<dyn Error>> {
    let mut files = String::from("pub(super) static FILES: &[File] = &[\n");
    let mut symbols = Vec::new();
    for (index, file) in descriptors.file.iter().enumerate() {
        let mut deflated = DeflateEncoder::new(Vec::new(), Compression::best());
        deflated.write_all(&file.encode_to_vec())?;
        fs::write(out.join(format!("file{index}.bin")), deflated.finish()?)?;
        let deflated = format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/file{index}.bin\"))");
        writeln!(files, "    File {{ name: {:?}, deflated: {deflated} }},", file.name())?;
        let names = file.message_type.iter().map(prost_types::DescriptorProto::name);
        let names = names.chain(file.enum_type.iter().map(prost_types::EnumDescriptorProto::name));
        let names = names.chain(file.service.iter().map(prost_types::ServiceDescriptorProto::name));
        symbols.extend(names.map(|name| (format!("{}.{name}", file.package()), index)));
    }
    symbols.sort();
    writeln!(files, "];\n\nstatic SYMBOLS: &[(&str, usize)] = &{symbols:?};")?;
    Ok(files)
}
