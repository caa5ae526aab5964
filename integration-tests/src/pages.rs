//! The pages of the documentation: their blocks of code, carried out as a reader would, and their links.
//!
//! What a block is for stands behind its language, in the Markdown itself:
//!
//! | words | |
//! |---|---|
//! | `run` | a shell carries it out, and it succeeds |
//! | `serve` | the same, but it goes on until the next `serve` or the end of the page |
//! | `file=NAME` | the reader saves it |
//! | `prints` | what the block before it printed has these lines, in this order; the ids of items are others each time |
//! | `wheel` | beside one of the above: for those who install the wheel, in a test of its own |

use std::collections::HashSet;
use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pulldown_cmark::{CodeBlockKind, Event, LinkType, Options, Parser, Tag, TagEnd};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::process::Guard;
use crate::{ports, scratch, wait};

/// A block of code of a page.
#[derive(Debug)]
struct Block {
    /// The words after the language.
    words: Vec<String>,
    text: String,
}

impl Block {
    fn is(&self, word: &str) -> bool {
        self.words.iter().any(|own| own == word)
    }

    fn file(&self) -> Option<&str> {
        self.words.iter().find_map(|word| word.strip_prefix("file="))
    }
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for event in Parser::new(markdown) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                let words = info.split_whitespace().skip(1).map(str::to_owned).collect();
                open = Some(Block { words, text: String::new() });
            }
            Event::Text(text) => open.iter_mut().for_each(|block| block.text.push_str(&text)),
            Event::End(TagEnd::CodeBlock) => blocks.extend(open.take()),
            _ => {}
        }
    }
    blocks
}

/// Who reads: the readers of the repository, or those who install the wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From source.
    Source,
    /// By the wheel.
    Wheel,
}

/// Somebody who does what a page says, in a folder of their own and on ports of their own.
#[derive(Debug)]
pub struct Reader {
    folder: TempDir,
    /// What the ports of the pages are in this run.
    ports: [(u16, u16); 4],
    environment: Vec<(String, String)>,
    unset: Vec<&'static str>,
    serving: Option<Serving>,
}

/// What the pages name, in the order of `envoy-runtime`'s flags for them.
const PORTS: [(u16, &str); 4] =
    [(50001, "--dapr-grpc-port"), (3500, "--dapr-http-port"), (34904, "--layotto-port"), (9901, "--admin-port")];

impl Reader {
    /// A reader with an empty folder.
    pub fn new() -> Self {
        let folder = scratch::directory("reader");
        fs::create_dir(folder.path().join("tmp")).unwrap();
        let ports = PORTS.map(|(port, _)| (port, ports::free_port()));
        let mut reader = Self { folder, ports, environment: Vec::new(), unset: vec!["DAPR_API_TOKEN"], serving: None };
        reader.set("DAPR_GRPC_PORT", ports[0].1.to_string());
        reader.set("DAPR_HTTP_PORT", ports[1].1.to_string());
        reader
    }

    /// Where it reads.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The flags by which `envoy-runtime` takes the ports of this reader instead of those that the pages name.
    pub fn flags(&self) -> String {
        let flags = PORTS.iter().zip(self.ports).map(|((_, flag), (_, port))| format!("{flag} {port}"));
        flags.collect::<Vec<_>>().join(" ")
    }

    /// A variable for what it does.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// A variable that it shall not have.
    pub fn unset(&mut self, name: &'static str) {
        self.unset.push(name);
    }

    /// Does what the page says, block after block, and returns how many there were for this way.
    pub async fn follow(&mut self, page: &Path, way: Way) -> usize {
        let markdown = fs::read_to_string(page).unwrap();
        let mut printed = String::new();
        let mut done = 0;
        for block in blocks(&markdown).iter().filter(|block| block.is("wheel") == (way == Way::Wheel)) {
            let mut text = self.own(&block.text);
            if way == Way::Wheel {
                text = text.replace("envoy-runtime run ", &format!("envoy-runtime run {} ", self.flags()));
            }
            if let Some(name) = block.file() {
                fs::write(self.folder.path().join(name), &text).unwrap();
            } else if block.is("serve") {
                self.serve(&text).await;
            } else if block.is("run") {
                printed = self.run(&text).await;
            } else if block.is("prints") {
                expect_lines(&block.text, &printed, page);
            } else {
                continue;
            }
            done += 1;
        }
        self.serving = None;
        done
    }

    /// The text with what is this reader's own: ports, and a folder for temporary files.
    fn own(&self, text: &str) -> String {
        let text = text.replace("/tmp/", &format!("{}/tmp/", self.folder.path().display()));
        self.ports.iter().fold(text, |text, (named, own)| text.replace(&format!(":{named}"), &format!(":{own}")))
    }

