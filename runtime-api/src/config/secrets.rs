//! Secrets in a document, and what may stand in their place: the name of a variable in the environment of Envoy, which
//! holds the value. The document travels through files, Envoy's configuration and its dumps; the environment does not.
//!
//! One walk over the tables of fields finds every [`Kind::Secret`]. The CLI puts references in the place of values by
//! it, and the filter values in the place of references, before anything else is read.

use serde_json::{Map, Value};

use super::field::{Field, Kind, Path, Report, scalar};
use super::{FIELDS, get, get_mut, is_for};
use crate::component::DRIVERS;

/// The one field of a reference.
const ENV: &str = "env";

/// What stands for a value that only the environment of Envoy has, where a document is checked elsewhere. It is an
/// empty object in JSON, so that it passes for a value wherever one is read.
const ELSEWHERE: &str = "{}";

/// A reference to a variable, as it stands in a document.
pub fn reference(variable: &str) -> Value {
    Value::Object(Map::from_iter([(ENV.to_owned(), Value::String(variable.to_owned()))]))
}

/// The variable that a value refers to, if it is a reference.
pub fn variable(value: &Value) -> Option<&str> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    let name = object.iter().find(|(name, _)| name.eq_ignore_ascii_case(ENV))?.1.as_str()?;
    (!name.is_empty() && !name.contains(['=', '\0'])).then_some(name)
}

/// The variables that a document refers to, each once, in the order of the document.
pub fn variables(document: &Value) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    each_secret(&mut document.clone(), &mut |_, value| {
        if let Some(name) = variable(value).filter(|name| !found.iter().any(|known| known == name)) {
            found.push(name.to_owned());
        }
    });
    found
}

/// Hands every value of a secret field to `visit`, with its path; not those of components for other apps.
pub fn each_secret(document: &mut Value, visit: &mut dyn FnMut(&Path, &mut Value)) {
    walk(&[FIELDS], document, &Path::default(), visit);
    let app_id = get(document, "appId").and_then(scalar).unwrap_or_default();
    let components = get_mut(document, "components").and_then(Value::as_array_mut);
    let path = Path::default().field("components");
    for (index, component) in components.map(Vec::as_mut_slice).unwrap_or_default().iter_mut().enumerate() {
        let kind = get(component, "type").and_then(Value::as_str).unwrap_or_default();
        let driver = DRIVERS.iter().find(|driver| driver.kind.eq_ignore_ascii_case(kind));
        let Some(driver) = driver.filter(|_| is_for(component, &app_id)) else { continue };
        if let Some(metadata) = get_mut(component, "metadata") {
            let tables = [driver.block.fields(), driver.fields];
            walk(&tables, metadata, &path.index(index).field("metadata"), visit);
        }
    }
}

fn walk(tables: &[&'static [Field]], object: &mut Value, path: &Path, visit: &mut dyn FnMut(&Path, &mut Value)) {
    let Some(object) = object.as_object_mut() else { return };
    for (name, value) in object {
        let fields = tables.iter().copied().flatten();
        let Some(field) = fields.into_iter().find(|field| field.is_called(name)) else { continue };
        let path = path.field(name);
        match field.kind {
            Kind::Secret => visit(&path, value),
            Kind::Object(fields) => walk(&[fields], value, &path, visit),
            Kind::Objects(fields) => {
                let elements = value.as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
                for (index, element) in elements.iter_mut().enumerate() {
                    walk(&[fields], element, &path.index(index), visit);
                }
            }
            _ => {}
        }
    }
}

/// Where the values of references come from.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Puts values in the place of references. Without an environment each counts as set.
pub(super) fn resolve(document: &mut Value, environment: Option<Variables<'_>>, report: &mut Report) {
    each_secret(document, &mut |path, value| {
        let Some(name) = variable(value) else { return };
        let text = environment.map_or_else(|| Some(ELSEWHERE.to_owned()), |environment| environment(name));
        if text.as_ref().is_none_or(String::is_empty) {
            report.error(
                path.clone(),
                format!(
                    "the variable {name} is not set in the environment of Envoy; it is to hold this secret, and is to \
                     be set before Envoy starts"
                ),
            );
        }
        *value = Value::String(text.filter(|text| !text.is_empty()).unwrap_or_else(|| ELSEWHERE.to_owned()));
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Config;
    use super::*;

    fn document() -> Value {
        let redis = json!({"redisHost": "redis:6379", "redisPASSWORD": {"env": "REDIS"}});
        json!({
            "appId": "a",
            "apiToken": {"env": "TOKEN"},
            "components": [
                {"name": "m", "type": "state.in-memory"},
                {"name": "s", "type": "state.redis", "metadata": redis},
                {"name": "t", "type": "state.redis", "metadata": redis},
            ],
        })
    }

    #[test]
    fn references_become_what_the_environment_has() {
        let environment = |name: &str| Some(format!("value of {name}"));
        let (config, report) = Config::load(&document(), &environment);
        let config = config.unwrap();
        assert!(report.0.is_empty(), "{report:?}");
        assert!(config.api_token.unwrap().is("value of TOKEN"));
        assert_eq!(config.components[1].settings.text("redisPassword"), Some("value of REDIS"));
        assert_eq!(variables(&document()), ["TOKEN", "REDIS"]);
    }

    #[test]
    fn a_variable_that_is_not_set_refuses_the_configuration_with_its_field() {
        let environment = |name: &str| (name == "TOKEN").then(String::new);
        let (config, report) = Config::load(&document(), &environment);
        assert!(config.is_none());
        let said: Vec<String> = report.0.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].starts_with("apiToken: the variable TOKEN is not set"), "{said:?}");
        assert!(said[1].starts_with("components[1].metadata.redisPASSWORD: the variable REDIS is not set"), "{said:?}");
    }

    #[test]
    fn elsewhere_a_reference_counts_as_set() {
        let (config, report) = Config::check(&document());
        assert!(config.is_some() && report.0.is_empty(), "{report:?}");
    }

    #[test]
    fn what_is_no_reference_is_no_secret_either() {
        for wrong in
            [json!({"env": ""}), json!({"env": "A=B"}), json!({"env": 1}), json!({"env": "A", "b": 1}), json!({})]
        {
            let (config, report) = Config::check(&json!({"appId": "a", "apiToken": wrong}));
            let said: Vec<String> = report.0.iter().map(ToString::to_string).collect();
            assert!(config.is_none());
            assert_eq!(said, ["apiToken: a text or {env: NAME} is expected, not an object"]);
        }
    }
}
