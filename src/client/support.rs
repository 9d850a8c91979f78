//! `support`: writes a folder of facts for people who help. It is a folder and no archive, so that
//! the operator looks through it first.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::failure::{Failure, RequestError};
use super::print;
use super::request::{Api, Ask};

/// Makes the folder, which must not be there yet.
pub async fn support(api: &Api, folder: Option<PathBuf>, json: bool) -> Result<(), Failure> {
    let facts = api.fetch(Ask::get("/support")).await?.value()?;
    let metrics = metrics(api).await?;
    let folder = folder.unwrap_or_else(named_by_time);
    DirBuilder::new().mode(0o700).create(&folder).map_err(|error| failed(&folder, &error))?;
    let put = |name: &str, content: &str| put(&folder.join(name), content);
    put("version.txt", &version(&facts))?;
    put("configuration.txt", &configuration(&facts))?;
    put("limits.txt", facts["limits"].as_str().unwrap_or_default())?;
    put("rules.json", &pretty(&facts["rules"]))?;
    put("log.txt", &lines(&facts["log"]))?;
    put("metrics.txt", &metrics)?;
    for (name, target) in
        [("health.json", "/healthz"), ("ready.json", "/readyz"), ("fleet.json", "/fleet/")]
    {
        // A refusal is a fact for the folder, too.
        let told = match api.fetch(Ask::get(target)).await {
            Ok(answer) => answer.value()?,
            Err(RequestError::Refused { status, message, .. }) => {
                json!({ "status": status.as_u16(), "message": message })
            }
            Err(error) => return Err(error.into()),
        };
        put(name, &pretty(&told))?;
    }
    let shown = folder.display().to_string();
    if json {
        return super::print_json(json!({ "ok": true, "folder": shown }).to_string().as_bytes());
    }
    super::print(|out| {
        writeln!(
            out,
            "{shown}: look through it before you pass it on: metrics.txt and log.txt name hosts and \
             addresses. Tokens and rules are not in it"
        )
    })
}

fn named_by_time() -> PathBuf {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("mantrid-support-{}", now.as_secs()).into()
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Other(format!("{}: {error}", path.display()))
}

fn put(path: &Path, content: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(content.as_bytes()));
    written.map_err(|error| failed(path, &error))
}

async fn metrics(api: &Api) -> Result<String, Failure> {
    let mut answer = api.ask(Ask::get("/metrics"), "text/plain").await?;
    let mut bytes = Vec::new();
    while let Some(piece) = answer.piece().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn version(facts: &Value) -> String {
    let text = |name: &str| print::plain(facts[name].as_str().unwrap_or_default());
    format!(
        "mantrid {}\nmantrid-client {}\nLinux {}\n{} shards\nstarted {} (seconds since 1970)\n",
        text("version"),
        env!("CARGO_PKG_VERSION"),
        text("kernel"),
        facts["shards"],
        facts["started"]
    )
}

fn configuration(facts: &Value) -> String {
    let written = facts["configuration"].as_array().into_iter().flatten();
    let line = |pair: &Value| {
        let [key, value] = [0, 1].map(|at| print::plain(pair[at].as_str().unwrap_or_default()));
        format!("{key} = {value}\n")
    };
    let lines: String = written.map(line).collect();
    format!("# As written; every other key has its default\n{lines}")
}

fn lines(list: &Value) -> String {
    let list = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    list.map(|line| format!("{}\n", print::plain(line))).collect()
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
