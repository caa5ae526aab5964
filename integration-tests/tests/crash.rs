//! A filter that crashes: that the tests which look for one would see it.

use std::path::Path;

use integration_tests::{Config, Envoy, http1, ports};
use serde_json::{Value, json};

/// The type of all parameters and results.
const I32: u8 = 0x7f;

/// A filter that traps at each request, assembled by hand:
///
/// ```wat
/// (module
///   (memory (export "memory") 1)
///   (func (export "proxy_abi_version_0_2_1"))
///   (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 0))
///   (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) unreachable))
/// ```
fn module() -> Vec<u8> {
    let section = |id: u8, content: &[u8]| [&[id, u8::try_from(content.len()).unwrap()], content].concat();
    let export = |name: &str, kind: u8, index: u8| {
        [&[u8::try_from(name.len()).unwrap()], name.as_bytes(), &[kind, index]].concat()
    };
    let exports = [
        vec![4],
        export("memory", 2, 0),
        export("proxy_abi_version_0_2_1", 0, 0),
        export("proxy_on_memory_allocate", 0, 1),
        export("proxy_on_request_headers", 0, 2),
    ];
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[3, 0x60, 0, 0, 0x60, 1, I32, 1, I32, 0x60, 3, I32, I32, I32, 1, I32]), // the types of the functions
        section(3, &[3, 0, 1, 2]),
        section(5, &[1, 0, 1]), // a page of memory
        section(7, &exports.concat()),
        section(10, &[3, 2, 0, 0x0b, 4, 0, 0x41, 0, 0x0b, 3, 0, 0x00, 0x0b]), // (), i32.const 0, unreachable
    ]
    .concat()
}

/// A further listener with that filter.
fn add_filter_that_traps(bootstrap: &mut Value, directory: &Path, port: u16) {
    let path = directory.join("trap.wasm");
    std::fs::write(&path, module()).unwrap();
    let filter = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "name": "trap",
            "failure_policy": "FAIL_RELOAD",
            "vm_config": {
                "vm_id": "trap",
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": path}},
            },
        },
    });
    let router = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "trap",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "direct_response": {"status": 200}},
        ]}]},
        "http_filters": [
            {"name": "trap", "typed_config": filter},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    });
    let listener = json!({
        "name": "trap",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
        ]}],
    });
    bootstrap["static_resources"]["listeners"].as_array_mut().unwrap().push(listener);
}

#[tokio::test]
async fn a_filter_that_traps_is_found_out() {
    let port = ports::free_port();
    let config = Config::new("orders");
    let config = config.change_bootstrap(move |bootstrap, scratch| add_filter_that_traps(bootstrap, scratch, port));
    let envoy = Envoy::start(config).await;
    assert_eq!(envoy.crashes().await, [""; 0]);
    let (status, _) = http1::get(port, "/").await.unwrap();
    assert_eq!(status, 503);
    let crashes = envoy.crashes().await;
    assert!(crashes.iter().any(|sign| sign.contains("Function: proxy_on_request_headers")), "in the log: {crashes:#?}");
    // The next request finds the VM broken, and has it made anew.
    let _ = http1::get(port, "/").await.unwrap();
    let crashes = envoy.crashes().await;
    assert!(crashes.iter().any(|sign| sign.starts_with("wasm.trap.vm_reload")), "counted: {crashes:#?}");
}
