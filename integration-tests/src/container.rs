//! A server in a container: its image holds the same binary as the process backend runs and the libraries that it is
//! linked to, and nothing is pulled. The container has the network of the host and sees the directory for temporary
//! files, so ports and paths are the same as for a process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use testcontainers::core::Mount;
use testcontainers::runners::{AsyncBuilder, AsyncRunner};
use testcontainers::{ContainerAsync, GenericBuildableImage, GenericImage, ImageExt};
use tokio::sync::Mutex;

use crate::process::Guard;
use crate::scratch;
use crate::server::Program;

/// A running container.
#[derive(Debug)]
pub struct Container {
    container: ContainerAsync<GenericImage>,
    _guard: Guard,
}

impl Container {
    /// Starts a program in a container of its own.
    pub async fn start(program: &Program, environment: &[(String, String)]) -> Self {
        let shared = std::env::temp_dir().display().to_string();
        let owner = format!("{}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let command = std::iter::once(program.binary.display().to_string()).chain(program.arguments.iter().cloned());
        let mut image = image_of(&program.binary).await.with_cmd(command);
        for (name, value) in environment {
            image = image.with_env_var(name, value);
        }
        let container = image
            .with_network("host")
            .with_user(owner)
            .with_mount(Mount::bind_mount(&shared, &shared))
            .with_working_dir(program.scratch.display().to_string())
            .start()
            .await
            .expect("the Docker engine starts a container");
        let guard = Guard::new(
            r#"docker rm -f "$1" >/dev/null 2>&1; rm -rf -- "$2""#,
            [container.id().as_ref(), scratch::rubbish(&program.scratch)],
        );
        Self { container, _guard: guard }
    }

    /// Freezes it.
    pub async fn pause(&self) {
        self.container.pause().await.expect("the container can be paused");
    }

    /// Lets it go on.
    pub async fn resume(&self) {
        self.container.unpause().await.expect("the container goes on");
    }

    /// Kills and removes it.
    pub async fn kill(self) {
        self.container.rm().await.expect("the container can be removed");
    }

    /// Whether it has ended by itself.
    pub async fn has_ended(&self) -> bool {
        !self.container.is_running().await.expect("the Docker engine knows the container")
    }

    /// What it has written so far.
    pub async fn log(&self) -> String {
        let mut log = self.container.stdout_to_vec().await.unwrap_or_default();
        log.extend(self.container.stderr_to_vec().await.unwrap_or_default());
        String::from_utf8_lossy(&log).into_owned()
    }
}

/// What the rendered configuration lets Envoy trust.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The image with a binary, built at its first use.
async fn image_of(binary: &Path) -> GenericImage {
    static IMAGES: Mutex<BTreeMap<PathBuf, GenericImage>> = Mutex::const_new(BTreeMap::new());
    let mut images = IMAGES.lock().await;
    if let Some(image) = images.get(binary) {
        return image.clone();
    }
    let scratch = scratch::directory("image");
    let archive = scratch.path().join("files.tar");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--dereference", "--absolute-names", "--file"])
        .arg(&archive)
        .arg(binary)
        .args(libraries(binary))
        .args(Some(AUTHORITIES).filter(|file| Path::new(file).exists()));
    assert!(tar.status().expect("tar is installed").success(), "tar packs {}", binary.display());
    let name = binary.file_name().expect("a binary has a name").to_string_lossy().to_lowercase();
    // The version of an Envoy is the name of its directory: each has an image of its own.
    let tag = binary
        .parent()
        .and_then(Path::file_name)
        .map_or_else(|| "local".into(), |name| name.to_string_lossy().into_owned());
    let image = GenericBuildableImage::new(format!("envoy-runtime-test-{name}"), tag)
        .with_dockerfile_string("FROM scratch\nADD files.tar /\n")
        .with_file(&archive, "files.tar")
        .build_image()
        .await
        .expect("the Docker engine builds an image");
    images.insert(binary.to_path_buf(), image.clone());
    image
}

/// The shared libraries that a binary needs, with the loader.
fn libraries(binary: &Path) -> Vec<String> {
    let output = Command::new("ldd").arg(binary).output().expect("ldd is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}
