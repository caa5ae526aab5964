//! The reference of the configuration, `docs/configuration.md`, made from the tables that check it, and that of the HTTP API,
//! `docs/openapi.yaml` and `docs/http-api.md`, made from the rows that serve it. `make docs` (or `UPDATE=1`) writes them; without
//! it this test says whether they are what the tables say.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a test ends by a panic

use std::fs;
use std::path::Path;

use runtime_api::component::{Block, DRIVERS, Driver};
use runtime_api::config::{API, COMPONENT, FIELDS, Field, Kind, LIMITS, LISTENERS, Presence, RULE, SCOPE, SECRETS};
use serde_json::Value;

const BEGINNING: &str = "\
<!-- Written by `make docs` from the tables of fields in runtime-api; change those, or the prose in
     runtime-api/tests/reference.rs. -->

# Configuration

One document configures the runtime. People write it as `runtime.yaml`; the filter in Envoy takes the same document as
JSON, and `envoy-runtime render filter` turns the one into the other. Dapr component files and Layotto's JSON are turned
into this document first: see [quick-start-dapr.md](quick-start-dapr.md) and
[quick-start-layotto.md](quick-start-layotto.md).

`envoy-runtime check -f runtime.yaml` names every mistake at once, with file, line and column. The filter runs the same
checks when Envoy loads it, so a configuration with a mistake never gets as far as the first call.

";

const RULES: &str = "\
How values are read:

- Names of fields are compared without regard to case. A name that is in none of the tables below is an error.
- Texts, numbers and booleans stand for each other: `redisDB: 3` and `redisDB: \"3\"` mean the same, and a password may be
  `007` without quotes. Only `~` and `null` need quotes where a text is meant: without them they are nothing.
- A field that may be left out and is empty counts as absent, as in Dapr's component files.
- `true` may also be written `t`, `yes`, `y`, `on` or `1`; `false` also `f`, `no`, `n`, `off` or `0`.
- A time span is a number with a unit: `500ms`, `5s`, `2m`. Zero is not allowed.
- An address is `host:port`; an IPv6 address goes into brackets, `[::1]:6379`.
- A secret is a text, or `{env: NAME}`: the variable of that name in Envoy's environment holds it then. Either way it is
  never shown, and never part of Envoy's configuration: see [secrets.md](secrets.md).
- Texts that become part of keys in a store cannot hold `||`, which separates the prefix of a key from the key.

An example, [`envoy-configs/redis.yaml`](../envoy-configs/redis.yaml):

";

const EXAMPLE: &str = include_str!("../../envoy-configs/redis.yaml");

const TOKEN: &str = "\
If `apiToken` is absent and the environment variable `DAPR_API_TOKEN` is set where `envoy-runtime` runs, that is the
token.

";

const LISTENING: &str = "\
Each is `host:port`, `unix:///path` of a Unix socket, or `off`. The host is an IP address or `localhost`, which is
127.0.0.1. No two may be the same. Both dialects answer on both gRPC listeners. What is in the place of a Unix socket and is
none is refused, since Envoy would remove it. `envoy-runtime run` makes `admin` a Unix socket in a folder that nobody else can
look into, unless an address is given: who reaches it can stop Envoy. The flags `--layotto-port`, `--dapr-grpc-port`,
`--dapr-http-port` and `--admin-port` go before what is written here.

";

const BOUNDS: &str = "\
An app sets the deadline of a call with its gRPC client (`grpc-timeout` on the wire); `timeout` holds where it did not. It
is also how long a server behind a connection may owe a reply before the connection is given up. Envoy itself ends a call without a
deadline about which nothing has happened for `timeout` and ten seconds more, and one with a deadline after five minutes of that,
however long the deadline is (`stream_idle_timeout` and `idle_timeout` in the rendered listener).

";

const APIS: &str = "\
What is not allowed is answered as if it were not there: UNIMPLEMENTED, or over HTTP a plain 404. Health is always answered. With
Dapr's files the two lists may also stand in a document of the kind `Configuration`, as `spec.api`; `--allowed-origins` goes before
what is written here. More is in [http-api.md](http-api.md).

";

