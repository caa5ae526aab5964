//! What users bring: one `runtime.yaml`, a folder of Dapr component files, or a Layotto configuration. Each becomes
//! the one document that [`Config::check`] takes, with the place of every value in it.

mod dapr;
mod found;
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

use runtime_api::config::{Config, LISTENERS, Listen, Listeners, Path, Presence, Report, Severity, parse_address};
use serde_json::{Map, Value};

use crate::Failure;
use crate::args::{Port, Source};
use crate::report::Finding;
use found::Found;
pub use found::{Origin, PLACES};
use origins::{Children, Origins};
pub use secrets::{DERIVED, Variable, environment_file};
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
    /// Where it comes from.
    pub origin: Origin,
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
    let (mut draft, origin) = Draft::read(source, &environment, place)?;
    draft.add_limits(source);
    draft.add_origins(source);
    draft.add_listeners(source);
    if place == Place::Here {
        draft.make_way(source);
    }
    draft.add_token(std::env::var_os("DAPR_API_TOKEN").as_deref());
    draft.read_stores(&environment);
    draft.follow_references();
    Ok(draft.check(&environment, place, origin))
}

impl Draft {
    fn read(source: &Source, environment: &secrets::Variables, place: Place) -> Result<(Self, Origin), Failure> {
        let app_id = || app_id(source, environment, place);
        if let Some(file) = &source.layotto_config {
            let mut draft = layotto::read(&open(file)?);
            // Most of Layotto's configurations have none on purpose, so none is made up.
            if let Some(id) = &source.app_id {
                draft.set(&["appId"], Value::String(id.clone()), Spot::whole("--app-id"));
            }
            return Ok((draft, Origin::Named));
        }
        let components = |folders: &[PathBuf], configurations: &[PathBuf]| {
            let variable = |name: &str| environment.get(name).cloned();
            let Some(id) = app_id() else {
                return Err(Failure::new("component files don't say the id of the app: give it by --app-id or APP_ID"));
            };
            let mut draft = dapr::read(&id.text, id.from, folders, variable)?;
            for file in configurations {
                draft.configurations(&open(file)?);
            }
            Ok(draft)
        };
        let runtime = |file: &FilePath| {
            let mut draft = Self::runtime(&open(file)?);
            let absent = draft.document.is_object() && field(&draft.document, "appId").is_none();
            if let Some(id) = (absent || source.app_id.is_some()).then(app_id).flatten() {
                draft.set(&["appId"], Value::String(id.text), Spot::whole(id.from));
            }
            Ok(draft)
        };
        if let Some(file) = &source.file {
            return Ok((runtime(file)?, Origin::Named));
        }
        if !source.resources_path.is_empty() {
            return Ok((components(&source.resources_path, &source.config)?, Origin::Named));
        }
        let home = environment.get("HOME").map(FilePath::new);
        match found::look(home) {
            Found::File(file) if source.config.is_empty() => Ok((runtime(&file)?, Origin::Found(file))),
            Found::Folder(folder, beside) => {
                let beside: Vec<PathBuf> = beside.into_iter().collect();
                let configurations = if source.config.is_empty() { &beside } else { &source.config };
                Ok((components(std::slice::from_ref(&folder), configurations)?, Origin::Found(folder)))
            }
            Found::File(file) => Err(Failure::new(format!(
                "--config goes with Dapr's component files, and {} is what would be taken here; name their folder with \
                 --resources-path",
                file.display()
            ))),
            Found::Nothing if place == Place::Elsewhere => Err(Failure::new(format!(
                "no configuration is named, and none of {PLACES} is here: give --file, --resources-path or \
                 --layotto-config"
            ))),
            Found::Nothing => {
                let id = app_id();
                let mut draft = Self::empty(Spot::whole("the configuration in memory"));
                draft.document = found::in_memory(id.as_ref().map_or("", |id| &id.text), source.config.is_empty());
                for file in &source.config {
                    draft.configurations(&open(file)?);
                }
                Ok((draft, Origin::Nothing))
            }
        }
    }

    /// Whether a file that was taken for a `runtime.yaml` is another's, which is reported with the flag that takes it.
    fn is_of_another_program(&mut self, root: &yaml::Node) -> bool {
        let has = |name: &str| root.get(name).is_some();
        let text = if has("apiVersion") && has("kind") {
            "this is a file of Dapr's, not a runtime.yaml; name the folder that it is in with --resources-path"
        } else if has("servers") {
            "this is a configuration of Layotto's, not a runtime.yaml; name it with --layotto-config"
        } else if has("apps") && has("version") {
            "this is a run template of Dapr's, not a runtime.yaml; start an envoy-runtime for each of its apps"
        } else if has("static_resources") || has("dynamic_resources") {
            "this is a configuration of Envoy's, not a runtime.yaml; start Envoy with it yourself"
        } else if root.fields().is_empty() && root.text().is_some() {
            "this is no runtime.yaml, which has fields such as `appId: orders`"
        } else {
            return false;
        };
        self.findings.push(Finding::error(root.spot.clone(), "", text));
        true
    }

    /// The limits given as flags, which go before what is in a file.
    fn add_limits(&mut self, source: &Source) {
        if let Some((flag, bytes)) = source.largest_message() {
            self.set(&["limits", "maxRequestBytes"], Value::from(bytes), Spot::whole(flag));
        }
    }

