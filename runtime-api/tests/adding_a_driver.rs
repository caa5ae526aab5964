//! `docs/adding-a-driver.md` names every file that a driver touches: those that speak of its example, `state.memcached`.

#![allow(clippy::unwrap_used)] // a test ends by a panic

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a build, an editor or a tool leaves behind, and what is written from the sources.
const NOT_SOURCES: &[&str] = &["target", "dist", "node_modules"];
const PAGE: &str = "docs/adding-a-driver.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files below a folder that have a word, by their paths from the root.
fn with_word(word: &str, folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let (name, kind) = (entry.file_name().into_string().unwrap(), entry.file_type().unwrap());
        let path = folder.join(&name);
        if name.starts_with('.') || NOT_SOURCES.contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() {
            with_word(word, &path, found);
        } else if kind.is_file()
            && fs::read_to_string(entry.path()).is_ok_and(|text| text.to_lowercase().contains(word))
        {
            found.insert(path.to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn the_page_names_all_that_changes() {
    let page = fs::read_to_string(root().join(PAGE)).unwrap();
    let (beginning, _) = page.split_once("Everything else follows from the row").unwrap();
    let mut named: BTreeSet<String> =
        beginning.split('`').skip(1).step_by(2).filter(|code| root().join(code).is_file()).map(str::to_owned).collect();
    named.extend([PAGE, "runtime-api/tests/adding_a_driver.rs"].map(str::to_owned));
    let mut found = BTreeSet::new();
    with_word("memcached", Path::new(""), &mut found);
    let unnamed: Vec<_> = found.difference(&named).collect();
    let idle: Vec<_> = named.difference(&found).collect();
    assert!(unnamed.is_empty(), "these speak of memcached, and {PAGE} does not name them: {unnamed:?}");
    assert!(idle.is_empty(), "{PAGE} names these, and they do not speak of memcached: {idle:?}");
}
