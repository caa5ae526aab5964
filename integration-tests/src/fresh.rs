//! Refuses to test what was built from other sources than those that are there: such a test says nothing.
//!
//! Beside a program cargo writes what it was made of (`envoy-runtime.d`), and `tools/filters.sh` does so for the
//! filters in it. By these files cargo itself decides what to build anew, so what they let pass is what cargo would
//! leave as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Set to test what is old all the same.
pub const SWITCH: &str = "RUNTIME_TEST_STALE";

/// Panics if `program`, or a filter in it, is older than a file that it was made of.
pub fn insist(program: &Path) {
    if std::env::var_os(SWITCH).is_some_and(|value| value == "1") {
        return;
    }
    if let Some((old, source)) = outdated(program) {
        panic!(
            "{} is older than {}, of which it is made: run `make quick` (an edit and its test) or `make program`, or set {SWITCH}=1 to \
             test it as it is",
            old.display(),
            source.display()
        );
    }
}

/// What is older than what it was made of, and that.
fn outdated(program: &Path) -> Option<(PathBuf, PathBuf)> {
    let parts = made_of(&if is_filter(program) { beside(program) } else { program.with_extension("d") });
    let filters = parts.iter().filter(|part| is_filter(part));
    let filters = filters.map(|filter| (filter.clone(), made_of(&beside(filter))));
    // The filters first: to build them anew is what makes the program older in turn.
    let all = filters.chain([(program.to_owned(), parts.clone())]);
    all.into_iter().find_map(|(built, sources)| {
        let time = modified(&built)?;
        let newer = sources.into_iter().find(|source| modified(source).is_some_and(|changed| changed > time))?;
        Some((built, newer))
    })
}

/// The prerequisites in a file of cargo's for make: `TARGET: FILE FILE ...`, with blanks in names after a backslash; of
/// a folder the files in it. None where there is no such list: what was built elsewhere cannot be compared.
fn made_of(list: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(list).unwrap_or_default();
    let files = text.lines().filter_map(|line| line.split_once(": ")).flat_map(|(_, files)| {
        let marked = files.replace("\\ ", "\0");
        marked.split_whitespace().map(|file| PathBuf::from(file.replace('\0', " "))).collect::<Vec<_>>()
    });
    files.flat_map(files_in).collect()
}

fn files_in(path: PathBuf) -> Vec<PathBuf> {
    match fs::read_dir(&path) {
        Ok(entries) => entries.filter_map(Result::ok).flat_map(|entry| files_in(entry.path())).collect(),
        Err(_) => vec![path],
    }
}

fn is_filter(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wasm")
}

fn beside(filter: &Path) -> PathBuf {
    let mut name = filter.as_os_str().to_owned();
    name.push(".d");
    name.into()
}

/// When a file was changed; what is gone has no time.
fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).ok()?.modified().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use super::{insist, outdated};
    use crate::scratch;

    /// A file that was changed so many seconds after the first.
    fn file(path: &Path, content: &str, at: u64) {
        fs::write(path, content).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + at);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn what_is_newer_than_its_sources_passes_and_what_is_older_is_named() {
        let folder = scratch::directory("fresh");
        let at = |name: &str| folder.path().join(name);
        let names = |names: &[&str]| names.iter().map(|name| at(name).display().to_string()).collect::<Vec<_>>();
        file(&at("main rs"), "", 1);
        file(&at("driver.rs"), "", 1);
        fs::create_dir(at("filters")).unwrap();
        file(&at("filters/runtime.wasm"), "", 2);
        let [program, source, filters] = &names(&["program", "main rs", "filters"])[..] else { unreachable!() };
        file(&at("program.d"), &format!("{program}: {} {filters}\n", source.replace(' ', "\\ ")), 3);
        file(&at("filters/runtime.wasm.d"), &format!("runtime.wasm: {}\n", at("driver.rs").display()), 2);
        file(&at("program"), "", 3);
        assert_eq!(outdated(&at("program")), None);
        insist(&at("program"));

        file(&at("driver.rs"), "", 4);
        assert_eq!(outdated(&at("program")), Some((at("filters/runtime.wasm"), at("driver.rs"))));
        assert_eq!(outdated(&at("filters/runtime.wasm")), Some((at("filters/runtime.wasm"), at("driver.rs"))));
        file(&at("filters/runtime.wasm"), "", 5);
        assert_eq!(outdated(&at("program")), Some((at("program"), at("filters/runtime.wasm"))));
        file(&at("program"), "", 6);
        assert_eq!(outdated(&at("program")), None);
        file(&at("main rs"), "", 7);
        assert_eq!(outdated(&at("program")), Some((at("program"), at("main rs"))));

        let told = std::panic::catch_unwind(|| insist(&at("program"))).unwrap_err();
        let told = told.downcast_ref::<String>().unwrap();
        assert!(told.contains("is older than") && told.contains("make quick"), "{told}");
        fs::remove_file(at("program.d")).unwrap();
        assert_eq!(outdated(&at("program")), None, "nothing is known of what was built elsewhere");
    }
}
