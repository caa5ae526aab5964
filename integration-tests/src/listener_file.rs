//! A listener that Envoy takes from a file and replaces while it runs.

use std::path::Path;

use serde_json::{Value, json};

use crate::envoy::Envoy;
use crate::wait;

const FILE: &str = "listeners.json";

/// Moves the gRPC listener of Dapr into a file that Envoy watches, and leaves the rest as it was rendered.
pub fn serve_listener_from_a_file(bootstrap: &mut Value, directory: &Path) {
    let listeners = bootstrap["static_resources"]["listeners"].as_array_mut().expect("the bootstrap has listeners");
    let index = listeners.iter().position(|listener| listener["name"] == "dapr_grpc").expect("there is dapr_grpc");
    let listener = listeners.remove(index);
    write_listener(directory, listener, 0);
    bootstrap["node"]["id"] = json!("test");
    bootstrap["node"]["cluster"] = json!("test");
    bootstrap["dynamic_resources"]["lds_config"] = json!({
        "resource_api_version": "V3",
        "path_config_source": {
            "path": directory.join(FILE),
            "watched_directory": {"path": directory},
        },
    });
}

/// Writes a version of the listener. Envoy sees that it differs, drains the old one with its filters and starts a new
/// one.
fn write_listener(directory: &Path, mut listener: Value, version: u32) {
    listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
    listener["metadata"] = json!({"filter_metadata": {"test": {"version": version}}});
    let text = json!({"version_info": version.to_string(), "resources": [listener]}).to_string();
    let scratch = directory.join(format!("listeners-{version}.json"));
    std::fs::write(&scratch, text).unwrap();
    std::fs::rename(scratch, directory.join(FILE)).unwrap();
}

impl Envoy {
    /// The listener that is in the file. Envoy may open it a moment after the others: this waits until then.
    pub async fn listener_of_the_file(&self) -> Value {
        wait::eventually("the listener of the file is there", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", self.dapr_grpc)).await
        })
        .await;
        let text = std::fs::read_to_string(self.scratch().join(FILE)).unwrap();
        let mut file: Value = serde_json::from_str(&text).unwrap();
        file["resources"][0].take()
    }

    /// Replaces the listener in the file, and waits until Envoy has taken it.
    pub async fn replace_listener_of_the_file(&self, listener: Value, version: u32) {
        write_listener(self.scratch(), listener, version);
        wait::eventually("Envoy has taken the version", async || {
            let dump = self.config_dump().await.to_string();
            if dump.contains(&format!("\"version_info\":\"{version}\"")) { Ok(()) } else { Err("not yet") }
        })
        .await;
    }

    /// Waits until the listeners that were replaced are gone.
    pub async fn old_listeners_are_gone(&self) {
        wait::eventually("the old listeners are gone", async || {
            let stats = self.stats().await;
            let draining = ["total_filter_chains_draining", "total_listeners_draining"]
                .map(|gauge| stats.get(&format!("listener_manager.{gauge}")).copied().unwrap_or(0));
            if draining == [0, 0] { Ok(()) } else { Err(draining) }
        })
        .await;
    }
}
