//! What users bring: one `runtime.yaml`, a folder of Dapr component files, or a Layotto configuration. Each becomes
//! the one document that [`Config::check`] takes, with the place of every value in it.

mod dapr;
mod layotto;
mod origins;
mod secrets;
mod spot;
mod yaml;

use std::ffi::OsStr;
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path as FilePath, PathBuf};
use std::rc::Rc;
use std::{fs, io};

use runtime_api::config::{Config, Listen, Listeners, Path, Report, Severity};
use serde_json::{Map, Value};

use crate::Failure;
use crate::args::{Port, Source};
use crate::report::Finding;
use origins::{Children, Origins};
pub use secrets::{Variable, environment_file};
pub use spot::{File, Spot};

/// A configuration as it was read and checked.
#[derive(Debug)]
pub struct Checked {
    /// The one document; what the filter takes. No secret is in it: see [`Checked::secrets`].
    pub document: Value,
    /// What the environment of Envoy is to have besides what the user himself refers to.
    pub secrets: Vec<Variable>,
    /// What it says; `None` if there are errors.
    pub config: Option<Config>,
    /// All that is to be said about it, from the top of each file to its end.
    pub findings: Vec<Finding>,
    /// Whether the user said where the admin interface listens.
    pub admin_given: bool,
}

/// A configuration under construction.
#[derive(Debug)]
struct Draft {
    document: Value,
    origins: Origins,
    findings: Vec<Finding>,
    /// Values that are there and were refused already, so that they are not in the document.
    refused: Vec<Path>,
    /// Values that are secrets of a store.
    references: Vec<secrets::Reference>,
}

/// Where the Envoy will run that gets the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Here: the variables of the environment that are referred to must be set.
    Here,
    /// Elsewhere, with an environment of its own.
    Elsewhere,
}

/// Reads and checks what the user named. An error here means that a file could not be read at all.
pub fn read(source: &Source, place: Place) -> Result<Checked, Failure> {
    let environment = secrets::variables();
    let mut draft = Draft::read(source, &environment)?;
    draft.add_listeners(source);
    draft.add_token(std::env::var_os("DAPR_API_TOKEN").as_deref());
    draft.read_stores(&environment);
    draft.follow_references();
    Ok(draft.check(&environment, place))
}

impl Draft {
    fn read(source: &Source, environment: &secrets::Variables) -> Result<Self, Failure> {
        if let Some(file) = &source.file {
            return Ok(Self::runtime(&open(file)?));
        }
        if let Some(file) = &source.layotto_config {
            return Ok(layotto::read(&open(file)?));
        }
        let app_id = source.app_id.as_deref().unwrap_or_default();
        let variable = |name: &str| environment.get(name).cloned();
        let mut draft = dapr::read(app_id, &source.resources_path, variable)?;
        if let Some(file) = &source.config {
            draft.configurations(&open(file)?);
        }
        Ok(draft)
    }

    /// A document with nothing in it, for files that are not documents themselves.
    fn empty(spot: Spot) -> Self {
        Self {
            document: Value::Object(Map::new()),
            origins: Origins::new(spot, Children::Fields),
            findings: Vec::new(),
            refused: Vec::new(),
            references: Vec::new(),
        }
    }

    /// A `runtime.yaml`: the document itself.
    fn runtime(file: &Rc<File>) -> Self {
        let mut draft = Self::empty(Spot::whole(&file.name));
        let documents = yaml::parse(file, &mut draft.findings);
        if let Some(second) = documents.get(1) {
            draft.findings.push(Finding::error(second.spot.clone(), "", "a second document; one is expected"));
        }
        let broken = !draft.findings.is_empty();
        match documents.first() {
            Some(root) => {
                draft.document = root.value();
                root.walk(&Path::default(), &mut |path, node| {
                    draft.origins.add(path.clone(), node.spot.clone(), path.to_string(), Children::Fields);
                });
            }
            None if broken => draft.document = Value::Null,
            None => {}
        }
        draft
    }

    /// The ports given as flags, which go before what is in a file.
    fn add_listeners(&mut self, source: &Source) {
        let given = [
            ("--dapr-grpc-port", "daprGrpc", source.dapr_grpc_port),
            ("--dapr-http-port", "daprHttp", source.dapr_http_port),
            ("--layotto-port", "layottoGrpc", source.layotto_port),
            ("--admin-port", "admin", source.admin_port),
        ];
        // Held until all are chosen, so that none is chosen twice.
        let mut held = Vec::new();
        for (flag, name, port) in given {
            let Some(port) = port else { continue };
            let old = field(&self.document, "listeners").and_then(|listeners| field(listeners, name));
            let host = old.and_then(Value::as_str).and_then(runtime_api::config::parse_address).map(|(host, _)| host);
            let host = host.unwrap_or("127.0.0.1");
            let address = match port {
                Port::Off => "off".to_owned(),
                Port::Number(port) => {
                    let chosen = (port == 0).then(|| TcpListener::bind((host, 0))).and_then(Result::ok);
                    let port = chosen.as_ref().and_then(|it| it.local_addr().ok()).map_or(port, |it| it.port());
                    held.push(chosen);
                    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
                }
            };
            self.set(&["listeners", name], Value::String(address), Spot::whole(flag));
        }
    }

