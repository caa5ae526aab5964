//! The documentation: what its quick starts say is done, block by block, and its links lead somewhere.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use integration_tests::installed;
use integration_tests::pages::{self, Reader, Way};
use integration_tests::redis::{Options, Redis};

/// A folder that looks like the root of the repository after `make basics build`: the same files, but the CLI that is
/// tested, ports of its own and another Redis than that on port 6379.
fn in_the_repository(redis: &Redis) -> Reader {
    let root = installed::workspace();
    let mut reader = Reader::new();
    let (folder, flags) = (reader.folder().to_owned(), reader.flags());
    let at = |name: &str| folder.join(name);
    symlink(root.join("proto"), at("proto")).unwrap();
    copy(&root.join("envoy-configs"), &at("envoy-configs"), redis);
    // What is fetched: each is where the environment says.
    fs::create_dir_all(at(".tools/envoy/1.40.0")).unwrap();
    symlink(installed::envoy(), at(".tools/envoy/1.40.0/envoy")).unwrap();
    let python = installed::python();
    symlink(python.ancestors().nth(2).expect("python is in a bin of an environment"), at(".tools/python")).unwrap();
    // The commands that bind ports get those of this reader; a flag overrides what a file says.
    let program = installed::envoy_runtime();
    let program = program.display();
    let script = format!(
        "#!/bin/sh\nword=$1\ncase $word in run|render) shift; exec \"{program}\" $word {flags} \"$@\" ;; esac\nexec \"{program}\" \"$@\"\n"
    );
    fs::create_dir_all(at("target/release")).unwrap();
    fs::write(at("target/release/envoy-runtime"), script).unwrap();
    fs::set_permissions(at("target/release/envoy-runtime"), PermissionsExt::from_mode(0o755)).unwrap();
    // The words of `make` are the repository's own, without what installs and builds: the tests have that behind them.
    let done = ["basics", "toolchain", "tools", "needed", "program", "filters", "build", "dist"]
        .map(|word| format!("-o {word}"));
    let forward = format!("%:\n\t@$(MAKE) --no-print-directory -C {} {} $@\n", root.display(), done.join(" "));
    fs::write(at("Makefile"), forward).unwrap();
    reader.set("ARGS", flags);
    reader.set("ENVOY", installed::envoy().display().to_string());
    reader.set("ENVOY_RUNTIME", program.to_string());
    reader
}

fn copy(from: &Path, to: &Path, redis: &Redis) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &name, redis);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            fs::write(name, text.replace("localhost:6379", &redis.address())).unwrap();
        }
    }
}

async fn follow(page: &str, blocks: usize) {
    let redis = Redis::start(Options::default()).await;
    let mut reader = in_the_repository(&redis);
    let done = reader.follow(&installed::workspace().join(page), Way::Source).await;
    assert!(
        done >= blocks,
        "{page} has {done} blocks with a word of integration-tests/src/pages.rs behind their language"
    );
}

#[tokio::test]
async fn the_readme() {
    follow("README.md", 5).await;
}

#[tokio::test]
async fn the_quick_start_for_dapr_users() {
    follow("docs/quick-start-dapr.md", 4).await;
}

#[tokio::test]
async fn the_quick_start_for_layotto_users() {
    follow("docs/quick-start-layotto.md", 6).await;
}

#[tokio::test]
async fn the_quick_start_for_those_who_run_envoy() {
    follow("docs/quick-start-envoy.md", 2).await;
}

/// Why a link leads nowhere.
fn broken(page: &Path, link: &str) -> Option<String> {
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() { page.to_owned() } else { page.parent().unwrap().join(file) };
    if !target.exists() {
        return Some("there is no such file".to_owned());
    }
    if anchor.is_empty() || target.extension().is_none_or(|extension| extension != "md") {
        return None;
    }
    let anchors = pages::anchors(&fs::read_to_string(&target).unwrap());
    (!anchors.contains(anchor)).then(|| format!("no heading of it is #{anchor}"))
}

#[test]
fn every_link_leads_somewhere() {
    let root = installed::workspace();
    let mut wrong = Vec::new();
    let mut links = 0;
    for page in pages::all(root) {
        for link in pages::links(&fs::read_to_string(&page).unwrap()) {
            links += 1;
            let reason = broken(&page, &link);
            wrong.extend(
                reason.map(|reason| format!("{}: {link}: {reason}", page.strip_prefix(root).unwrap().display())),
            );
        }
    }
    assert!(links > 100, "only {links} links were found");
    assert_eq!(wrong, [""; 0], "links that lead nowhere");
    let page = root.join("README.md");
    assert!(broken(&page, "docs/nothing.md").is_some() && broken(&page, "#nothing").is_some(), "such links are found");
}

#[test]
fn every_page_is_in_the_order_of_the_site() {
    let docs = installed::workspace().join("docs");
    let order = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed: Vec<PathBuf> = pages::links(&order).iter().map(|link| docs.join(link)).collect();
    // tools/site.sh appends the decisions.
    let pages = fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|page| page.extension().is_some_and(|extension| extension == "md"));
    let missing: Vec<PathBuf> = pages.filter(|page| !page.ends_with("SUMMARY.md") && !listed.contains(page)).collect();
    assert!(missing.is_empty(), "pages that docs/SUMMARY.md lacks: {missing:?}");
}
