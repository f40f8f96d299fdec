//! Tokens, keys and kubeconfigs of a control plane.
//!
//! The token of a user is the user's name. This is safe, because only this machine can reach the
//! API server.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const ADMIN: (&str, &str) = ("admin", "system:masters");
/// The names of the components kube-controller-manager and kube-scheduler. The API server has
/// built-in roles for them, and each name is also the name of a kubeconfig.
pub(super) const CONTROLLERS: &str = "kube-controller-manager";
pub(super) const SCHEDULER: &str = "kube-scheduler";

/// Writes the files that the API server reads when it starts, and a kubeconfig with all rights.
/// `users` has the name of each user, and the groups of the user, separated by commas.
pub(super) fn write(
    directory: &Path,
    server: SocketAddr,
    users: &[(String, String)],
) -> Result<()> {
    let mut tokens = String::new();
    let components = [CONTROLLERS, SCHEDULER].map(|name| (format!("system:{name}"), String::new()));
    let admin = [(ADMIN.0.to_owned(), ADMIN.1.to_owned())];
    for (user, groups) in admin.iter().chain(&components).chain(users) {
        tokens.push_str(&format!("{user},{user},{user},\"{groups}\"\n"));
    }
    let file = directory.join("tokens.csv");
    fs::write(&file, tokens).with_context(|| format!("cannot write {}", file.display()))?;
    write_kubeconfig(directory, ADMIN.0, server, ADMIN.0)?;
    // The API server signs and verifies the tokens of ServiceAccounts with the key that this
    // command creates.
    let output = Command::new("openssl")
        // `openssl ecparam` writes the key as `EC PRIVATE KEY`. In the format PKCS #8,
        // `--service-account-key-file` would not accept an EC key.
        .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout"])
        .arg("-out")
        .arg(service_account_key(directory))
        .output()
        .context("cannot start openssl")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "openssl ecparam failed: {}",
        stderr.trim()
    );
    Ok(())
}

/// Returns the path of the file with the certificate of the API server and the certificate of its
/// authority. If the file does not exist, the API server creates it at its start.
pub(super) fn authority(directory: &Path) -> PathBuf {
    directory.join("certificates/apiserver.crt")
}

pub(super) fn remove_authority(directory: &Path) -> Result<()> {
    let certificates = directory.join("certificates");
    fs::remove_dir_all(&certificates)
        .with_context(|| format!("cannot remove {}", certificates.display()))
}

pub(super) fn api_server_options(directory: &Path) -> Vec<String> {
    let key = service_account_key(directory);
    vec![
        format!("--cert-dir={}", directory.join("certificates").display()),
        format!(
            "--token-auth-file={}",
            directory.join("tokens.csv").display()
        ),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", key.display()),
        format!("--service-account-signing-key-file={}", key.display()),
    ]
}

pub(super) fn controller_options(directory: &Path) -> Vec<String> {
    vec![
        format!(
            "--service-account-private-key-file={}",
            service_account_key(directory).display()
        ),
        format!("--root-ca-file={}", authority(directory).display()),
        "--use-service-account-credentials=true".to_owned(),
        // The default is a folder below /usr, and kube-controller-manager would create it.
        format!(
            "--flex-volume-plugin-dir={}",
            directory.join("volume-plugins").display()
        ),
    ]
}

/// Writes the files `<name>.kubeconfig` and `<name>.token`. The kubeconfig names the token file.
pub(super) fn write_kubeconfig(
    directory: &Path,
    name: &str,
    server: SocketAddr,
    token: &str,
) -> Result<PathBuf> {
    let token_file = directory.join(format!("{name}.token"));
    fs::write(&token_file, token)
        .with_context(|| format!("cannot write {}", token_file.display()))?;
    let kubeconfig = directory.join(format!("{name}.kubeconfig"));
    let text = format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: lab\n  cluster:\n    server: https://{server}\n    certificate-authority: {authority}\n\
         users:\n\
         - name: {name}\n  user:\n    tokenFile: {token_file}\n\
         contexts:\n\
         - name: lab\n  context:\n    cluster: lab\n    user: {name}\n\
         current-context: lab\n",
        authority = authority(directory).display(),
        token_file = token_file.display(),
    );
    fs::write(&kubeconfig, text)
        .with_context(|| format!("cannot write {}", kubeconfig.display()))?;
    Ok(kubeconfig)
}

fn service_account_key(directory: &Path) -> PathBuf {
    directory.join("service-account.key")
}