    /// The token from the environment, where Dapr's users put it, unless the file has one. An empty field is none.
    fn add_token(&mut self, token: Option<&OsStr>) {
        let Some(token) = token.filter(|token| !token.is_empty()) else { return };
        if field(&self.document, "apiToken").is_none_or(|given| given.is_null() || given == "") {
            let token = Value::String(token.to_string_lossy().into_owned());
            self.set(&["apiToken"], token, Spot::whole("DAPR_API_TOKEN"));
        }
    }

    /// Sets a field, whatever its case in the document; objects on the way are made. Where the document has another
    /// shape there, nothing is set: the check reports the shape.
    fn set(&mut self, names: &[&str], value: Value, spot: Spot) {
        let mut at = &mut self.document;
        let mut path = Path::default();
        for (depth, name) in names.iter().enumerate() {
            let Some(object) = at.as_object_mut() else { return };
            let found = object.keys().find(|field| field.eq_ignore_ascii_case(name)).cloned();
            let name = found.unwrap_or_else(|| (*name).to_owned());
            path = path.field(&name);
            let last = depth + 1 == names.len();
            at = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if at.is_null() && !last {
                *at = Value::Object(Map::new());
            }
        }
        *at = value;
        self.origins.add(path.clone(), spot, path.to_string(), Children::Fields);
    }

    fn check(mut self, environment: &secrets::Variables, place: Place) -> Checked {
        // After an error in the syntax half of the document is missing: what is missing is no news then.
        let half = self.document.is_null() && !self.findings.is_empty();
        let (mut config, mut report) = if half { (None, Report::default()) } else { self.load(environment, place) };
        if let Some(config) = &mut config {
            check_hosts(&mut config.listeners, &mut report);
            check_sockets(&config.listeners, &mut report);
        }
        for problem in report.0.into_iter().filter(|problem| !self.refused.contains(&problem.path)) {
            let (spot, field) = self.origins.locate(&problem.path);
            self.findings.push(Finding { spot, field, text: problem.text, severity: problem.severity });
        }
        let admin_given = field(&self.document, "listeners").and_then(|all| field(all, "admin")).is_some();
        let secrets = self.conceal();
        let mut files: Vec<String> = Vec::new();
        for finding in &self.findings {
            if !files.iter().any(|file| file == finding.spot.file()) {
                files.push(finding.spot.file().to_owned());
            }
        }
        self.findings
            .sort_by_key(|finding| (files.iter().position(|file| file == finding.spot.file()), finding.spot.order()));
        self.findings.dedup_by_key(|finding| finding.to_string());
        let refused = self.findings.iter().any(|finding| finding.severity == Severity::Error);
        let config = config.filter(|_| !refused);
        Checked { document: self.document, secrets, config, findings: self.findings, admin_given }
    }

    fn load(&self, environment: &secrets::Variables, place: Place) -> (Option<Config>, Report) {
        match place {
            Place::Here => Config::load(&self.document, &|variable| environment.get(variable).cloned()),
            Place::Elsewhere => Config::check(&self.document),
        }
    }
}

/// Envoy listens on addresses, and looks up no names for that. The one name that everybody writes is known.
fn check_hosts(listeners: &mut Listeners, report: &mut Report) {
    for (name, listen) in listeners.all_mut() {
        let Listen::Tcp(host, _) = listen else { continue };
        if host == "localhost" {
            "127.0.0.1".clone_into(host);
        } else if host.parse::<IpAddr>().is_err() {
            let path = Path::default().field("listeners").field(name);
            report.error(path, format!("an IP address is expected before the port, not the name {host:?}"));
        }
    }
}

/// Envoy removes what is in the place of a socket that it is to make: an old socket may go, and nothing else.
fn check_sockets(listeners: &Listeners, report: &mut Report) {
    for (name, listen) in listeners.all() {
        let Listen::Unix(socket) = listen else { continue };
        let kind = match fs::symlink_metadata(socket).map(|there| there.file_type()) {
            Ok(kind) if kind.is_dir() => "a folder",
            Ok(kind) if kind.is_symlink() => "a symbolic link",
            Ok(kind) if !kind.is_socket() => "a file that is no socket",
            _ => continue,
        };
        let path = Path::default().field("listeners").field(name);
        report.error(path, format!("{socket} is {kind}, and Envoy would put its socket there: choose another path"));
    }
}

/// A field by its name in any case.
pub(crate) fn field<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.as_object()?.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn open(path: &FilePath) -> Result<Rc<File>, Failure> {
    let text = text_of(path).map_err(|error| Failure::file(path, &error))?;
    Ok(Rc::new(File { name: path.display().to_string(), text }))
}

/// What some editors put in front of a text: it says how the text is encoded, and is no part of it.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The text of a file.
fn text_of(path: &FilePath) -> io::Result<String> {
    let bytes = fs::read(path)?;
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(io::Error::other("it is encoded as UTF-16; save it as UTF-8"));
    }
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    Ok(text.strip_prefix(BYTE_ORDER_MARK).map(str::to_owned).unwrap_or(text))
}

/// The files of a folder that may hold components, by name. Folders within it are not searched, as Dapr does not.
fn component_files(dir: &FilePath) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(dir).map_err(|error| Failure::file(dir, &error))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Failure::file(dir, &error))?.path();
        let extension = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
        if matches!(extension.as_deref(), Some("yaml" | "yml" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
