//! `fleet`: shows the nodes of the daemon's fleet, and carries out what an operator decides about
//! it.

use std::io::Write;

use clap::Subcommand;
use hyper::Method;
use serde_json::Value;

use super::failure::{Failure, RequestError};
use super::print::plain;
use super::request::{Api, Ask, PATIENCE};
use super::{print, print_json};

/// Questions about a fleet.
#[derive(Subcommand, Debug, Clone, Copy)]
pub enum FleetCommand {
    /// Print the nodes, and how far each is
    Status,
    /// Make this node's table everybody's, after etcd was lost or restored from a backup
    Init {
        /// Required: the tables of all other nodes are replaced by that of this one
        #[arg(long, required = true)]
        from_here: bool,
    },
    /// Give this node's table up for that of the fleet, after etcd was lost or restored from a
    /// backup
    Join,
    /// Make a single node of this one, with the table that it has
    Leave,
}

pub async fn run(api: &Api, command: FleetCommand, json: bool) -> Result<(), Failure> {
    let step = match command {
        FleetCommand::Status => return status(api, json).await,
        FleetCommand::Init { .. } => "init",
        FleetCommand::Join => "join",
        FleetCommand::Leave => "leave",
    };
    let ask = Ask {
        method: Method::POST,
        target: format!("/fleet/{step}"),
        body: None,
        if_match: None,
        patience: PATIENCE,
    };
    let answer = api.fetch(ask).await.map_err(RequestError::of_change)?;
    if json { print_json(&answer.body) } else { Ok(()) }
}

async fn status(api: &Api, json: bool) -> Result<(), Failure> {
    let answer = api.fetch(Ask::get("/fleet/")).await?;
    if json {
        return print_json(&answer.body);
    }
    let fleet = answer.value()?;
    if fleet.is_null() {
        return Err(Failure::Other("the daemon is in no fleet".to_owned()));
    }
    print(|out| out.write_all(table(&fleet).as_bytes()))
}

/// The fleet for people: one line for the fleet, and one for each node.
fn table(fleet: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => plain(text),
        other => other.to_string(),
    };
    let state = match (&fleet["lost"], fleet["connected"] == true) {
        (Value::String(why), _) => format!("LOST: {}", plain(why)),
        (_, true) => "connected".to_owned(),
        (_, false) => "etcd is out of reach: changes are refused".to_owned(),
    };
    let mut lines = format!(
        "fleet {} at {}, asked of {}: {state}\n",
        text(&fleet["fleet"]),
        fleet["sequence"],
        text(&fleet["node"])
    );
    let head = ["NODE", "SEQUENCE", "AGE", "HELD", "CONNECTIONS", "REQUESTS/S", "VERSION", "URL"];
    let nodes = fleet["nodes"].as_object().into_iter().flatten();
    let rows = nodes.map(|(name, node)| {
        let number = |key: &str| node[key].to_string();
        [
            plain(name),
            number("sequence"),
            format!("{}s", node["age"]),
            number("held"),
            number("connections"),
            number("requests_per_second"),
            text(&node["version"]),
            text(&node["url"]),
        ]
    });
    let rows: Vec<[String; 8]> = [head.map(str::to_owned)].into_iter().chain(rows).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        lines.push_str(line.trim_end());
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_has_a_line() {
        let fleet = json!({
            "fleet": "prod", "node": "a", "sequence": 7, "connected": true, "lost": null,
            "nodes": {"a": {"sequence": 7, "age": 1.5, "held": 0, "connections": 3,
                "requests_per_second": 2.5, "version": "1", "url": "http://a:8042"}},
        });
        let shown = table(&fleet);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "fleet prod at 7, asked of a: connected");
        assert!(lines[1].starts_with("NODE  SEQUENCE  AGE"), "{shown}");
        assert!(lines[2].starts_with("a     7         1.5s"), "{shown}");
        assert!(lines[2].ends_with("http://a:8042"), "{shown}");
    }
}
