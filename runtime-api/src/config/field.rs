//! Fields of the configuration as data: one table says what a field is called, what it may hold and what it
//! means. The checks at load, the texts of their errors and the reference in `docs/` all come from these tables.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

/// One field of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The name as documented; names are compared without regard to case, as Dapr does.
    pub name: &'static str,
    /// What the field may hold.
    pub kind: Kind,
    /// What holds when the field is absent.
    pub presence: Presence,
    /// What it means to an operator: a sentence for the reference.
    pub meaning: &'static str,
}

/// What a field may hold.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// Any text without the separator of keys, `||`.
    KeyPart,
    /// The same, or the empty text on purpose, which is something else than nothing.
    KeyPartOrEmpty,
    /// Any text, never shown in a message. A reference to Envoy's environment may stand for it: see
    /// [`super::secrets`].
    Secret,
    /// `true` or `false`, and the other words that Dapr takes for them.
    Flag,
    /// A whole number within the bounds (inclusive).
    Whole(i64, i64),
    /// A time span such as `500ms` or `5s`.
    Time,
    /// `host:port`.
    Address,
    /// The same, or several with commas between.
    Addresses,
    /// Where to listen: `host:port`, `unix:///path` or `off`.
    Listen,
    /// An object with fields of its own.
    Object(&'static [Field]),
    /// A list of objects with these fields.
    Objects(&'static [Field]),
    /// A list of texts.
    Texts,
    /// An object of names and whole numbers, or the same as a JSON text.
    Numbers,
    /// An object whose fields depend on its surroundings (a component's metadata).
    Metadata,
    /// Accepted for the sake of configurations that exist, without effect; the text says why.
    Ignored(&'static str),
    /// Refused when set, since ignoring it would break a promise; the text says which.
    Refused(&'static str),
}

/// What holds when a field is absent.
#[derive(Debug, Clone, Copy)]
pub enum Presence {
    /// It must be given.
    Required,
    /// It may be left out; nothing stands in for it.
    Optional,
    /// It may be left out; this stands in for it.
    Default(&'static str),
}

impl Field {
    /// A field that must be given.
    pub const fn required(name: &'static str, kind: Kind, meaning: &'static str) -> Self {
        Self { name, kind, presence: Presence::Required, meaning }
    }

    /// A field that may be left out.
    pub const fn optional(name: &'static str, kind: Kind, meaning: &'static str) -> Self {
        Self { name, kind, presence: Presence::Optional, meaning }
    }

    /// A field with a default.
    pub const fn default(name: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Self {
        Self { name, kind, presence: Presence::Default(default), meaning }
    }

    fn has_effect(&self) -> bool {
        !matches!(self.kind, Kind::Ignored(_) | Kind::Refused(_))
    }

    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// A step on the way from the root of a document to a value in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The field of an object.
    Field(String),
    /// The element of a list, from zero.
    Index(usize),
}

/// Where in a document something is; shown as `components[0].metadata.redisDB`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// The field of this name below here.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        self.with(Step::Field(name.to_owned()))
    }

    /// The element at this index below here.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if at == 0 => write!(f, "{name}")?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// How grave a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is loaded, and something in it has no effect.
    Warning,
}

/// Something to be said about a place in a document: what is wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where. The last step may name a field that is missing.
    pub path: Path,
    /// What, without the place.
    pub text: String,
    /// How grave.
    pub severity: Severity,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.0.is_empty() { f.write_str(&self.text) } else { write!(f, "{}: {}", self.path, self.text) }
    }
}

/// All that is to be said about a document.
#[derive(Debug, Clone, Default)]
pub struct Report(pub Vec<Problem>);

impl Report {
    /// Adds an error.
    pub fn error(&mut self, path: Path, text: impl Into<String>) {
        self.0.push(Problem { path, text: text.into(), severity: Severity::Error });
    }

    /// Adds a warning.
    pub fn warning(&mut self, path: Path, text: impl Into<String>) {
        self.0.push(Problem { path, text: text.into(), severity: Severity::Warning });
    }

    /// Whether anything in it refuses the document.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|problem| problem.severity == Severity::Error)
    }
}

