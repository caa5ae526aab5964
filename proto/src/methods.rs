//! What can be called: a table of the methods of all services, made from the descriptors.

/// A method of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// The full name of the service, such as `dapr.proto.runtime.v1.Dapr`.
    pub service: &'static str,
    /// The name of the method within its service, such as `GetState`.
    pub name: &'static str,
    /// Whether the client may send any number of messages.
    pub client_streaming: bool,
    /// Whether the server may send any number of messages.
    pub server_streaming: bool,
}

/// The methods of all services, sorted by service and name.
pub const METHODS: &[Method] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// The method that a request path `/service/name` means.
pub fn method(service: &str, name: &str) -> Option<&'static Method> {
    let index = METHODS.binary_search_by(|method| (method.service, method.name).cmp(&(service, name))).ok()?;
    METHODS.get(index)
}

/// Whether any method belongs to a service of that full name.
pub fn is_service(service: &str) -> bool {
    METHODS.binary_search_by(|method| method.service.cmp(service)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_name() {
        assert!(METHODS.is_sorted_by(|a, b| (a.service, a.name) < (b.service, b.name)));
        for expected in METHODS {
            assert_eq!(method(expected.service, expected.name), Some(expected));
            assert!(is_service(expected.service));
        }
    }

    #[test]
    fn nothing_else_is_found() {
        assert_eq!(method("dapr.proto.runtime.v1.Dapr", "getState"), None);
        assert_eq!(method("dapr.proto.runtime.v1.Dapr", ""), None);
        assert_eq!(method("", "GetState"), None);
        assert!(!is_service("dapr.proto.runtime.v1"));
        assert!(!is_service("grpc.health.v1.Healthy"));
    }

    #[test]
    fn the_table_tells_how_a_method_streams() {
        let kind =
            |service, name| method(service, name).map(|method| (method.client_streaming, method.server_streaming));
        assert_eq!(kind("spec.proto.runtime.v1.Runtime", "GetState"), Some((false, false)));
        assert_eq!(kind("spec.proto.runtime.v1.Runtime", "PutFile"), Some((true, false)));
        assert_eq!(kind("grpc.health.v1.Health", "Watch"), Some((false, true)));
        assert_eq!(kind("dapr.proto.runtime.v1.Dapr", "EncryptAlpha1"), Some((true, true)));
    }
}
