//! Secrets.

use futures::FutureExt;
use integration_tests::kubernetes::{self, Kubernetes};
use integration_tests::vault::{self, Vault};
use integration_tests::{Client, Config, Dialect, Envoy, scratch};
use tonic::Code;

use crate::{Difference, NAMES, Row, row, try_all};

/// A secret store.
struct Secrets {
    client: Client,
    component: &'static str,
}

impl Secrets {
    async fn get(&self, name: &str) -> String {
        let request = envoy_runtime_proto::dapr::runtime::v1::GetSecretRequest {
            store_name: self.component.to_owned(),
            key: name.to_owned(),
            ..Default::default()
        };
        match self.client.get_secret(request).await {
            Ok(answer) if answer.data.iter().eq([(&name.to_owned(), &String::new())]) => "an empty value".to_owned(),
            Ok(answer) => format!("{:?}", answer.data),
            Err(status) if status.code() == Code::Internal && status.message().contains("not found") => {
                "not found".to_owned()
            }
            Err(status) => format!("{:?}", status.code()),
        }
    }
}

fn secret_rows() -> Vec<Row<Secrets>> {
    let mut rows: Vec<Row<Secrets>> = vec![
        row::<Secrets>("a secret", r#"{"there": "v"}"#, |secrets, _| async move { secrets.get("there").await }.boxed()),
        row::<Secrets>("an empty secret", "an empty value", |secrets, _| {
            async move { secrets.get("empty").await }.boxed()
        }),
    ];
    for name in ["", "gone"].map(str::to_owned).into_iter().chain(NAMES.map(str::to_owned)).chain(["k".repeat(2_000)]) {
        let shown: String = name.chars().take(20).collect();
        rows.push(row::<Secrets>(format!("name {shown:?}"), "not found", move |secrets, _| {
            let name = name.clone();
            async move { secrets.get(&name).await }.boxed()
        }));
    }
    rows
}

const SECRETS_DIFFERENCES: &[Difference] = &[
    ("name", "env", "an empty value", "as with both incumbents: a variable that is not set is an empty one"),
    ("name \"\"", "vault", "InvalidArgument", "a path without names would list the folder"),
    ("name \"/\"", "vault", "InvalidArgument", "the same"),
    ("name \"..\"", "vault", "InvalidArgument", "it would lead out of the folder of the app"),
    ("name \"\"", "kubernetes", "Internal", "a path without a name would list all secrets"),
];

#[tokio::test]
async fn the_drivers_of_secrets_agree() {
    let scratch = scratch::directory("odd-secrets");
    let path = scratch.path().join("secrets.json");
    std::fs::write(&path, r#"{"there": "v", "empty": ""}"#).unwrap();
    let vault = Vault::start(vault::Options::default()).await;
    vault.put("dapr/there", &[("there", "v")]);
    vault.put("dapr/empty", &[("empty", "")]);
    vault.add_token("token", &["secret/"]);
    let kubernetes = Kubernetes::start(kubernetes::Options { tls: true }).await;
    kubernetes.put("default", "there", &[("there", "v")]);
    kubernetes.put("default", "empty", &[("empty", "")]);
    kubernetes.add_token("account", "app", &["default"]);
    let config = Config::new("orders")
        .variable("ODD_there", "v")
        .variable("ODD_empty", "")
        .component("file", "secretstores.local.file", &[("secretsFile", path.to_str().unwrap())])
        .component("env", "secretstores.local.env", &[("prefix", "ODD_")])
        .component(
            "vault",
            "secretstores.hashicorp.vault",
            &[("vaultAddr", &vault.server.url()), ("vaultToken", "token")],
        )
        .component(
            "kubernetes",
            "secretstores.kubernetes",
            &[
                ("server", &kubernetes.server.url()),
                ("caCert", kubernetes.service_account().join("ca.crt").to_str().unwrap()),
                ("token", "account"),
            ],
        );
    let envoy = Envoy::start(config).await;
    let client = envoy.client(Dialect::Dapr).await;
    let drivers = ["file", "env", "vault", "kubernetes"]
        .map(|component| (component, Secrets { client: client.clone(), component }));
    try_all(&drivers, secret_rows(), SECRETS_DIFFERENCES).await;
    envoy.assert_no_filter_crashed().await;
}
