//! A certificate authority and a certificate for localhost, made on the spot by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Files in PEM.
#[derive(Debug)]
pub struct Certificates {
    /// The certificate of the authority.
    pub authority: PathBuf,
    /// The certificate of the server.
    pub certificate: PathBuf,
    /// The private key of the server.
    pub key: PathBuf,
}

/// Makes them in `directory`.
pub fn make(directory: &Path) -> Certificates {
    let file = |name: &str| directory.join(name);
    let authority_key = file("authority.key");
    let files =
        Certificates { authority: file("authority.pem"), certificate: file("server.pem"), key: file("server.key") };
    openssl(|command| {
        command.args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-authority".split(' '),
        );
        command.arg("-keyout").arg(&authority_key).arg("-out").arg(&files.authority)
    });
    openssl(|command| {
        command.args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost".split(' '),
        );
        command.args(
            "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE".split(' '),
        );
        command.arg("-CA").arg(&files.authority).arg("-CAkey").arg(&authority_key);
        command.arg("-keyout").arg(&files.key).arg("-out").arg(&files.certificate)
    });
    files
}

fn openssl(arguments: impl FnOnce(&mut Command) -> &mut Command) {
    let output =
        arguments(&mut Command::new("openssl")).output().expect("openssl is installed: `make tools` installs it");
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
}
