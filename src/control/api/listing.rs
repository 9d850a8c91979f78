//! `GET /hostname/`: every rule, or a page of the rules that match, sorted by name. A large table
//! is written on another thread while it is being sent, so that a million rules are never in memory
//! as one text.

use std::io::{self, Write};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::response::Response;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::asker::Asker;
use super::error::ApiError;
use super::ranking::{HostChoice, HostOrder, HostSources, ORDERING, SELECTING};
use super::route::Query;
use super::{Api, read, tagged, tell_counts};
use crate::control::grant::Grant;
use crate::control::statistics::{Chosen, by_name};
use crate::limits;
use crate::link::TaggedTable;
use crate::table::{Rule, Snapshot};

/// Page of the rules that a request asks for.
struct Page {
    choice: HostChoice,
    after: Option<String>,
    limit: usize,
    sources: HostSources,
}

impl Page {
    fn of(query: &Query<'_>, grant: Arc<Grant>, sources: HostSources) -> Result<Page, ApiError> {
        Ok(Page {
            choice: HostChoice::of(query, grant)?,
            after: query.get("after").map(str::to_owned),
            limit: query.count("limit", usize::MAX)?.unwrap_or(usize::MAX),
            sources,
        })
    }

    fn select<'t>(&self, table: &'t Snapshot) -> Chosen<'t> {
        let wanted = self.choice.look_up(&self.sources, table);
        by_name(table, (self.after.as_deref(), self.limit), &wanted)
    }
}

pub(super) async fn answer(api: &Api, parts: &Parts, asker: &Asker) -> Result<Response, ApiError> {
    let known = [&["after", "host"][..], &SELECTING, &ORDERING].concat();
    let query = Query::of(parts.uri.query(), &known)?;
    let current = api.current();
    if query.get("host").is_some() {
        return of_named(&query, asker, &current);
    }
    if query.get("sort").is_some() {
        return in_order(api, &query, asker, current).await;
    }
    let page = Page::of(&query, asker.grant.clone(), api.host_sources())?;
    let (counts, body) = if current.table.len() <= limits::LISTED_HERE_MAX {
        let chosen = page.select(&current.table);
        (counts_of(&chosen), Body::from(text_of(&current.table, &chosen.names)))
    } else {
        streamed(current.table.clone(), page).await?
    };
    let mut response = tagged(current.tag, body);
    tell_counts(&mut response, counts);
    Ok(response)
}

/// Returns how many rules match, on all pages together, and how many the client may see.
fn counts_of(chosen: &Chosen<'_>) -> [usize; 2] {
    [chosen.matched, chosen.rules]
}

fn text_of(table: &Snapshot, names: &[&str]) -> Vec<u8> {
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = write(table, names, &mut text);
    text
}

/// Lists the rules of the hosts that the query names, all from one table; `null` for a host without
/// a rule.
fn of_named(query: &Query<'_>, asker: &Asker, current: &TaggedTable) -> Result<Response, ApiError> {
    let choosing = [&["after"][..], &SELECTING, &ORDERING].concat();
    let names = read::hosts(query, &choosing, &asker.grant)?;
    let rule = |name: &String| current.table.get(name).map_or(Value::Null, Rule::to_json);
    let rules: Map<String, Value> = names.iter().map(|name| (name.clone(), rule(name))).collect();
    Ok(tagged(current.tag, format!("{}\n", Value::Object(rules))))
}

/// Lists the rules of the hosts that come first in an order.
async fn in_order(
    api: &Api,
    query: &Query<'_>,
    asker: &Asker,
    current: Arc<TaggedTable>,
) -> Result<Response, ApiError> {
    if query.get("after").is_some() {
        let message = "after: expected without sort, whose order changes all the time";
        return Err(ApiError::bad("query_invalid", message));
    }
    let order = HostOrder::of(query, asker.grant.clone())?;
    let (tag, sources) = (current.tag, api.host_sources());
    let listed = tokio::task::spawn_blocking(move || {
        let chosen = order.choose(&sources, &current.table);
        (text_of(&current.table, &chosen.names), counts_of(&chosen))
    });
    let (text, counts) =
        listed.await.map_err(|_| ApiError::busy("listing the rules was given up"))?;
    let mut response = tagged(tag, text);
    tell_counts(&mut response, counts);
    Ok(response)
}