/// The values of checked fields, as text. A field that passed its check can be read back as what its kind says.
#[derive(Clone, Default)]
pub struct Settings(Vec<(&'static str, String)>); // by name, so that equal settings are alike however they were given

impl fmt::Debug for Settings {
    /// The names alone: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Settings {
    fn place(&self, field: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(name, _)| (*name).cmp(field))
    }

    fn set(&mut self, field: &'static str, text: String) {
        match self.place(field) {
            Ok(at) => self.0.splice(at..=at, [(field, text)]).for_each(drop),
            Err(at) => self.0.insert(at, (field, text)),
        }
    }

    /// The text of a field, or its default; `None` when neither is there or the text is empty.
    pub fn text(&self, field: &str) -> Option<&str> {
        let value = self.place(field).ok().and_then(|at| self.0.get(at));
        value.map(|(_, text)| text.as_str()).filter(|text| !text.is_empty())
    }

    /// A [`Kind::Flag`]; absent is `false`.
    pub fn flag(&self, field: &str) -> bool {
        self.text(field).and_then(parse_flag).unwrap_or_default()
    }

    /// A [`Kind::Whole`].
    pub fn whole(&self, field: &str) -> Option<i64> {
        self.text(field)?.parse().ok()
    }

    /// A [`Kind::Numbers`]; absent is empty.
    pub fn numbers(&self, field: &str) -> Vec<(String, i64)> {
        self.text(field).and_then(parse_numbers).unwrap_or_default()
    }

    /// A [`Kind::Addresses`], each as it is written; absent is none.
    pub fn addresses(&self, field: &str) -> impl Iterator<Item = &str> {
        self.text(field).into_iter().flat_map(parts)
    }

    /// A number that other settings are unlikely to have.
    pub fn fingerprint(&self) -> u64 {
        let texts = self.0.iter().flat_map(|(name, value)| [*name, "=", value.as_str(), ";"]);
        texts.flat_map(str::bytes).fold(FNV_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
    }

    /// A [`Kind::Time`].
    pub fn time(&self, field: &str) -> Option<Duration> {
        humantime::parse_duration(self.text(field)?).ok()
    }
}

// FNV-1a
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// Tables of fields one after the other as one.
#[macro_export]
macro_rules! tables {
    ($($table:expr),+ $(,)?) => {{
        const JOINED: [$crate::config::Field; 0 $(+ $table.len())+] = $crate::config::joined(&[$($table),+]);
        &JOINED
    }};
}

/// Tables of fields one after the other, for [`tables!`](crate::tables).
#[allow(clippy::indexing_slicing)] // in a constant, where a mistake does not compile
pub const fn joined<const N: usize>(tables: &[&[Field]]) -> [Field; N] {
    let mut joined = [Field::optional("", Kind::Text, ""); N];
    let (mut at, mut table) = (0, 0);
    while table < tables.len() {
        let mut field = 0;
        while field < tables[table].len() {
            joined[at] = tables[table][field];
            at += 1;
            field += 1;
        }
        table += 1;
    }
    joined
}

/// Checks `object` against tables of fields: unknown names, missing fields and values of the wrong kind are
/// reported, all of them. Objects and lists within it are checked for their shape alone; the caller descends.
pub fn check(tables: &[&'static [Field]], object: &Value, path: &Path, report: &mut Report) -> Settings {
    let fields = || tables.iter().copied().flatten();
    let Some(object) = object.as_object() else {
        report.error(path.clone(), format!("an object with fields is expected, not {}", shape(object)));
        return Settings::default();
    };
    let mut settings = Settings::default();
    let mut given: Vec<(&str, &str)> = Vec::new();
    for (name, value) in object {
        match fields().find(|field| field.is_called(name)) {
            Some(field) => {
                // Names differ in more than their case, as in Dapr.
                if let Some((_, other)) = given.iter().rev().find(|(known, _)| *known == field.name) {
                    report.error(path.field(name), format!("given twice, also as {other:?}"));
                }
                given.push((field.name, name));
                if let Some(text) = check_value(field, value, &path.field(name), report) {
                    settings.set(field.name, text);
                }
            }
            None => {
                let known: Vec<&str> = fields().filter(|field| field.has_effect()).map(|field| field.name).collect();
                report.error(path.field(name), format!("unknown field; {}", suggest(name, &known)));
            }
        }
    }
    for field in fields() {
        let given = object.keys().any(|name| field.is_called(name));
        match field.presence {
            Presence::Required if !given => {
                let text = format!("missing; {} is expected: {}", field.kind, field.meaning);
                report.error(path.field(field.name), text);
            }
            Presence::Default(default) if settings.place(field.name).is_err() => {
                settings.set(field.name, default.to_owned());
            }
            _ => {}
        }
    }
    settings
}

/// The value of a field as text, or nothing where it is not of the field's kind (reported), has no effect, or
/// holds more than a text can say (the caller descends).
fn check_value(field: &Field, value: &Value, path: &Path, report: &mut Report) -> Option<String> {
    let kind = field.kind;
    match kind {
        Kind::Ignored(why) => {
            report.warning(path.clone(), format!("has no effect: {why}"));
            return None;
        }
        Kind::Refused(why) => {
            let off = scalar(value).is_some_and(|text| text.is_empty() || parse_flag(&text) == Some(false));
            if !off {
                report.error(path.clone(), format!("not supported: {why}"));
            }
            return None;
        }
        Kind::Object(_) | Kind::Metadata if value.is_object() => return None,
        Kind::Objects(_) if value.is_array() => return None,
        Kind::Texts if value.as_array().is_some_and(|list| list.iter().all(Value::is_string)) => return None,
        _ => {}
    }
    let object = || (matches!(kind, Kind::Numbers) && value.is_object()).then(|| value.to_string());
    let refuse = |report: &mut Report| {
        let shown = match scalar(value).or_else(object) {
            Some(_) if matches!(kind, Kind::Secret) => "another value".to_owned(),
            Some(text) => format!("{text:?}"),
            None => shape(value).to_owned(),
        };
        report.error(path.clone(), format!("{kind} is expected, not {shown}"));
    };
    let Some(text) = scalar(value).or_else(object) else {
        refuse(report);
        return None;
    };
    let optional = !matches!(field.presence, Presence::Required);
    let fits = match kind {
        // An empty optional value stands for none, as in Dapr's component files.
        _ if text.is_empty() && optional => return None,
        Kind::KeyPartOrEmpty => !value.is_null() && !text.contains("||"),
        Kind::Text | Kind::Secret => !text.is_empty(),
        Kind::KeyPart => !text.is_empty() && !text.contains("||"),
        Kind::Flag => parse_flag(&text).is_some(),
        Kind::Whole(least, most) => text.parse().is_ok_and(|number: i64| (least..=most).contains(&number)),
        Kind::Time => humantime::parse_duration(&text).is_ok_and(|time| !time.is_zero()),
        Kind::Address => parse_address(&text).is_some(),
        // Each that is wrong is told, and the rest looked at.
        Kind::Addresses => {
            for part in parts(&text).filter(|part| parse_address(part).is_none()) {
                report.error(path.clone(), format!("host:port is expected between commas, not {part:?}"));
            }
            true
        }
        Kind::Numbers => parse_numbers(&text).is_some(),
        Kind::Listen => text == "off" || unix_path(&text).is_some() || parse_address(&text).is_some(),
        _ => false,
    };
    if !fits {
        refuse(report);
        return None;
    }
    Some(text)
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("a text"),
            Self::Secret => f.write_str("a text or {env: NAME}"),
            Self::KeyPart => f.write_str("a text without \"||\", which ends the prefix of a key,"),
            Self::KeyPartOrEmpty => {
                f.write_str("a text, possibly empty, without \"||\", which ends the prefix of a key,")
            }
            Self::Flag => f.write_str("true or false"),
            Self::Whole(least, i64::MAX) => write!(f, "a whole number from {least}"),
            Self::Whole(least, most) => write!(f, "a whole number from {least} to {most}"),
            Self::Time => f.write_str("a time span such as 500ms or 5s"),
            Self::Address => f.write_str("host:port"),
            Self::Addresses => f.write_str("host:port, possibly more than one with commas between,"),
            Self::Listen => f.write_str("host:port, unix:///path or off"),
            Self::Object(_) | Self::Metadata => f.write_str("an object with fields"),
            Self::Objects(_) => f.write_str("a list of objects"),
            Self::Texts => f.write_str("a list of texts"),
            Self::Numbers => f.write_str("an object of names and whole numbers, such as {\"orders\": 1000},"),
            Self::Ignored(_) | Self::Refused(_) => f.write_str("nothing"),
        }
    }
}

/// Which of the known names was meant, and all of them.
pub fn suggest(name: &str, known: &[&str]) -> String {
    let close =
        |candidate: &str| strsim::damerau_levenshtein(&candidate.to_ascii_lowercase(), &name.to_ascii_lowercase());
    let mut by_distance: Vec<(usize, &str)> = Vec::with_capacity(known.len());
    for candidate in known {
        let distance = close(candidate);
        let at = by_distance.partition_point(|(other, _)| *other <= distance);
        by_distance.insert(at, (distance, candidate));
    }
    let names = by_distance.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    match by_distance.first() {
        Some((distance, nearest)) if *distance <= 3.max(name.len() / 3) => {
            format!("did you mean {nearest:?}? Known are {names}")
        }
        _ => format!("known are {names}"),
    }
}

/// Reads an object of names and whole numbers.
fn parse_numbers(text: &str) -> Option<Vec<(String, i64)>> {
    let object: Value = serde_json::from_slice(text.as_bytes()).ok()?;
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.trim().parse().ok());
    object.as_object()?.iter().map(|(name, value)| Some((name.clone(), number(value)?))).collect()
}