const SCOPES: &str = "\
A secret that the app may not read is refused with PERMISSION_DENIED, and left out of a bulk. With Dapr's files the scopes
may also stand in a document of the kind `Configuration`: see [secrets.md](secrets.md#scopes).

";

const COMPONENTS: &str = "\
Names must differ within a building block. A component whose `scopes` do not hold the `appId` is not looked into and
left out. Without `cluster`, `envoy-runtime render` adds a cluster called `runtime.<building block>.<name>` for a driver with a
server, such as `runtime.state.statestore`; what a `cluster` of your own needs is in
[quick-start-envoy.md](quick-start-envoy.md#a-cluster-of-your-own).

";

const IGNORED: &str = "\
Accepted without effect, with a warning, so that configurations that exist can be used as they are:

";

const REFUSED: &str = "\
Refused when set, since to go on without it would break a promise:

";

/// What a table of fields cannot say: rules between fields, and things to know about a driver.
const NOTES: &[(&str, &str)] = &[
    ("state.redis", REDIS),
    ("state.in-memory", IN_MEMORY),
    ("state.memcached", MEMCACHED),
    ("lock.in-memory", LOCK_IN_MEMORY),
    ("lock.redis", REDIS),
    ("lock.redis.cluster", REDLOCK),
    ("sequencer.in-memory", SEQUENCER_IN_MEMORY),
    ("sequencer.redis", REDIS),
    ("state.etcd", ETCD),
    ("lock.etcd", ETCD_LOCK),
    ("sequencer.etcd", ETCD_SEQUENCER),
    ("configuration.etcd", ETCD_CONFIGURATION),
    ("configuration.in-memory", CONFIGURATION_IN_MEMORY),
];

const REDIS: &str = "\
`redisUsername` needs `redisPassword`; `clientCert` and `clientKey` need each other; these two and `caCert` need
`enableTLS: true`. The three are paths of files on the machine that runs Envoy. With TLS the certificate of the server
must be for the host in `redisHost`. `redisType` must be `node`.

";

const ETCD: &str = "\
The version of the component (`version: v2`) chooses how items lie in etcd: see [state.md](state.md#in-etcd). `endpoints` may
have `http://` in front of each; with semicolons between them they are read as well. All members get one cluster, and with TLS
the certificate of each must be for one of the hosts. `username` needs `password`; `cert` and `key` need each other; these two
and `ca` need `tlsEnable: true`. The three are paths of files on the machine that runs Envoy.

";

const ETCD_LOCK: &str = "\
A lock is the key `<keyPrefixPath>lock|||<app>||<resource>` with the owner as its value, under a lease, as Layotto writes it.
etcd grants no lease of less than two seconds by default. The fencing token is the revision at which the lock was taken. Each
renewal is a new lease. For endpoints, logins and TLS see [state.etcd](#metadata-of-stateetcd); one of `tlsCa`, `tlsCert` and
`tlsCertKey` is enough for TLS.

";

const ETCD_SEQUENCER: &str = "\
An id is how often the key `<keyPrefixPath>sequencer|||<app>||<key>` was written, as in Layotto: it rises by one, and begins at 1
again if the key is deleted. Ids cannot be had many at a time, so WEAK is as STRONG. They cannot be raised either: where
`biggerThan` asks for more than the last id, the call fails and says so. Each id is a revision in etcd, which an operator has to
compact as usual.

";

const ETCD_CONFIGURATION: &str = "\
An item is the key `/<app>/<group>/<label>/<key>` with its content, and each tag a key below with the value of the tag, so no part
may have a `/` in it. What Layotto wrote is read; of its tags it keeps no names, so the value of a tag stands for the name
and the content for the value, as Layotto reads them itself. A save replaces the tags of an item. All subscriptions of a
worker share one stream to etcd; when it is lost they go on where they were, even if etcd has compacted what was between.

";

const IN_MEMORY: &str = "\
What is stored lives as long as Envoy does: a new configuration leaves it, a restart does not. See [state.md](state.md).

";

const MEMCACHED: &str = "\
Values lie in memcached as they are, without etags and transactions. With several `hosts` each key has one of them, by its
checksum; each has a cluster of its own: `runtime.state.<name>` leads to the first, `runtime.state.<name>.2` to the second, and
so on; `cluster` stands for the first alone. See [state.md](state.md#in-memcached).

";

const CONFIGURATION_IN_MEMORY: &str = "\
It has no fields of its own. Items live as long as Envoy does. See [configuration-api.md](configuration-api.md).

";

const LOCK_IN_MEMORY: &str = "\
It has no fields of its own. Locks live as long as Envoy does and exclude only apps behind the same Envoy. See
[lock.md](lock.md).

";

const REDLOCK: &str = "\
Layotto's type is `redis_cluster`. The rules between fields are those of [`lock.redis`](#metadata-of-lockredis); login,
database and TLS hold for all servers. Each server has a cluster of its own: `runtime.lock.<name>` leads to the first,
`runtime.lock.<name>.2` to the second, and so on; `cluster` stands for the first alone. See
[lock.md](lock.md#several-redis-servers).

";

const SEQUENCER_IN_MEMORY: &str = "\
It has no fields of its own. Ids begin anew when Envoy is restarted. See [sequencer.md](sequencer.md).

";

fn page() -> String {
    let mut page = [BEGINNING, RULES, "```yaml\n", EXAMPLE, "```\n\n## The document\n\n"].concat();
    page += &table(FIELDS, "");
    page += TOKEN;
    page += "## listeners\n\n";
    page += &table(LISTENERS, "");
    page += LISTENING;
    page += "## limits\n\n";
    page += &table(LIMITS, "");
    page += BOUNDS;
    page += "## api\n\n";
    page += &table(API, "");
    page += "Each of what is allowed and denied:\n\n";
    page += &table(RULE, "");
    page += APIS;
    page += "## secrets\n\n";
    page += &table(SECRETS, "");
    page += "Each of the scopes:\n\n";
    page += &table(SCOPE, "");
    page += SCOPES;
    page += "## components\n\n";
    page += &table(COMPONENT, "");
    page += COMPONENTS;
    page += "The values of `type`:\n\n| Type | Driver |\n|---|---|\n";
    let row = |driver: &Driver| format!("| [`{}`](#{}) | {} |\n", driver.kind, anchor(driver.kind), driver.meaning);
    page.extend(DRIVERS.iter().map(row));
    for (at, driver) in DRIVERS.iter().enumerate() {
        if DRIVERS.iter().take(at).all(|earlier| earlier.block != driver.block) {
            page += &block(driver.block);
        }
    }
    page
}

/// A building block: what all of its drivers have, and each of them.
fn block(block: Block) -> String {
    let name = block.name();
    let mut page = match block.fields() {
        [] => "\n".to_owned(),
        shared => format!("\n## metadata of every {name} component\n\n") + &fields(shared),
    };
    for driver in DRIVERS.iter().filter(|driver| driver.block == block) {
        page += &section(driver);
    }
    page
}

fn section(driver: &Driver) -> String {
    let Driver { kind, meaning, .. } = driver;
    let capabilities: Vec<String> = driver.capabilities.iter().map(|capability| format!("`{capability}`")).collect();
    let capabilities = if capabilities.is_empty() { "none".to_owned() } else { capabilities.join(", ") };
    let mut page =
        format!("## metadata of {kind}\n\n{meaning}\n\nGetMetadata tells its capabilities: {capabilities}.\n\n");
    page += &fields(driver.fields);
    page += NOTES.iter().find(|(kind, _)| *kind == driver.kind).map_or("", |(_, note)| note);
    page
}

/// All fields of a table, apart by whether they do anything.
fn fields(fields: &[Field]) -> String {
    let mut page = table(fields, "");
    let ignored = table(fields, "ignored");
    if !ignored.is_empty() {
        page += IGNORED;
        page += &ignored;
    }
    let refused = table(fields, "refused");
    if !refused.is_empty() {
        page += REFUSED;
        page += &refused;
    }
    page
}

/// The fields with this effect as a table; nothing if there are none.
fn table(fields: &[Field], effect: &str) -> String {
    let row = |field: &Field| {
        let Field { name, kind, presence, meaning } = field;
        let (its_effect, values) = values(*kind);
        // A pipe ends a cell, also between backticks.
        let (values, meaning) = (values.replace('|', "\\|"), meaning.replace('|', "\\|"));
        (its_effect == effect).then(|| match effect {
            "" => format!("| `{name}` | {values} | {} | {meaning} |\n", default(*presence)),
            _ => format!("| `{name}` | {meaning} | {values} |\n"),
        })
    };
    let rows: String = fields.iter().filter_map(row).collect();
    let head = match effect {
        _ if rows.is_empty() => return rows,
        "" => "| Field | Value | Default | Meaning |\n|---|---|---|---|\n",
        _ => "| Field | Meaning elsewhere | Why not here |\n|---|---|---|\n",
    };
    format!("{head}{rows}\n")
}

/// What effect a field has and what it may hold, or why it has none. No arm for the rest: a new kind needs its words.
fn values(kind: Kind) -> (&'static str, String) {
    let text = match kind {
        Kind::Ignored(why) => return ("ignored", why.to_owned()),
        Kind::Refused(why) => return ("refused", why.to_owned()),
        Kind::Text => "text".to_owned(),
        Kind::KeyPart => "text without `||`".to_owned(),
        Kind::KeyPartOrEmpty => "text without `||`, possibly empty".to_owned(),
        Kind::Secret => "secret: text, or `{env: NAME}`".to_owned(),
        Kind::Flag => "`true` or `false`".to_owned(),
        Kind::Whole(least, i64::MAX) => format!("whole number from {least}"),
        Kind::Whole(least, most) => format!("whole number, {least} to {most}"),
        Kind::Time => "time span".to_owned(),
        Kind::Address => "`host:port`".to_owned(),
        Kind::Addresses => "`host:port`, commas between".to_owned(),
        Kind::Listen => "`host:port`, `unix:///path` or `off`".to_owned(),
        Kind::Object(_) | Kind::Metadata => "object, see below".to_owned(),
        Kind::Objects(_) => "list of objects, see below".to_owned(),
        Kind::Texts => "list of texts".to_owned(),
        Kind::Numbers => "object of names and whole numbers, or the same as JSON text".to_owned(),
    };
    ("", text)
}

fn default(presence: Presence) -> String {
    match presence {
        Presence::Required => "**required**".to_owned(),
        Presence::Optional => String::new(),
        Presence::Default(default) => format!("`{default}`"),
    }
}

/// Where a Markdown viewer finds the section of a driver.
fn anchor(kind: &str) -> String {
    format!("metadata-of-{}", kind.replace('.', ""))
}

/// What stands in front of the requests of the HTTP API, and behind them.
const HTTP: (&str, &str) = (include_str!("http-api/before.txt"), include_str!("http-api/after.txt"));

/// The page about the HTTP API.
fn http_page() -> String {
    let description = runtime_api::api::openapi();
    let mut rows: Vec<(String, String, String)> = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let block = operation["tags"][0].as_str().unwrap().to_owned();
            let request = format!("`{} {path}`", method.to_uppercase());
            rows.push((block, request, operation["summary"].as_str().unwrap().to_owned()));
        }
    }
    rows.sort();
    let rows: Vec<String> =
        rows.iter().map(|(block, request, summary)| format!("| {block} | {request} | {summary} |\n")).collect();
    let head = "| Building block | Request | What it does |\n|---|---|---|\n";
    format!("{}{head}{}{}", HTTP.0, rows.concat(), HTTP.1)
}

/// The description of the HTTP API for those who read it and for tools.
fn description() -> String {
    let beginning = "# Written by `make docs` from the rows of the building blocks in runtime-api/src/api; the runtime serves the same\n\
                     # at /v1.0/openapi.json.\n";
    beginning.to_owned() + &serde_saphyr::to_string(&runtime_api::api::openapi()).unwrap()
}

/// Compares a file of the documentation with what it should be, or writes it.
fn in_step(name: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    let made = made.trim_end().to_owned() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, made).unwrap();
        return;
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let at = there.lines().zip(made.lines()).position(|(there, made)| there != made);
    let at = at.unwrap_or_else(|| there.lines().count().min(made.lines().count()));
    let (old, new) = (there.lines().nth(at).unwrap_or("the end"), made.lines().nth(at).unwrap_or("the end"));
    assert!(
        there == made,
        "docs/{name} is out of date; `make docs` writes it. Line {} is\n  {old}\nand should be\n  {new}",
        at + 1
    );
}

#[test]
fn the_reference_is_what_the_tables_say() {
    in_step("configuration.md", &page());
}

#[test]
fn the_description_of_the_http_api_is_what_the_rows_say() {
    let made = description();
    assert_eq!(serde_saphyr::from_str::<Value>(&made).unwrap(), runtime_api::api::openapi(), "YAML says the same");
    in_step("openapi.yaml", &made);
    in_step("http-api.md", &http_page());
}

#[test]
fn each_driver_is_registered_once() {
    let mut kinds: Vec<&str> = DRIVERS.iter().map(|driver| driver.kind).collect();
    kinds.sort_unstable();
    let count = kinds.len();
    kinds.dedup();
    assert_eq!(kinds.len(), count, "{kinds:?}");
}
