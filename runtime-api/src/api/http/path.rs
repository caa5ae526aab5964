//! Where a path leads.

use http::Method;

use crate::api::ROOMS;
use crate::api::room::Path;

/// What there is for a request.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A row, the number of its room, and what stands for the parts in braces, still encoded.
    Row { row: &'static Path, room: usize, parts: Vec<&'a str> },
    /// Rows that have the path, and another method.
    Wrong(Vec<&'static Path>),
    /// Nothing.
    None,
}

impl Found<'_> {
    /// The methods that the path takes, where that of the request is none of them.
    pub(super) fn methods(&self) -> Vec<&'static str> {
        let Self::Wrong(rows) = self else { return Vec::new() };
        let mut methods: Vec<&str> = rows.iter().flat_map(|row| row.methods).copied().collect();
        methods.sort_unstable();
        methods.dedup();
        methods
    }

    pub(super) fn row(&self) -> Option<&'static Path> {
        match self {
            Self::Row { row, .. } => Some(row),
            Self::Wrong(_) | Self::None => None,
        }
    }
}

/// The row that a request is for.
pub(super) fn find<'a>(method: &Method, path: &[&'a str]) -> Found<'a> {
    // What is not asked for by its own name: a request for the headers alone.
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let Some((version, rest)) = path.split_first() else { return Found::None };
    let mut others = Vec::new();
    for (room, rows) in ROOMS.iter().enumerate() {
        for row in rows.paths.iter().filter(|row| row.versions.contains(version)) {
            let Some(parts) = parts(row.form, rest) else { continue };
            if row.methods.contains(&method) {
                return Found::Row { row, room, parts };
            }
            others.push(row);
        }
    }
    if others.is_empty() { Found::None } else { Found::Wrong(others) }
}

/// The parts of a path as Dapr's router takes it: empty ones and dots do not count, and two dots take one back.
pub(super) fn segments(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}

/// What stands for the parts in braces of a form; `None` if the path is not of that form.
fn parts<'a>(form: &str, path: &[&'a str]) -> Option<Vec<&'a str>> {
    let mut path = path.iter();
    let mut parts = Vec::new();
    for expected in form.split('/') {
        let part = *path.next()?;
        if expected.starts_with('{') {
            parts.push(part);
        } else if part != expected {
            return None;
        }
    }
    path.next().is_none().then_some(parts)
}

/// What there is near a path that leads nowhere: all of its building block, or else the names of the blocks.
pub(super) fn served_instead(path: &[&str]) -> String {
    let all = || ROOMS.iter().flat_map(|room| room.paths);
    let near: Vec<String> = all()
        .filter(|row| path.contains(&row.group()))
        .flat_map(|row| row.versions.iter().map(|version| line(row, version)))
        .collect();
    if !near.is_empty() {
        return format!("there is {}", near.join("; "));
    }
    let mut groups: Vec<&str> = all().map(Path::group).collect();
    groups.sort_unstable();
    groups.dedup();
    format!("there are {} behind a version, and GET /v1.0/openapi.json describes them", groups.join(", "))
}

fn line(row: &Path, version: &str) -> String {
    format!("{} /{version}/{}", row.methods.join(" or "), row.form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts_of(form: &str, path: &str) -> Option<String> {
        parts(form, &segments(path)).map(|parts| parts.join(" "))
    }

    #[test]
    fn parts_of_paths() {
        assert_eq!(parts_of("healthz", "healthz"), Some(String::new()));
        assert_eq!(parts_of("healthz", "healthz/outbound"), None);
        assert_eq!(parts_of("healthz/outbound", "healthz"), None);
        assert_eq!(parts_of("state/{store}/{key}", "state/s/k"), Some("s k".to_owned()));
        assert_eq!(parts_of("state/{store}/{key}", "state/s/a%2Fb"), Some("s a%2Fb".to_owned()));
        assert_eq!(parts_of("state/{store}/{key}", "state/s/k/"), Some("s k".to_owned()));
        assert_eq!(parts_of("state/{store}/{key}", "/./state//x/../s/k"), Some("s k".to_owned()));
        assert_eq!(parts_of("state/{store}/{key}", "state/s/a/b"), None);
        assert_eq!(parts_of("state/{store}/{key}", "state/s/.."), None);
        assert_eq!(parts_of("state/{store}/bulk", "state/s/bulk"), Some("s".to_owned()));
        assert_eq!(parts_of("state/{store}/bulk", "state/s/other"), None);
    }

    #[test]
    fn a_request_leads_to_one_row_and_head_to_that_of_get() {
        let name = |method: Method, path: &'static str| match find(&method, &segments(path)) {
            Found::Row { row, .. } => row.name,
            Found::Wrong(_) => "wrong",
            Found::None => "none",
        };
        assert_eq!(name(Method::GET, "/v1.0/state/s/bulk"), "GetState", "a key may be called so");
        assert_eq!(name(Method::POST, "/v1.0/state/s/bulk"), "GetBulkState");
        assert_eq!(name(Method::HEAD, "/v1.0/state/s/k"), "GetState");
        assert_eq!(name(Method::GET, "/v1.0/secrets/s/bulk"), "GetBulkSecret");
        assert_eq!(name(Method::GET, "/v1.0/secrets/s/k"), "GetSecret");
        assert_eq!(name(Method::PATCH, "/v1.0/state/s"), "wrong");
        assert_eq!(name(Method::GET, "/V1.0/state/s/k"), "none");
        assert_eq!(name(Method::POST, "/v1.0/lock/s"), "none", "it is v1.0-alpha1");
        assert_eq!(find(&Method::GET, &segments("/v1.0/state/s")).methods(), ["POST", "PUT"]);
    }

    #[test]
    fn what_there_is_instead() {
        let near = served_instead(&segments("/v1.0/lock/s"));
        assert!(near.starts_with("there is POST /v1.0-alpha1/lock/{store}"), "{near}");
        assert!(served_instead(&segments("/bogus")).contains("state"));
    }
}