/// What stands between commas.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}

/// `host:port`, the host possibly an IPv6 address in brackets.
pub fn parse_address(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host.strip_prefix('[').map_or(Some(host), |inner| inner.strip_suffix(']'))?;
    let ambiguous = bare.contains(':') && bare.len() == host.len();
    let blank = bare.is_empty() || bare.contains(char::is_whitespace) || bare.contains('/') || bare.contains(',');
    (!blank && !ambiguous).then_some((bare, port.parse().ok()?))
}

/// The path of `unix:///path`, and of `unix:/path`, as gRPC's clients write it.
pub fn unix_path(text: &str) -> Option<&str> {
    let path = text.strip_prefix("unix:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    path.starts_with('/').then_some(path)
}

fn parse_flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// The text of a value, unless it is a list or an object.
pub fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
        _ => "a single value",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FIELDS: &[Field] = &[
        Field::required("redisHost", Kind::Address, "where the server listens"),
        Field::default("redisDB", Kind::Whole(0, 15), "0", "the database"),
        Field::optional("redisPassword", Kind::Secret, "the password"),
        Field::optional("enableTLS", Kind::Flag, "whether to use TLS"),
        Field::optional("poolSize", Kind::Ignored("Envoy pools connections"), "size of the pool"),
    ];

    fn problems(document: &Value) -> Vec<String> {
        let mut report = Report::default();
        check(&[FIELDS], document, &Path::default().field("metadata"), &mut report);
        report.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn equal_settings_have_one_fingerprint() {
        let settings = |document: &Value| check(&[FIELDS], document, &Path::default(), &mut Report::default());
        let short = settings(&json!({"redisHost": "a:1", "enableTLS": true}));
        let long = settings(&json!({"REDISHOST": "a:1", "redisDB": "0", "enableTLS": "true"}));
        assert_eq!(short.fingerprint(), long.fingerprint());
        assert_ne!(short.fingerprint(), settings(&json!({"redisHost": "a:2", "enableTLS": true})).fingerprint());
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let document = json!({"redisHots": "a:1", "redisDB": 16, "enableTLS": "maybe", "poolSize": 3});
        assert_eq!(
            problems(&document),
            [
                "metadata.enableTLS: true or false is expected, not \"maybe\"",
                "metadata.poolSize: has no effect: Envoy pools connections",
                "metadata.redisDB: a whole number from 0 to 15 is expected, not \"16\"",
                "metadata.redisHots: unknown field; did you mean \"redisHost\"? \
             Known are redisHost, redisDB, redisPassword, enableTLS",
                "metadata.redisHost: missing; host:port is expected: where the server listens",
            ]
        );
    }

    #[test]
    fn names_are_compared_without_case_and_values_as_text() {
        let mut report = Report::default();
        let document = json!({"REDISHOST": "localhost:6379", "redisdb": "3", "enableTls": true});
        let settings = check(&[FIELDS], &document, &Path::default(), &mut report);
        assert!(report.0.is_empty(), "{report:?}");
        assert_eq!(settings.text("redisHost"), Some("localhost:6379"));
        assert_eq!(settings.whole("redisDB"), Some(3));
        assert!(settings.flag("enableTLS"));
    }

    #[test]
    fn a_secret_is_never_shown() {
        let found = problems(&json!({"redisHost": "a:1", "redisPassword": ["hunter2"]}));
        assert_eq!(found, ["metadata.redisPassword: a text or {env: NAME} is expected, not a list"]);
    }

    #[test]
    fn addresses() {
        assert_eq!(parse_address("localhost:6379"), Some(("localhost", 6379)));
        assert_eq!(parse_address("[::1]:6379"), Some(("::1", 6379)));
        for wrong in ["localhost", ":6379", "::1:6379", "a b:1", "http://a:1", "a:1,b:2", "a:70000"] {
            assert_eq!(parse_address(wrong), None, "{wrong}");
        }
        assert_eq!(unix_path("unix:///run/x.sock"), Some("/run/x.sock"));
        assert_eq!(unix_path("unix://x.sock"), None);
    }
}