    /// A shell with this text, in the folder and with the variables of the reader.
    pub fn shell(&self, text: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", text]).current_dir(self.folder.path()).stdin(Stdio::null());
        for name in &self.unset {
            command.env_remove(name);
        }
        command.env("NO_PROXY", "127.0.0.1,localhost");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    async fn run(&self, text: &str) -> String {
        let mut command = self.shell(text);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("bash starts");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        let served = self.serving.as_ref().map_or(String::new(), Serving::log);
        assert!(output.status.success(), "{}: {text}\n{printed}\n{errors}\nwhat serves says:\n{served}", output.status);
        printed
    }

    async fn serve(&mut self, text: &str) {
        // The one before it gives back its ports first.
        self.serving = None;
        let mut serving = Serving::start(self.shell(text), self.folder.path());
        wait::eventually("all ports of the page answer", async || {
            if serving.has_ended() {
                panic!("it has ended: {text}\n{}", serving.log());
            }
            let mut addresses = self.ports.iter().map(|(_, port)| ("127.0.0.1", *port));
            addresses.try_for_each(|address| TcpStream::connect(address).map(|_| ()))
        })
        .await;
        self.serving = Some(serving);
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

/// A command that goes on, with all that it started.
#[derive(Debug)]
struct Serving {
    child: Child,
    group: Pid,
    log: PathBuf,
    _guard: Guard,
}

impl Serving {
    fn start(mut command: Command, folder: &Path) -> Self {
        let log = folder.join("serve.log");
        let output = File::create(&log).unwrap();
        command.process_group(0).stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.spawn().expect("bash starts");
        let group = Pid::from_child(&child);
        let id = group.as_raw_nonzero().to_string();
        let guard =
            Guard::new(r#"kill -TERM -- "-$1" 2>/dev/null; rm -rf -- "$2""#, [id.as_ref(), scratch::rubbish(folder)]);
        Self { child, group, log, _guard: guard }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the child can be waited for").is_some()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // As a terminal does it when somebody presses Ctrl-C.
        let _ = kill_process_group(self.group, Signal::INT);
        let _ = self.child.wait();
        let _ = kill_process_group(self.group, Signal::KILL);
    }
}

fn expect_lines(expected: &str, printed: &str, page: &Path) {
    let printed = without_ids(printed);
    let mut rest = printed.lines();
    for line in without_ids(expected).lines() {
        assert!(
            rest.any(|own| own.trim_end() == line.trim_end()),
            "{}: {line:?} is not in:\n{printed}",
            page.display()
        );
    }
}

/// Ids of the form 8-4-4-4-12 replaced by one word.
fn without_ids(text: &str) -> String {
    let is_id = |word: &str| {
        let lengths: Vec<usize> = word.split('-').map(str::len).collect();
        lengths == [8, 4, 4, 4, 12] && word.chars().all(|char| char.is_ascii_hexdigit() || char == '-')
    };
    let line =
        |line: &str| line.split(' ').map(|word| if is_id(word) { "ID" } else { word }).collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// All pages: the Markdown files that git has, or would take.
pub fn all(root: &Path) -> Vec<PathBuf> {
    let mut command = Command::new("git");
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.md"]).current_dir(root);
    let output = command.output().expect("git starts");
    assert!(output.status.success(), "{output:?}");
    let names = String::from_utf8(output.stdout).expect("names are UTF-8");
    names.split_terminator('\0').map(|name| root.join(name)).filter(|path| path.exists()).collect()
}

/// The links and pictures of a page that lead to other files or to a place in one, as they stand there.
pub fn links(markdown: &str) -> Vec<String> {
    let links = Parser::new_ext(markdown, Options::ENABLE_TABLES).filter_map(|event| match event {
        Event::Start(Tag::Link { link_type, dest_url, .. } | Tag::Image { link_type, dest_url, .. })
            if !matches!(link_type, LinkType::Autolink | LinkType::Email) =>
        {
            Some(dest_url.into_string())
        }
        _ => None,
    });
    links.filter(|link| !link.contains("://") && !link.starts_with("mailto:")).collect()
}

/// The anchors of a page, as GitHub and mdBook make them of its headings.
pub fn anchors(markdown: &str) -> HashSet<String> {
    let mut anchors = HashSet::new();
    let mut open: Option<String> = None;
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => open = Some(String::new()),
            Event::Text(text) | Event::Code(text) => open.iter_mut().for_each(|heading| heading.push_str(&text)),
            Event::End(TagEnd::Heading(_)) => {
                let anchor = open.take().map_or(String::new(), |heading| anchor(&heading));
                // The second of a name gets a number.
                let same = (1..).map(|number| format!("{anchor}-{number}"));
                let free = std::iter::once(anchor.clone()).chain(same).find(|name| !anchors.contains(name));
                anchors.extend(free);
            }
            _ => {}
        }
    }
    anchors
}

fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|char| char.is_alphanumeric() || [' ', '-', '_'].contains(char));
    kept.flat_map(char::to_lowercase).map(|char| if char == ' ' { '-' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{anchors, blocks, expect_lines, links};

    #[test]
    fn the_words_of_a_block_say_what_it_is_for() {
        let found = blocks("```sh run wheel\nls\n```\n\n```python file=app.py\nprint()\n```\n\n```\nplain\n```\n");
        assert_eq!(found.len(), 3);
        assert!(found[0].is("run") && found[0].is("wheel") && found[0].text == "ls\n", "{found:?}");
        assert_eq!(found[1].file(), Some("app.py"));
        assert!(found[2].words.is_empty());
    }

    #[test]
    fn links_and_the_places_that_they_lead_to() {
        let page = "# A `b` c: d\n\n[x](y.md#z) [o](https://example.org) ![p](p.png)\n\n| [t](u) |\n|-|\n| [v](w \"x\") |\n\n## A\n## A\n";
        assert_eq!(links(page), ["y.md#z", "p.png", "u", "w"]);
        let anchors = anchors(page);
        assert!(["a-b-c-d", "a", "a-1"].iter().all(|anchor| anchors.contains(*anchor)), "{anchors:?}");
    }

    #[test]
    fn what_is_printed_is_compared_but_for_ids() {
        let id = "ed0e9136-68ba-41bd-a647-c6c5c796f833";
        expect_lines(
            &format!("b'42' etag {id}\n"),
            &format!("more\nb'42' etag {}\n", id.replace('e', "f")),
            Path::new("p"),
        );
        let compared = std::panic::catch_unwind(|| expect_lines("b'42'\n", "b'43'\n", Path::new("p")));
        assert!(compared.is_err());
    }
}
