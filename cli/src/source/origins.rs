//! Where the values of the one document come from, and what the user calls them there.

use runtime_api::config::{Path, Step};

use super::Spot;

/// How the user's own file names what is below a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Children {
    /// As fields: `metadata.redisHost`.
    Fields,
    /// As elements of a list with a name and a value, as in Dapr's component files: `metadata[redisHost].value`.
    NamedItems,
}

/// One value of the document.
#[derive(Debug)]
struct Origin {
    path: Path,
    spot: Spot,
    field: String,
    children: Children,
}

/// All values of the document of which the place is known; the root is always among them.
#[derive(Debug)]
pub(super) struct Origins {
    root: Origin,
    others: Vec<Origin>,
}

impl Origins {
    /// Only the root.
    pub(super) fn new(spot: Spot, children: Children) -> Self {
        Self { root: Origin { path: Path::default(), spot, field: String::new(), children }, others: Vec::new() }
    }

    /// Says where the value at `path` was written and what it is called there. What was said before is forgotten.
    pub(super) fn add(&mut self, path: Path, spot: Spot, field: String, children: Children) {
        let origin = Origin { path, spot, field, children };
        if origin.path.0.is_empty() {
            self.root = origin;
            return;
        }
        self.others.retain(|other| !same(&other.path.0, &origin.path.0));
        self.others.push(origin);
    }

    /// The place of the value at `path` and its name there. A value that is missing is looked for where the next
    /// larger one is that exists.
    pub(super) fn locate(&self, path: &Path) -> (Spot, String) {
        let known = (0..=path.0.len()).rev().find_map(|length| {
            let (above, below) = path.0.split_at(length);
            let origin = self.others.iter().find(|origin| same(&origin.path.0, above))?;
            Some((origin, below))
        });
        let (origin, below) = known.unwrap_or((&self.root, &path.0));
        let mut field = origin.field.clone();
        for (depth, step) in below.iter().enumerate() {
            let named_item = depth == 0 && origin.children == Children::NamedItems;
            match step {
                Step::Field(name) if named_item => field.extend(["[", name, "].value"]),
                Step::Field(name) if field.is_empty() => field.push_str(name),
                Step::Field(name) => field.extend([".", name]),
                Step::Index(index) => field.extend(["[", &index.to_string(), "]"]),
            }
        }
        (origin.spot.clone(), field)
    }
}

/// Whether two paths lead to the same place; names are compared without regard to case.
fn same(a: &[Step], b: &[Step]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|steps| match steps {
            (Step::Field(a), Step::Field(b)) => a.eq_ignore_ascii_case(b),
            (a, b) => a == b,
        })
}