    /// The origins given as a flag, likewise.
    fn add_origins(&mut self, source: &Source) {
        let origins = source.allowed_origins.iter().map(|origin| origin.trim()).filter(|origin| !origin.is_empty());
        let origins: Vec<Value> = origins.map(Value::from).collect();
        if !origins.is_empty() {
            self.set(&["api", "allowedOrigins"], Value::Array(origins), Spot::whole("--allowed-origins"));
        }
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
            Some(root) if draft.is_of_another_program(root) => draft.document = Value::Null,
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
        let host = source.dapr_listen_addresses.map(|address| address.to_string());
        let given = [
            ("--dapr-grpc-port", "daprGrpc", source.dapr_grpc_port, host.as_deref()),
            ("--dapr-http-port", "daprHttp", source.dapr_http_port, host.as_deref()),
            ("--layotto-port", "layottoGrpc", source.layotto_port, None),
            ("--admin-port", "admin", source.admin_port, None),
        ];
        // Held until all are chosen, so that none is chosen twice.
        let mut held = Vec::new();
        for (flag, name, port, new_host) in given {
            let old = field(&self.document, "listeners").and_then(|listeners| field(listeners, name));
            let old = old.map_or_else(|| usual_address(name), |old| old.as_str().unwrap_or_default());
            let old = parse_address(old);
            let (flag, port) = match (port, new_host, old) {
                (Some(port), ..) => (flag, port),
                (None, Some(_), Some((_, port))) => ("--dapr-listen-addresses", Port::Number(port)),
                _ => continue,
            };
            let host = new_host.or(old.map(|(host, _)| host)).unwrap_or("127.0.0.1");
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
        if let Some(folder) = &source.unix_domain_socket {
            let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
            let app_id = self.served_app();
            for (name, kind) in [("daprGrpc", "grpc"), ("daprHttp", "http")] {
                let address = format!("unix://{}/dapr-{app_id}-{kind}.socket", folder.display());
                self.set(&["listeners", name], Value::String(address), Spot::whole("--unix-domain-socket"));
            }
        }
    }

    /// Moves a listener of which nobody has said where it is out of the way of one that was given its port by a flag: Dapr's
    /// CLI takes free ports, and its users have `--dapr-grpc-port 3500` in their command lines.
    fn make_way(&mut self, source: &Source) {
        let flags = [source.dapr_grpc_port, source.dapr_http_port, source.layotto_port];
        let given = flags.into_iter().flatten().filter_map(|port| match port {
            Port::Number(port) => Some(port),
            Port::Off => None,
        });
        let given: Vec<u16> = given.collect();
        for name in ["daprGrpc", "daprHttp", "layottoGrpc"] {
            let is_set = field(&self.document, "listeners").and_then(|listeners| field(listeners, name)).is_some();
            let in_the_way = parse_address(usual_address(name)).is_some_and(|(_, port)| given.contains(&port));
            if !is_set
                && in_the_way
                && let Ok(free) = TcpListener::bind(("127.0.0.1", 0)).and_then(|it| it.local_addr())
            {
                self.set(&["listeners", name], Value::String(free.to_string()), Spot::whole("free port"));
            }
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

    fn check(mut self, environment: &secrets::Variables, place: Place, origin: Origin) -> Checked {
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
        Checked { document: self.document, secrets, config, findings: self.findings, admin_given, origin }
    }

    fn load(&self, environment: &secrets::Variables, place: Place) -> (Option<Config>, Report) {
        match place {
            Place::Here => Config::load(&self.document, &|variable| environment.get(variable).cloned()),
            Place::Elsewhere => Config::check(&self.document),
        }
    }
}

/// The id of the app, and who says so.
#[derive(Debug, Clone)]
struct AppId {
    text: String,
    from: &'static str,
}

/// The id of the app where no file says it: a flag, a variable, and where an Envoy is run for a developer the name of
/// the folder.
fn app_id(source: &Source, environment: &secrets::Variables, place: Place) -> Option<AppId> {
    let given = source.app_id.clone().map(|text| AppId { text, from: "--app-id" });
    let set = || environment.get("APP_ID").cloned().map(|text| AppId { text, from: "APP_ID" });
    let folder = || {
        let folder = std::env::current_dir().ok()?;
        let text = folder.file_name()?.to_str()?.replace("||", "-");
        Some(AppId { text, from: "the name of the folder" })
    };
    let named = |id: &AppId| !id.text.is_empty();
    given.filter(named).or_else(|| set().filter(named)).or_else(|| (place == Place::Here).then(folder).flatten())
}

/// The address of a listener that is not configured.
fn usual_address(listener: &str) -> &'static str {
    let field = LISTENERS.iter().find(|field| field.name == listener);
    if let Some(Presence::Default(address)) = field.map(|field| field.presence) { address } else { "" }
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
    let text = text_of(path).map_err(|error| Failure::unreadable(path, &error))?;
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
    if dir.is_file() {
        let text = "a folder of component files is expected, not a file; name the folder that it is in";
        return Err(Failure::file(dir, &text));
    }
    let entries = fs::read_dir(dir).map_err(|error| Failure::unreadable(dir, &error))?;
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
