//! The .proto files as gRPC reflection hands them out.

use std::io::{self, Read};

use flate2::read::DeflateDecoder;

/// A .proto file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// The path that others import it by.
    pub name: &'static str,
    /// Its descriptor, deflated: every VM of the filter holds these bytes, and few apps ask for them.
    deflated: &'static [u8],
}

impl File {
    /// A serialized `google.protobuf.FileDescriptorProto`, without comments. An error would be one of the build.
    pub fn descriptor(&self) -> io::Result<Vec<u8>> {
        let mut descriptor = Vec::new();
        DeflateDecoder::new(self.deflated).read_to_end(&mut descriptor)?;
        Ok(descriptor)
    }
}

mod table {
    #![allow(missing_docs, clippy::all, clippy::pedantic)] // generated

    use super::File;

    include!(concat!(env!("OUT_DIR"), "/files.rs"));

    pub(super) fn symbol(name: &str) -> Option<&'static File> {
        let index = SYMBOLS.binary_search_by(|(symbol, _)| (*symbol).cmp(name)).ok()?;
        FILES.get(SYMBOLS.get(index)?.1)
    }
}

/// The file of this name.
pub fn file(name: &str) -> Option<&'static File> {
    table::FILES.iter().find(|file| file.name == name)
}

/// The file that declares a service, message or enum, or what is part of one, by its full name.
pub fn file_of(symbol: &str) -> Option<&'static File> {
    let mut name = symbol;
    loop {
        if let Some(file) = table::symbol(name) {
            return Some(file);
        }
        (name, _) = name.rsplit_once('.')?;
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_symbol_leads_to_its_file() {
        let dapr = file("dapr/proto/runtime/v1/dapr.proto");
        assert!(dapr.is_some());
        assert_eq!(file_of("dapr.proto.runtime.v1.Dapr"), dapr);
        assert_eq!(file_of("dapr.proto.runtime.v1.Dapr.GetState"), dapr);
        assert!(file_of("google.protobuf.Any").is_some());
        assert_eq!(file_of("google.rpc.ErrorInfo"), file("google/rpc/error_details.proto"));
        assert_eq!(file_of("dapr.proto.runtime.v1"), None);
        assert_eq!(file_of(""), None);
    }

    #[test]
    fn every_descriptor_is_that_of_its_file() {
        for file in table::FILES {
            let descriptor = prost_types::FileDescriptorProto::decode(&*file.descriptor().unwrap()).unwrap();
            assert_eq!(descriptor.name(), file.name);
        }
    }
}