/// Lists the rules on a thread that may block.
async fn streamed(table: Snapshot, page: Page) -> Result<([usize; 2], Body), ApiError> {
    let (told, count) = tokio::sync::oneshot::channel();
    let (pieces, body) = mpsc::channel::<io::Result<Bytes>>(4);
    tokio::task::spawn_blocking(move || {
        let chosen = page.select(&table);
        let _ = told.send(counts_of(&chosen));
        let mut out = io::BufWriter::with_capacity(limits::LISTING_PIECE_BYTES, Pieces(pieces));
        // An error means that the reader has gone.
        let _ = write(&table, &chosen.names, &mut out).and_then(|()| out.flush());
    });
    let counts = count.await.map_err(|_| ApiError::busy("listing the rules was given up"))?;
    Ok((counts, Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(body))))
}

/// Writer that passes the bytes to the response, and blocks while the reader is slow.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Ok(Bytes::copy_from_slice(bytes));
        self.0.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(table: &Snapshot, names: &[&str], out: &mut impl Write) -> io::Result<()> {
    let mut separator = "{";
    for name in names {
        let Some(rule) = table.get(name) else { continue };
        out.write_all(separator.as_bytes())?;
        separator = ",";
        serde_json::to_writer(&mut *out, name)?;
        out.write_all(b":")?;
        serde_json::to_writer(&mut *out, &rule.to_json())?;
    }
    out.write_all(if separator == "{" { b"{}\n" } else { b"}\n" })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;
    use crate::control::statistics::Statistics;
    use crate::http::Pages;
    use crate::link::{self, Own, Published, Tag, Tuning};
    use crate::table::{Names, edit};

    fn table(names: &[&str]) -> Snapshot {
        let rule = |name: &str| {
            let action = if name.starts_with('s') { "spin" } else { "unknown" };
            Rule::from_json(name, &json!([action, {}, false]), &mut Names::default())
                .expect("a rule")
        };
        let edits = names.iter().map(|name| ((*name).to_owned(), Some(rule(name)))).collect();
        edit(&Snapshot::default(), edits).expect("a table")
    }

    fn listed(table: &Snapshot, query: &str) -> (Vec<String>, usize) {
        let known = [&["after"][..], &SELECTING, &ORDERING].concat();
        let query = Query::of(Some(query), &known).expect("a query");
        let tagged = TaggedTable { table: table.clone(), tag: Tag::of_start(0) };
        let published = Published::new(tagged, Pages::builtin(), Tuning::default(), Own::default());
        let (control, shards, _) = link::connect(published, 1).expect("eventfds");
        let statistics = Arc::new(Mutex::new(Statistics::new(control, table, &[])));
        let sources = HostSources { statistics, published: shards[0].published.clone() };
        let page = Page::of(&query, Arc::new(Grant::EVERYTHING), sources).expect("a query");
        let chosen = page.select(table);
        let text = text_of(table, &chosen.names);
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        (value.as_object().expect("an object").keys().cloned().collect(), chosen.matched)
    }

    #[test]
    fn pages_follow_each_other_in_order() {
        let table = table(&["b.com", "a.com", "s1.org", "s2.org", "c.com", "http://a.com"]);
        assert_eq!(
            listed(&table, "").0,
            ["a.com", "b.com", "c.com", "http://a.com", "s1.org", "s2.org"]
        );
        assert_eq!(listed(&table, "limit=2"), (vec!["a.com".into(), "b.com".into()], 6));
        assert_eq!(listed(&table, "limit=2&after=b.com").0, ["c.com", "http://a.com"]);
        assert_eq!(
            listed(&table, "search=A.COM"),
            (vec!["a.com".into(), "http://a.com".into()], 2)
        );
        assert_eq!(listed(&table, "action=spin&limit=1"), (vec!["s1.org".into()], 2));
        assert_eq!(listed(&table, "limit=0"), (vec![], 6));
        assert_eq!(listed(&table, "after=zzz"), (vec![], 6));
    }
}
