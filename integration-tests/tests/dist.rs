//! What `make dist` builds, as those get it who install it: `make test-dist` runs this after it.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration_tests::installed;
use integration_tests::pages::{Reader, Way};
use ring::digest::{SHA256, digest};

/// From the first command to the first answer: an environment of Python, what pip fetches (36 MB of Envoy among it),
/// the app.
const FROM_NOTHING: Duration = Duration::from_mins(1);
/// From `envoy-runtime run` to the first answer.
const FROM_RUN: Duration = Duration::from_secs(3);

fn dist() -> PathBuf {
    let dist = installed::workspace().join("dist");
    assert!(dist.join("SHA256SUMS").exists(), "there is no dist/: run `make dist`");
    dist
}

/// The files of `dist/` that end so.
fn files(end: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(dist()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|file| file.to_str().unwrap().ends_with(end)).collect();
    files.sort();
    assert!(!files.is_empty(), "dist/ has no file that ends with {end}");
    files
}

fn sha256(file: &Path) -> String {
    digest(&SHA256, &fs::read(file).unwrap()).as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A reader who has a wheel and the Python of the system, and nothing that was built or fetched here.
fn somebody() -> Reader {
    let mut reader = Reader::new();
    symlink(dist(), reader.folder().join("dist")).unwrap();
    reader.set("PATH", "/usr/local/bin:/usr/bin:/bin");
    for name in ["ENVOY", "ENVOY_RUNTIME", "DAPR_GRPC_ENDPOINT", "DAPR_HTTP_ENDPOINT", "PYTHONPATH", "VIRTUAL_ENV"] {
        reader.unset(name);
    }
    reader
}

#[tokio::test]
async fn one_pip_install_is_all() {
    let mut reader = somebody();
    let start = Instant::now();
    let blocks = reader.follow(&installed::workspace().join("README.md"), Way::Wheel).await;
    let from_nothing = start.elapsed();
    assert!(blocks >= 4, "the README has {blocks} blocks for those who install the wheel");

    // Once more, for the time from `run` to the first answer alone.
    let run = format!("PATH=$PWD/tmp/orders/bin:$PATH; exec envoy-runtime run {} -- python app.py", reader.flags());
    let mut command = reader.shell(&run);
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let answer = lines.find(|line| line.as_ref().is_ok_and(|line| line == "b'42'"));
    let from_run = start.elapsed();
    assert!(answer.is_some() && child.wait().unwrap().success());

    println!("first answer {from_nothing:.1?} after the first command, {from_run:.1?} after `envoy-runtime run`");
    assert!(from_nothing < FROM_NOTHING, "the first answer came {from_nothing:?} after the first command");
    assert!(from_run < FROM_RUN, "the first answer came {from_run:?} after `envoy-runtime run`");

    // And the program says what it is.
    let told = output(
        &mut reader.shell("tmp/orders/bin/envoy-runtime --version && tmp/orders/bin/envoy-runtime extract modules"),
    );
    assert!(told.lines().any(|line| line.starts_with("commit ")), "{told}");
    for filter in ["runtime.wasm", "runtime-state.wasm", "tunnel.wasm"] {
        let hash = sha256(&reader.folder().join("modules").join(filter));
        let line = told
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{filter} sha256:")))
            .expect("a line for each filter");
        assert!(hash.starts_with(line), "{filter}: {hash}, and {told}");
    }
}

#[test]
fn the_checksums_are_right_and_of_every_file() {
    let sums = fs::read_to_string(dist().join("SHA256SUMS")).unwrap();
    let listed: Vec<(&str, &str)> = sums.lines().map(|line| line.split_once("  ").unwrap()).collect();
    assert_eq!(listed.len() + 1, fs::read_dir(dist()).unwrap().count(), "{sums}");
    for (sum, name) in listed {
        assert_eq!(sha256(&dist().join(name)), sum, "{name}");
    }
}

#[test]
fn a_tarball_has_all_that_is_needed_and_names_no_folder_of_the_machine() {
    let scratch = integration_tests::scratch::directory("tarball");
    for tarball in files(".tar.gz") {
        output(Command::new("tar").arg("-xf").arg(&tarball).current_dir(scratch.path()));
        let name = tarball.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.gz");
        let folder = scratch.path().join(name);
        for file in [
            "envoy-runtime",
            "envoy-runtime.1",
            "filters/runtime.wasm",
            "filters/runtime-state.wasm",
            "filters/tunnel.wasm",
            "completions/envoy-runtime.bash",
            "completions/envoy-runtime.fish",
            "completions/_envoy-runtime",
            "examples/in-memory.yaml",
            "sbom/envoy-runtime.cdx.json",
            "sbom/runtime-filter.cdx.json",
            "Containerfile",
            "LICENSE",
        ] {
            assert!(folder.join(file).is_file(), "{name} has no {file}");
        }
        no_path_of_this_machine(&folder);
        // For the processor that its name says.
        let mut head = [0; 20];
        fs::File::open(folder.join("envoy-runtime")).unwrap().read_exact(&mut head).unwrap();
        let machine = u16::from_le_bytes([head[18], head[19]]);
        assert_eq!(machine, if name.ends_with("aarch64") { 183 } else { 62 }, "{name}");
    }
}

fn no_path_of_this_machine(folder: &Path) {
    let home = std::env::var("HOME").unwrap();
    let workspace = installed::workspace().display().to_string();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            no_path_of_this_machine(&path);
            continue;
        }
        let content = fs::read(&path).unwrap();
        for folder in [&workspace, &home] {
            let needle = format!("{folder}/").into_bytes();
            assert!(!content.windows(needle.len()).any(|part| part == needle), "{} names {folder}", path.display());
        }
    }
}

#[test]
fn a_list_of_parts_names_what_the_program_and_the_filters_are_made_of() {
    for (list, part) in [
        ("envoy-runtime.cdx.json", "clap"),
        ("runtime-filter.cdx.json", "prost"),
        ("tunnel-filter.cdx.json", "dlmalloc"),
    ] {
        let text = fs::read_to_string(dist().join(list)).unwrap();
        let bom: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(bom["bomFormat"], "CycloneDX");
        let components = bom["components"].as_array().unwrap();
        let found = components.iter().find(|component| component["name"] == part);
        assert!(
            found.is_some_and(|found| found["version"].is_string() && found["licenses"].is_array()),
            "{list} has no {part}"
        );
    }
}
